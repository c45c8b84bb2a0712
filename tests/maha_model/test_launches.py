"""What a GPU has to launch for a layer, and where it would make the host wait: counted without one."""

import contextlib

import pytest
import torch

from maha_model import CausalLM, DecodingState, ModelConfig
from maha_model.launches import Launches, count_block
from maha_model.launches.__main__ import BLOCKS


def test_a_maha_layer_launches_little() -> None:
    """As many as docs/performance.md says, and MAHA at most twice the Transformer's, rounded up."""
    pytest.importorskip("triton")
    totals = {name: count_block(ModelConfig.named("paper", **options)).total for name, options in BLOCKS.items()}
    assert totals["MAHA"] <= 65
    assert totals["MAHA, descent"] <= 124
    assert totals["MAHA, index"] <= 179
    assert totals["Transformer"] <= 29


@pytest.mark.parametrize("policy", ["none", "selective", "block"])
@pytest.mark.parametrize("options", [*BLOCKS.values(), {"gating": True, "dilation": 1}, {"decomposition": "max_pool"},
                                     {"aggregation": {"strategy": "softmax"}}])  # fmt: skip
def test_a_training_pass_copies_nothing_from_the_host_and_reads_nothing_back(options: dict, policy: str) -> None:
    """The batch lies on the device and the loss is read by the trainer: between them nothing waits."""
    pytest.importorskip("triton")
    config = ModelConfig.named("sample", vocab_size=512, **{**options, "num_layers": 2})
    with torch.device("meta"):
        model = CausalLM(config)
        model.activation_checkpointing = policy
        ids = torch.zeros(2, 512, dtype=torch.long)
    with Launches() as counted:
        loss = model(ids, ids).loss
        (loss * (1 + 0 * loss.detach())).backward()
    assert not counted.waits


@pytest.mark.parametrize("options", [*BLOCKS.values(), {"gating": True, "dilation": 1}, {"query": "fine"}])
def test_a_decoding_step_reads_nothing_back(options: dict) -> None:
    """So that it can be captured as a CUDA graph; the places of the token are set before it."""
    pytest.importorskip("triton")
    config = ModelConfig.named("sample", vocab_size=512, **{**options, "num_layers": 2})
    with torch.device("meta"):
        model, prompt, token = CausalLM(config), torch.zeros(2, 300, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        with Launches() as counted:
            state = DecodingState(model, 2)
            state.prefill(prompt)
            for _ in range(20):
                state.step(token)
    assert not counted.waits


WAITS = {
    "a value": (lambda x: torch.ops.aten.nonzero(x), "nonzero"),
    "a tensor of a list": (lambda x: x.new_tensor([1.0, 2.0]), "new_tensor"),
    "another": (lambda x: torch.tensor([1.0], device=x.device), "tensor"),
    "a copy": (lambda x: torch.ones(3).to(x.device), "_to_copy"),
    "a copy of pageable memory": (lambda x: torch.ones(3).to(x.device, non_blocking=True), "_to_copy"),
    "a copy into": (lambda x: x.copy_(torch.ones(3)), "copy_"),
    "a copy of pageable memory into": (lambda x: x.copy_(torch.ones(3), non_blocking=True), "copy_"),
    "a copy back": (lambda x: x.cpu(), "_to_copy"),
    "rows of a mask": (lambda x: x[x > 0], "index"),
    "rows of the host's places": (lambda x: x[torch.zeros(3, dtype=torch.long)], "index"),
    "rows of a mask set": (lambda x: torch.ops.aten.index_put_(x, [x > 0], x[:2]), "index_put_"),
    "a copy with rows of a mask set": (lambda x: torch.index_put(x, (x > 0,), x[:2]), "index_put"),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_seen(name: str) -> None:
    function, operation = WAITS[name]
    x = torch.empty(3, device="meta")
    # an operation whose size depends on values fails where there are none
    with Launches() as counted, contextlib.suppress(NotImplementedError):
        function(x)
    assert counted.waits[operation] == 1


def test_what_does_not_wait_is_not_taken_for_a_wait() -> None:
    x, places = torch.empty(3, device="meta"), torch.empty(3, dtype=torch.long, device="meta")
    host = torch.ones(3)
    with Launches() as counted:
        torch.index_put(x[places], (places,), x.masked_fill(x > 0, 1))
        torch.where(x > 0, x, 0).to(torch.bfloat16).copy_(x)
        host[host > 0].to(torch.float64).copy_(host)
    assert not counted.waits


def test_views_and_reserved_memory_are_not_launches() -> None:
    x = torch.empty(4, 6, device="meta")
    with Launches() as counted:
        torch.empty_like(x.view(24).unflatten(0, (2, 12)).transpose(0, 1)[1:])
        x[:, 6:].zero_()
    assert counted.total == 0
    with Launches() as counted:
        x.reshape(6, 4).T.contiguous().add_(1)
    assert counted.operations == {"clone": 1, "add_": 1}
