"""Compiled steps against the full forward, how many graphs they are made of, and what happens without a compiler."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maha_model import CausalLM, DecodingState
from tests.maha_model.test_causality import VOCABULARY, build

SPANS: dict[str, Any] = {"span": 4, "num_scales": 2}
DESCENT: dict[str, Any] = {"descent": 2, "query": "fine", "positions": "token", "span": 3, "num_scales": 2}
STANDARD: dict[str, Any] = {"attention": "standard"}


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    """A lost compiled step is a warning, and with it these tests would pass without one."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "decoding")
        yield


def one_layer(**fields: Any) -> CausalLM:
    model = build(0, **fields)
    del model.transformer.blocks[1:]
    return model


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def difference(state: DecodingState, ids_BN: Tensor) -> float:
    """Of the logits after every token from those of the full forward, relative to the largest."""
    with torch.no_grad():
        full = state.model(ids_BN).logits[:, state.position :]
    found = torch.stack([state.step(ids_B) for ids_B in ids_BN[:, state.position :].unbind(1)], 1)
    return ((found - full).abs().max() / full.abs().max()).item()


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        (SPANS | {"gating": True}, 2),
        (DESCENT, 2),
        ({**DESCENT, "choice": "index", "index_dim": 4}, 2),
        (STANDARD, 1),
    ],
    ids=["spans", "descent", "index", "standard"],
)
def test_compiled_steps_give_the_logits_of_the_full_forward(fields: dict[str, Any], kinds: int) -> None:
    """One graph for each number of scales that finish a token, also when a growing cache is doubled, here twice."""
    model, ids = one_layer(**fields), torch.randint(VOCABULARY, (2, 150))
    state, before = DecodingState(model, 2, compile=True), graphs()
    assert difference(state, ids[:, :70]) <= 1e-10
    copied = copy.deepcopy(state)
    assert difference(state, ids) <= 1e-10
    assert difference(copied, ids) <= 1e-10
    prompted = DecodingState(model, 2, compile=True)
    prompted.prefill(ids[:, :50])
    assert difference(prompted, ids[:, :80]) <= 1e-10
    assert graphs() == before + kinds


def test_steps_are_compiled_again_for_other_rows_and_for_a_changed_model() -> None:
    model, ids = one_layer(**STANDARD), torch.randint(VOCABULARY, (3, 40))
    state, before = DecodingState(model, 3, compile=True), graphs()
    assert difference(state, ids[:, :20]) <= 1e-10
    state.select(torch.tensor([2, 0]))
    assert difference(state, ids[[2, 0]]) <= 1e-10
    ffn = model.transformer.blocks[0].ffn
    ffn.down = nn.Sequential(ffn.down, nn.Tanh())
    assert difference(DecodingState(model, 2, compile=True), ids[:2, :30]) <= 1e-10
    assert graphs() == before + 3


def test_seldom_steps_and_those_before_all_scales_have_a_token_are_not_compiled() -> None:
    model, before = one_layer(span=4, num_scales=3, ratio=8), graphs()
    state = DecodingState(model, compile=True)
    state.prefill(torch.zeros(1, 50, dtype=torch.int64))
    for _ in range(13):  # to token 63
        state.step(torch.zeros(1, dtype=torch.int64))
    assert graphs() == before
    state.step(torch.zeros(1, dtype=torch.int64))  # token 64 finishes one of every scale: once in 64
    assert graphs() == before


def test_without_a_compiler_steps_run_uncompiled_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, ids = one_layer(**STANDARD), torch.randint(VOCABULARY, (1, 30))
    lost = pytest.warns(RuntimeWarning, match=r"could not be compiled .*C\+\+ compiler")
    with config.patch({"cpp.cxx": (str(tmp_path / "none"),)}), lost:
        assert difference(DecodingState(model, compile=True), ids) <= 1e-10
    assert difference(DecodingState(model, compile=True), ids) <= 1e-10  # a second warning would be an error
