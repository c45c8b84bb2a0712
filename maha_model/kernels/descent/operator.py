"""The operator `maha::attend_level`, one scale of a descent, and the choice of what computes it."""

import torch
from torch import Tensor

from maha_model.kernels.descent import cpu
from maha_model.kernels.descent.geometry import Geometry, empty_results
from maha_model.kernels.descent.reference import attend_level_reference
from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_cpu,
    implementation_on_gpu,
    is_fake,
    kernel_module,
    on_its_gpu,
)
from maha_model.kernels.native import DTYPES


def attend_level(
    q_BHMd: Tensor,
    k_BHnd: Tensor,
    v_BHnd: Tensor,
    parents_BGMk: Tensor | None,
    bias_BHMk: Tensor | None,
    geometry: Geometry,
    wanted_BGM: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention of every position over one scale: its newest tokens and the children of the chosen parents.

    Query m stands at position t = start + m. Token j of the scale is finished there if factor (j + 1) - 1 <= t, near if
    it is among the W newest finished ones. Near tokens are seen, and of the parents' children those that are finished
    and not near, their scores q k / sqrt(dk) raised by the parent's bias; all in one softmax. With no parents given,
    at the coarsest scale, every finished token is seen. Keys of twice the queries' width are bounds, the greatest
    entries of the keys that a token covers and then the least ones: their score is q+ k_greatest + q- k_least, q+ and
    q- being the positive and negative parts of q, and never below that of any key that is covered.

    Chosen are the k seen tokens of highest score that cover a token of the finer scale older than its near ones: ties
    go to the lower index. Heads of a group choose together, by the highest attention weight that any of them gives.

    Args:
        q_BHMd: queries (B, H, M, dk), rotated; float32, float64 or bfloat16.
        k_BHnd: keys of the scale (B, H, n, dk) or bounds (B, H, n, 2 dk), rotated; n >= 1.
        v_BHnd: its values (B, H, n, d).
        parents_BGMk: int32 (B, G, M, k'), tokens of the next coarser scale, -1 for none, none twice; with k' = 0 near
            tokens alone are seen. None at the coarsest scale.
        bias_BHMk: (B, H, M, k') float32 (float64 with float64 queries), for every parent. None: zero.
        geometry: which tokens are where.
        wanted_BGM: bool (B, G, M), queries to compute, without a gradient; the others cost nothing and have the
            results of a scale without a finished token. None: all.

    Returns:
        the output (B, H, M, d), 0 where the scale has no finished token; log-sum-exp of the scores (B, H, M), -inf
        there; chosen tokens, int32 (B, G, M, k), best first, -1 where there are fewer; the logarithm of each one's
        share of attention among the chosen (B, H, M, k), 0 for none, or (B, H, M, 0) unless the geometry has `shares`.
        All but the choice itself is differentiable.
    """
    if not _uses_operator(device_kind(q_BHMd), q_BHMd.dtype, is_fake(q_BHMd)):
        return attend_level_reference(q_BHMd, k_BHnd, v_BHnd, parents_BGMk, bias_BHMk, geometry, wanted_BGM)
    return torch.ops.maha.attend_level(q_BHMd, k_BHnd, v_BHnd, parents_BGMk, bias_BHMk, list(geometry), wanted_BGM)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What attends to a scale on a kind of device: `cpu`, `triton` or `reference`."""
    if device == "cuda":
        return implementation_on_gpu("descent", "plain torch takes quadratic memory", warn)
    if device != "cpu":
        return "reference"
    return implementation_on_cpu("descent", dtype, DTYPES, cpu.kernels(dtype), "reference", warn)


@constant_when_compiled
def _uses_operator(device: str, dtype: torch.dtype, fake: bool) -> bool:
    """Whether the registered operator serves; a shapes-only run (`meta`) needs no code for it."""
    return device == "meta" or implementation(device, dtype, warn=not fake) != "reference"


@torch.library.custom_op("maha::attend_level", mutates_args=())
@on_its_gpu
def _attend_level(
    q: Tensor, k: Tensor, v: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: list[int],
    wanted: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return kernel_module("descent", device_kind(q)).forward(q, k, v, parents, bias, Geometry(*geometry), wanted)


@_attend_level.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: list[int],
    wanted: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return empty_results(q, v, Geometry(*geometry))


@torch.library.custom_op("maha::attend_level_backward", mutates_args=())
@on_its_gpu
def _attend_level_backward(
    grad_out: Tensor, grad_log_sum: Tensor | None, grad_share: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
    parents: Tensor | None, bias: Tensor | None, out: Tensor, log_sum: Tensor, chosen: Tensor, share: Tensor,
    geometry: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return kernel_module("descent", device_kind(q)).backward(
        grad_out, grad_log_sum, grad_share, q, k, v, parents, bias, out, log_sum, chosen, share, Geometry(*geometry)
    )


@_attend_level_backward.register_fake
def _(
    grad_out: Tensor, grad_log_sum: Tensor | None, grad_share: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
    parents: Tensor | None, bias: Tensor | None, out: Tensor, log_sum: Tensor, chosen: Tensor, share: Tensor,
    geometry: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    return grads[0], grads[1], grads[2], log_sum.new_empty((0,) if bias is None else bias.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.geometry, wanted = inputs
    if wanted is not None:
        raise RuntimeError("attention of some queries alone has no gradient; call it under torch.no_grad()")
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_out, grad_log_sum, _, grad_share):  # type: ignore[no-untyped-def]
    q, k, v, parents, bias, out, log_sum, chosen, share = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    grad_share = grad_share if Geometry(*ctx.geometry).shares else None
    grad_q, grad_k, grad_v, grad_bias = torch.ops.maha.attend_level_backward(
        grad_out, grad_log_sum, grad_share, q, k, v, parents, bias, out, log_sum, chosen, share, ctx.geometry
    )
    return grad_q, grad_k, grad_v, None, None if bias is None else grad_bias, None, None


_attend_level.register_autograd(_backward, setup_context=_setup_context)
