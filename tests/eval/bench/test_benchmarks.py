"""The instruments of the benchmarks: live bytes, limits, counted multiply-adds, exponents."""

import json

import pytest
import torch

from eval.bench import generation
from eval.bench.attention import ScoreCounter, build, exponent
from eval.bench.criteria import Figure, best_times, print_report
from eval.bench.eager_attention import EagerAttention
from maha_model.kernels.span import scores_computed


def test_figures_keep_their_limits() -> None:
    assert Figure("", 1.0, 1.1).passed
    assert not Figure("", 1.2, 1.1).passed
    assert Figure("", 1.2, 1.1, at_least=True).passed
    assert not Figure("", float("nan"), 1.1).passed
    assert Figure("a", 1.2, 1.1).to_dict() == {"name": "a", "value": 1.2, "limit": "<= 1.1", "pass": False}


def test_functions_take_turns() -> None:
    order: list[str] = []
    best_times({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, most=2)
    assert order == ["a", "b"] * 3


def test_json_alone_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(["a table"], [Figure("a", 1, 2)], {"rows": []}, as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["figures"][0]["pass"] is True
    assert "a table" in captured.err


def test_score_multiply_adds_are_counted_from_what_runs() -> None:
    N, counts = 512, {}
    for name in ("maha", "sdpa", "eager", "longformer"):
        with torch.no_grad(), ScoreCounter() as counter:
            build(name)(torch.randn(1, N, 256))
        counts[name] = counter.multiply_adds
    assert counts["eager"] == 4 * 64 * N * N
    assert counts["sdpa"] == 4 * 64 * scores_computed(N, N)
    assert counts["longformer"] == 4 * 64 * scores_computed(N, 128)
    assert counts["maha"] >= 4 * 16 * sum(scores_computed(N >> level, 128) for level in range(2))


def test_the_eager_peer_computes_the_same_as_the_fused_one() -> None:
    x = torch.randn(1, 50, 256)
    eager, fused = build("eager"), build("sdpa")
    assert isinstance(eager.attention, EagerAttention)
    eager.load_state_dict(fused.state_dict())
    torch.testing.assert_close(eager(x)[0], fused(x)[0], rtol=1e-4, atol=1e-5)


def test_the_exponent_is_fitted_from_4k_on() -> None:
    rows = [{"model": "m", "length": n, "seconds": n**1.5} for n in (4096, 8192, 16384)]
    rows.append({"model": "m", "length": 1024, "seconds": 1e9})
    assert exponent(rows, "m", "seconds") == pytest.approx(1.5)


def test_long_decoding_is_compared_with_the_full_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PART", 64)
    model = generation.build("maha")
    result = generation.decode_long(model, generation.random_ids(model, 256))
    assert result["state_bytes"].keys() == result["tokens_per_s"].keys() == {64, 128, 256}
    assert len(set(result["state_bytes"].values())) == 1
    assert result["logits_compared"] == 4 + 2 * 64
    assert 0 < result["logit_difference"] <= 1e-5 * result["largest_logit"]


def test_a_typical_token_is_the_median_over_periods() -> None:
    assert generation.typical([1, 3, 1, 3, 1, 99, 2, 2], 2) == 2
