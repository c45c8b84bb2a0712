"""Depthwise convolution on a GPU: one kernel forward, one backward, and the sum of the taps' gradients.

A pyramid of contexts and values takes a kernel a scale, and one sum for the taps of all scales.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.depthwise.pyramid import Pyramid, empty_pyramid, scale_lengths
from maha_model.kernels.depthwise.triton_kernels import convolve_kernel, differentiate_kernel
from maha_model.kernels.depthwise.triton_pyramid import coarsen_kernel, refine_kernel
from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.fuse.triton_plan_sums import plan_sums
from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.packing import unpacked

_ROWS, _COLUMNS = (32, 64) if not triton.knobs.runtime.interpret else (128, 256)


def forward(x_BND: Tensor, taps_KD: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    """See `operator.depthwise_conv`; sums are in float32 at least."""
    out, launch = plan_forward(x_BND, taps_KD, stride, dilation, left)
    if out.numel():
        launch.run()
    return out


def backward(grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the taps. Every number has one writer and every sum one order."""
    (grad_x, parts), launch = plan_backward(grad, x, taps, stride, dilation, left)
    if x.numel():
        launch.run()
    return grad_x, parts.sum(0).to(taps.dtype)


def plan_forward(x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> tuple[Tensor, Launch]:
    """The result of `forward`, not yet computed, and the launch that computes it."""
    x, (B, N, D) = with_contiguous_rows(x), x.shape
    out = x.new_empty(B, N // stride, D)
    arguments = {"x": x, "out": out, "x_strides": x.stride()[:2], **_sizes(out, N, taps, stride, dilation, left)}
    return out, Launch(convolve_kernel, arguments, lambda _: _programs(B, N // stride, D))


def plan_backward(
    grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int
) -> tuple[tuple[Tensor, Tensor], Launch]:
    """Gradients of x, and of the taps from blocks of positions (parts, K, D); the launch that computes both."""
    grad, x = with_contiguous_rows(grad), with_contiguous_rows(x)
    B, N, D = x.shape
    grad_x = x.new_empty(B, N, D)
    sizes = _sizes(grad, N, taps, stride, dilation, left)
    parts = taps.new_empty(B * triton.cdiv(N, _ROWS), *taps.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    arguments = {
        "grad": grad, "x": x, "grad_x": grad_x, "parts": parts, "grad_strides": grad.stride()[:2],
        "x_strides": x.stride()[:2], **sizes,
    }  # fmt: skip
    return (grad_x, parts), Launch(differentiate_kernel, arguments, lambda _: _programs(B, N, D))


def pyramid_forward(context: Tensor, value: Tensor, taps: list[Tensor], stride: int, left: int) -> Pyramid:
    """See `pyramid.pyramid`."""
    results, launches = plan_pyramid(context, value, taps, stride, left)
    for launch in launches:
        launch.run()
    return results


def plan_pyramid(
    context: Tensor, value: Tensor, taps: list[Tensor], stride: int, left: int
) -> tuple[Pyramid, list[Launch]]:
    """The results of `pyramid_forward`, not yet computed, and the launches that compute them."""
    B, N, D = context.shape
    lengths = scale_lengths(N, stride, len(taps) + 1)
    results = empty_pyramid(context, value, stride, len(taps))
    scales = [unpacked(rows, B, lengths) for rows in (results.contexts, results.values)]
    again = unpacked(results.coarse, B, lengths[1:])
    fine, launches = [with_contiguous_rows(x) for x in (context, value)], []
    for level, each in enumerate(taps):
        coarse = [of[level + 1] for of in scales]
        arguments = {
            "fine": tuple(fine), "fine_strides": tuple(x.stride()[:2] for x in fine), "coarse": tuple(coarse),
            "copies": tuple(of[0] for of in scales), "again": again[level], "batch": B, "COPY": level == 0,
            **_sizes(coarse[0], lengths[level], each, stride, 1, left),
        }  # fmt: skip
        del arguments["DILATION"]
        launches.append(_fixed(coarsen_kernel, arguments, 2 * _programs(B, triton.cdiv(lengths[level], stride), D)))
        fine = coarse
    return results, launches


def pyramid_backward(
    grad_contexts: Tensor, grad_values: Tensor, context: Tensor, coarse: Tensor, values: Tensor, taps: list[Tensor],
    stride: int, left: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """Gradients of context and value (B, N, D) and of the taps."""
    results, launches = plan_pyramid_backward(grad_contexts, grad_values, context, coarse, values, taps, stride, left)
    for launch in launches:
        launch.run()
    return results


def plan_pyramid_backward(
    grad_contexts: Tensor, grad_values: Tensor, context: Tensor, coarse: Tensor, values: Tensor, taps: list[Tensor],
    stride: int, left: int,
) -> tuple[tuple[Tensor, Tensor, list[Tensor]], list[Launch]]:  # fmt: skip
    """The results of `pyramid_backward`, not yet computed, and the launches that compute them."""
    B, N, D = context.shape
    lengths = scale_lengths(N, stride, len(taps) + 1)
    direct = [unpacked(grad.contiguous(), B, lengths) for grad in (grad_contexts, grad_values)]
    rows = [[context.contiguous(), *unpacked(coarse, B, lengths[1:])], unpacked(values, B, lengths)]
    grads, launches, parts = [of[-1] for of in direct], [], []
    for level in reversed(range(len(taps))):
        fine = [of[level] for of in rows]
        found = [torch.empty_like(x) for x in fine]
        wide = torch.promote_types(context.dtype, torch.float32)
        parts.append(context.new_empty(2 * B * triton.cdiv(lengths[level], _ROWS), *taps[level].shape, dtype=wide))
        arguments = {
            "grad_coarse": tuple(grads), "grad_fine": tuple(of[level] for of in direct), "fine": tuple(fine),
            "results": tuple(found), "parts": parts[-1], "batch": B,
            **_sizes(grads[0], lengths[level], taps[level], stride, 1, left),
        }  # fmt: skip
        del arguments["DILATION"]
        launches.append(_fixed(refine_kernel, arguments, 2 * _programs(B, lengths[level], D)))
        grads = found
    grad_taps = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in taps]
    return (grads[0], grads[1], grad_taps), [*launches, plan_sums(parts[::-1], grad_taps)]


def _fixed(kernel: object, arguments: dict[str, object], programs: int) -> Launch:
    return Launch(kernel, arguments, lambda _: programs)


def _sizes(out: Tensor, length: int, taps: Tensor, stride: int, dilation: int, left: int) -> dict[str, object]:
    return {
        "taps": taps.contiguous(), "length": length, "count": out.shape[1], "width": out.shape[2], "STRIDE": stride,
        "DILATION": dilation, "LEFT": left, "K": len(taps), "ROWS": _ROWS, "COLUMNS": _COLUMNS,
        "REAL": _real(out.dtype), "num_warps": 4,
    }  # fmt: skip


def _real(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _programs(batch: int, rows: int, width: int) -> int:
    return batch * triton.cdiv(rows, _ROWS) * triton.cdiv(width, _COLUMNS)
