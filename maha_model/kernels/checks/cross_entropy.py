"""The loss against its definition."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.cross_entropy import cross_entropy
from maha_model.kernels.cross_entropy.reference import cross_entropy as definition

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}
IGNORED = -100


def check_cross_entropy(device: str, dtype: torch.dtype, positions: int, vocabulary: int) -> Agreement:
    """Loss and gradient of the logits, every fifth position without a target."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (8 * torch.randn(positions, vocabulary, generator=generator)).to(device, dtype).requires_grad_()
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    targets[::5] = IGNORED
    targets, wide = targets.to(device), logits.detach().double().requires_grad_()
    loss, wanted = cross_entropy(logits, targets, IGNORED), definition(wide, targets, IGNORED)
    errors = {
        "loss": relative_error(loss.detach(), wanted.detach()),
        "grad logits": relative_error(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(wanted, wide)[0]),
    }
    return Agreement(f"{dtype_name(dtype)} P={positions} V={vocabulary}", errors, TOLERANCES[dtype])
