"""The scales' game (paper eq. 8, well-posed as in docs/model.md): its exploitability and best-response dynamics.

Player l picks w_l in [0, 1] to minimise J_l(w) = 1/2 w'Qw - p_l w_l - (terms without w_l), whose derivative is
(Qw - p)_l. With Q symmetric positive definite this is a potential game with one equilibrium, the box QP's minimiser.
Layout as in kernels.qp: Q (L, L, ...), p and w (L, ...).
"""

import torch
from torch import Tensor


def best_response(Q: Tensor, p: Tensor, present: Tensor, sweeps: int) -> Tensor:
    """Weights (L, ...) after `sweeps` rounds of exact best responses in turn from zero, differentiated by unrolling."""
    w = [torch.zeros_like(p_i) for p_i in p]
    for _ in range(sweeps):
        for i in range(len(w)):
            others = sum((Q[i, k] * w[k] for k in range(len(w)) if k != i), start=torch.zeros_like(p[i]))
            w[i] = ((p[i] - others) / Q[i, i]).clamp(0, 1) * present[i]
    return torch.stack(w)


def exploitability(Q: Tensor, p: Tensor, w: Tensor, present: Tensor | None = None) -> Tensor:
    """max_l (J_l(w) - min over w_l in [0, 1] of J_l): (...), zero exactly at the Nash equilibrium."""
    diagonal = Q.diagonal(dim1=0, dim2=1).movedim(-1, 0)
    gradient = (Q * w).sum(1) - p
    best = (w - gradient / diagonal).clamp(0, 1)
    step = best - w
    gain = -(gradient * step + 0.5 * diagonal * step * step)
    if present is not None:
        gain = torch.where(present, gain, 0)
    return gain.amax(0).clamp(min=0)
