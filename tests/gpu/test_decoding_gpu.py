"""Decoding as CUDA graphs on a GPU."""

import copy
from typing import Any

import pytest
import torch

from maha_model import CausalLM, DecodingState, ModelConfig
from maha_model.inference import compiled as compiled_steps

pytestmark = pytest.mark.gpu
MODELS: dict[str, dict[str, Any]] = {
    "spans": {"span": 32, "num_scales": 3},
    "descent": {"descent": 4, "query": "fine", "positions": "token", "span": 32, "num_scales": 4},
    "index": {"descent": 4, "choice": "index", "query": "fine", "positions": "token", "span": 32, "num_scales": 2},
    "standard": {"attention": "standard"},
    "longformer": {"attention": "longformer", "span": 32},
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_captured_steps_have_the_logits_of_steps_as_they_are(
    name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, also beyond 512 tokens, where growing caches are doubled, of a copy and of other rows."""
    if not compiled:  # graphs alone: a fault of theirs is told from one of torch.compile
        monkeypatch.setattr(compiled_steps, "_compile", lambda step: step)
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64, context_length=1024, d_model=128, num_layers=2, num_heads=2, d_ff=64, init_std=0.1,
        **MODELS[name],
    )  # fmt: skip
    model = CausalLM(config).cuda().eval()
    ids = torch.randint(64, (3, 600), device="cuda")
    captured, plain = (DecodingState(model, 3, compile=compile) for compile in (True, False))

    def agree(first: DecodingState, second: DecodingState, ids: torch.Tensor) -> None:
        found, wanted = ([state.step(ids_B) for ids_B in ids.unbind(1)] for state in (first, second))
        difference = (torch.stack(found) - torch.stack(wanted)).abs()
        # a descent may choose another of two tokens that are the same to rounding
        assert (difference.quantile(0.99) if name in ("descent", "index") else difference.max()) <= 1e-3

    for state in (captured, plain):
        state.prefill(ids[:, :300])
    agree(captured, plain, ids[:, 300:560])
    graphs = captured._captured
    assert graphs is not None
    assert any(graphs._kinds.values())
    copied = copy.deepcopy(captured)
    agree(copied, copy.deepcopy(plain), ids[:, 560:580])
    agree(captured, plain, ids[:, 560:580])
    for state in (captured, plain):
        state.select(torch.tensor([2, 0], device="cuda"))
    agree(captured, plain, ids[[2, 0], 580:])
