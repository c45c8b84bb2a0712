"""The loss: torch's value and gradient, in less memory."""

import pytest
import torch

from maha_model.kernels.cross_entropy import cross_entropy, reference
from maha_model.kernels.cross_entropy import operator as module
from pretrain.memory import LiveBytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 40, 2**22])
def test_it_is_torchs_loss_and_gradient(dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    torch.manual_seed(0)
    logits = (30 * torch.randn(23, 17)).to(dtype).requires_grad_()
    targets = torch.randint(17, (23,))
    targets[::5] = -100
    expected = reference.cross_entropy(logits, targets, -100)
    loss = cross_entropy(logits, targets, -100)
    assert loss.dtype == expected.dtype
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(3 * value, logits)[0] for value in (loss, expected)]
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(*gradients)
    assert not gradients[0][::5].any()


def test_without_a_scored_position_it_is_nan_and_a_target_that_is_no_token_is_refused() -> None:
    logits = torch.randn(3, 5)
    assert cross_entropy(logits, torch.full((3,), -100), -100).isnan()
    with pytest.raises(RuntimeError):
        cross_entropy(logits, torch.tensor([1, 2, 5]), -100)


def test_it_compiles_whole() -> None:
    logits, targets = torch.randn(9, 5, requires_grad=True), torch.randint(5, (9,))
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(logits, targets, -100), logits)[0] for f in (compiled, cross_entropy)]
    torch.testing.assert_close(*gradients)


def test_only_the_gradient_has_the_logits_size() -> None:
    logits = torch.randn(2000, 5000).bfloat16().requires_grad_()
    targets = torch.randint(5000, (2000,))
    size = logits.untyped_storage().nbytes()
    with LiveBytes([logits, targets]) as live:
        cross_entropy(logits, targets, -100).backward()
    assert live.peak < 2 * size + 4 * 4 * module.CHUNK
