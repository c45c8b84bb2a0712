"""The operator `maha::rotary`, and the choice of what rotates queries and keys."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_gpu,
    is_fake,
    on_its_gpu,
)
from maha_model.kernels.rotary import reference
from maha_model.kernels.rotary.reference import Line


def apply_rotary(x_BHNd: Tensor, base: float, first: float = 0.0, step: float = 1.0) -> Tensor:
    """Rotate (B, H, N, d) by the angles of the positions first + step i; see `apply_rotary_to_all`."""
    return apply_rotary_to_all([x_BHNd], [(first, step)], base)[0]


def apply_rotary_to_all(tensors: list[Tensor], lines: list[Line], base: float) -> list[Tensor]:
    """Rotate several tensors, each by the angles of its rows' positions (rotary embedding, Su et al. 2021).

    Args:
        tensors: each (B, H, n, d), d even, of one dtype, B and H; n and d may differ.
        lines: for each the position of row 0 and the distance to the next.
        base: of the frequencies base^(-2 i / d), i < d/2, of the pairs (i, i + d/2).

    Returns:
        Tensors of the same shapes and dtypes. Angles and rotation are computed in float32, float64 for float64 input.
    """
    like = tensors[0]
    if like.ndim == 4 and uses_operator(like):
        firsts, steps = ([float(line[i]) for line in lines] for i in (0, 1))
        return torch.ops.maha.rotary(tensors, firsts, steps, float(base), False)
    return reference.apply_rotary_to_all(tensors, lines, base)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What rotates on a kind of device: `triton` or `reference`."""
    if device != "cuda":
        return "reference"
    return implementation_on_gpu("rotary", "20 operations take the place of a kernel", warn)


def uses_operator(x: Tensor) -> bool:
    """Whether the GPU's kernel serves x."""
    return _uses_operator(device_kind(x), is_fake(x) or x.is_meta)


@constant_when_compiled
def _uses_operator(device: str, shapes_only: bool) -> bool:
    return implementation(device, torch.float32, warn=not shapes_only) == "triton"


@torch.library.custom_op("maha::rotary", mutates_args=())
@on_its_gpu
def _rotary(tensors: list[Tensor], first: list[float], step: list[float], base: float, back: bool) -> list[Tensor]:
    from maha_model.kernels.rotary import triton

    return triton.rotate(tensors, first, step, base, back)


@_rotary.register_fake
def _(tensors: list[Tensor], first: list[float], step: list[float], base: float, back: bool) -> list[Tensor]:
    return empty_results(tensors)


def empty_results(tensors: list[Tensor]) -> list[Tensor]:
    """Room for the rotated rows, all heads of a position together: as a projection lays them out."""
    return [x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in tensors]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, *ctx.constants, ctx.back = inputs


def _backward(ctx, grads: list[Tensor]) -> tuple[list[Tensor], None, None, None, None]:  # type: ignore[no-untyped-def]
    """The gradient is rotated back: nothing is kept for it."""
    return torch.ops.maha.rotary(grads, *ctx.constants, not ctx.back), None, None, None, None


_rotary.register_autograd(_backward, setup_context=_setup_context)
