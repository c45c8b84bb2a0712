"""The instruments of the attention benchmark: counted multiply-adds, exponents."""

import pytest
import torch

from eval.bench.attention import ScoreCounter, build, exponent
from eval.bench.eager_attention import EagerAttention
from maha_model.kernels.span import scores_computed


def test_score_multiply_adds_are_counted_from_what_runs() -> None:
    N, counts = 512, {}
    for name in ("maha", "descent", "index", "sdpa", "eager", "longformer"):
        with torch.no_grad(), ScoreCounter() as counter:
            build(name, N)(torch.randn(1, N, 256))
        counts[name] = counter.multiply_adds
    assert counts["eager"] == 4 * 64 * N * N
    assert counts["sdpa"] == 4 * 64 * scores_computed(N, N)
    assert counts["longformer"] == 4 * 64 * scores_computed(N, 128)
    assert counts["longformer"] < counts["descent"] < counts["sdpa"]
    assert counts["longformer"] < counts["index"] < counts["sdpa"]
    assert counts["maha"] >= 4 * 16 * sum(scores_computed(N >> level, 128) for level in range(2))


def test_the_eager_peer_computes_the_same_as_the_fused_one() -> None:
    x = torch.randn(1, 50, 256)
    eager, fused = build("eager", 50), build("sdpa", 50)
    assert isinstance(eager.attention, EagerAttention)
    eager.load_state_dict(fused.state_dict())
    torch.testing.assert_close(eager(x)[0], fused(x)[0], rtol=1e-4, atol=1e-5)


def test_the_exponent_is_fitted_from_4k_on() -> None:
    rows = [{"model": "m", "length": n, "seconds": n**1.5} for n in (4096, 8192, 16384)]
    rows.append({"model": "m", "length": 1024, "seconds": 1e9})
    assert exponent(rows, "m", "seconds") == pytest.approx(1.5)
