"""Documents of a batch set apart on a GPU."""

import itertools
from typing import Any

import pytest
import torch

from maha_model import CausalLM, Documents, ModelConfig

pytestmark = pytest.mark.gpu
LENGTHS = [[1, 300, 77, 646], [1024], [511, 1, 1, 500, 11]]
DESCENT = {"descent": 4, "query": "fine", "positions": "token"}


@pytest.mark.parametrize(
    "fields", [{}, DESCENT, {"attention": "standard"}, {"attention": "longformer", "dilation": 1}], ids=str
)
def test_logits_are_those_of_each_document_alone(fields: dict[str, Any]) -> None:
    """In bfloat16, whose kernels are the fast ones."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64, context_length=1024, d_model=128, num_layers=2, num_heads=2, d_ff=64, init_std=0.1,
        local_activation="none", **fields,
    )  # fmt: skip
    model = CausalLM(config).to("cuda", torch.bfloat16)
    ids = torch.randint(64, (3, 1024), device="cuda")
    documents = Documents.of(LENGTHS, config.context_unit).to(ids.device, pinned=True)
    together = model(ids, documents=documents).logits.float()
    together.sum().backward()
    for row, window in enumerate(LENGTHS):
        for end, length in zip(itertools.accumulate(window), window, strict=True):
            alone = model(ids[row, end - length : end][None]).logits[0].float()
            # on average: by its rounding a descent may choose other tokens here and there
            assert (together[row, end - length : end] - alone).abs().mean() <= 3e-2 * alone.abs().mean()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_nothing_waits_for_the_gpu() -> None:
    x = torch.randn(3, 1024, 8, device="cuda", requires_grad=True)
    batch = Documents.of(LENGTHS)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        documents = batch.to(x.device, pinned=True)
        documents.map_apart(lambda x_RMD, _: x_RMD * 2, x).backward(torch.ones_like(x))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 2))
