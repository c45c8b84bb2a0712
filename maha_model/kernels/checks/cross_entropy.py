"""The language model's head and loss against their definition."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.cross_entropy import linear_cross_entropy, reference

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}
IGNORED = -100
WIDTH = 32


def check_cross_entropy(device: str, dtype: torch.dtype, positions: int, vocabulary: int) -> Agreement:
    """Loss and gradients of hidden states and weights, every fifth position without a target."""
    generator = torch.Generator().manual_seed(vocabulary)
    # logits of about 1: of large ones bfloat16 keeps too little for any tolerance
    hidden, weight = (
        (torch.randn(rows, WIDTH, generator=generator) * scale).to(device, dtype).requires_grad_()
        for rows, scale in ((positions, 1.0), (vocabulary, WIDTH**-0.5))
    )
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    targets[::5] = IGNORED
    targets = targets.to(device)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    loss = linear_cross_entropy(hidden, weight, targets, IGNORED)
    wanted = reference.linear_cross_entropy(wide[0], wide[1], targets, IGNORED)
    gradients = zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(wanted, wide), strict=True)
    errors = {"loss": relative_error(loss.detach(), wanted.detach())}
    errors |= {
        f"grad {name}": relative_error(*pair) for name, pair in zip(("hidden", "weight"), gradients, strict=True)
    }
    return Agreement(f"{dtype_name(dtype)} P={positions} V={vocabulary}", errors, TOLERANCES[dtype])
