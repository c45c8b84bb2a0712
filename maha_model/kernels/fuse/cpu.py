"""Calling the aggregation's kernels for the CPU, `maha_model/native/aggregation.cpp`."""

import ctypes

import torch
from torch import Tensor

from maha_model.kernels.fuse.problem import DOMAINS, KINDS, MAX_SCALES, Placement, Problem, compute_dtype
from maha_model.kernels.native import library, members


def kernels(num_scales: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled functions for that many scales (1 to 8) and element type; None where they cannot be had."""
    return library("fuse/aggregation.cpp", dtype, f"MAHA_SCALES={num_scales}")


class _QPArguments(ctypes.Structure):
    """`QPArguments` of native.cpp."""

    _fields_ = members("""
        int: problems threads domain; pointer: Q p present;
        int: Q_row Q_column Q_problem p_row p_problem present_row present_problem;
        pointer: w state grad_w; int: grad_row grad_problem; pointer: grad_Q grad_p""")


class _FuseArguments(ctypes.Structure):
    """`FuseArguments` of native.cpp."""

    _fields_ = members(
        """
        int: batch heads length width threads; int[]: rows first factor batch_stride head_stride row_stride;
        pointer[]: outputs; pointer: linear; int: linear_batch linear_position linear_scale linear_head;
        pointer: target; int: target_batch target_position target_head; real[]: price; real: redundancy ridge;
        int: domain kind own_gain normalize; pointer: combined weights state grad_combined grad_weights;
        pointer[]: grad_outputs; pointer: grad_linear grad_target""",
        MAX_SCALES,
    )


def qp_forward(
    compiled: ctypes.CDLL, Q_LLP: Tensor, p_LP: Tensor, present_LP: Tensor, domain: str
) -> tuple[Tensor, Tensor]:
    """w (L, P) and the active set as int32 bits (P): see `pivoting.solve`."""
    w, state = torch.empty_like(p_LP, memory_format=torch.contiguous_format), _state(p_LP.shape[1:])
    arguments = _qp_arguments(Q_LLP, w, state, domain)
    arguments.p, arguments.present = p_LP.data_ptr(), present_LP.data_ptr()
    arguments.p_row, arguments.p_problem = p_LP.stride()
    arguments.present_row, arguments.present_problem = present_LP.stride()
    compiled.maha_qp_forward(ctypes.byref(arguments))
    return w, state


def qp_backward(
    compiled: ctypes.CDLL, grad_w: Tensor, Q_LLP: Tensor, w: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of Q (L, L, P) and p (L, P): see `pivoting.differentiate`."""
    grad_Q, grad_p = torch.empty_like(Q_LLP, memory_format=torch.contiguous_format), torch.empty_like(w)
    arguments = _qp_arguments(Q_LLP, w, state, DOMAINS[0])
    arguments.grad_w, (arguments.grad_row, arguments.grad_problem) = grad_w.data_ptr(), grad_w.stride()
    arguments.grad_Q, arguments.grad_p = grad_Q.data_ptr(), grad_p.data_ptr()
    compiled.maha_qp_backward(ctypes.byref(arguments))
    return grad_Q, grad_p


def _qp_arguments(Q_LLP: Tensor, w: Tensor, state: Tensor, domain: str) -> _QPArguments:
    arguments = _QPArguments(problems=state.numel(), threads=torch.get_num_threads(), domain=DOMAINS.index(domain))
    arguments.Q, (arguments.Q_row, arguments.Q_column, arguments.Q_problem) = Q_LLP.data_ptr(), Q_LLP.stride()
    arguments.w, arguments.state = w.data_ptr(), state.data_ptr()
    return arguments


def fuse_forward(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture (B, N, H, d), weights (L, B, H, N), active sets (B, H, N): see `fusion.fuse`."""
    B, H, _, d = outputs[0].shape
    outputs, target, arguments = _fuse_arguments(outputs, linear, target, placements, length, problem)
    combined = outputs[0].new_empty(B, length, H, d)
    weights, state = combined.new_empty(0, dtype=compute_dtype(combined.dtype)), _state((0,))
    if problem.kind != "given":
        weights, state = weights.new_empty(len(outputs), B, H, length), _state((B, H, length))
    arguments.combined, arguments.weights, arguments.state = combined.data_ptr(), weights.data_ptr(), state.data_ptr()
    _fuse_library(outputs).maha_fuse_forward(ctypes.byref(arguments))
    return combined, weights, state


def fuse_backward(
    grad_combined: Tensor,
    grad_weights: Tensor | None,
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    state: Tensor,
    placements: list[Placement],
    problem: Problem,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the outputs, of `linear` (B, N, L, H) and of the target; the last two empty where there is none."""
    B, N, H, d = grad_combined.shape
    outputs, target, arguments = _fuse_arguments(outputs, linear, target, placements, N, problem)
    grad_combined = grad_combined.contiguous()
    grad_weights = None if grad_weights is None else grad_weights.contiguous()
    grads = [_empty_gradient(output, where, N) for output, where in zip(outputs, placements, strict=True)]
    grad_linear = grad_combined.new_empty(0, dtype=compute_dtype(grad_combined.dtype))
    grad_target = grad_combined.new_empty(0)
    if linear is not None:
        grad_linear = grad_linear.new_empty(B, N, len(outputs), H)
    if target is not None:
        grad_target = grad_target.new_empty(B, N, H, d)
    arguments.state, arguments.grad_combined = state.data_ptr(), grad_combined.data_ptr()
    arguments.grad_weights = None if grad_weights is None else grad_weights.data_ptr()
    arguments.grad_linear = None if linear is None else grad_linear.data_ptr()
    arguments.grad_target = None if target is None else grad_target.data_ptr()
    for level, grad in enumerate(grads):
        arguments.grad_outputs[level] = grad.data_ptr()
    _fuse_library(outputs).maha_fuse_backward(ctypes.byref(arguments))
    return grads, grad_linear, grad_target


def _empty_gradient(output: Tensor, placement: Placement, length: int) -> Tensor:
    """Room for a scale's gradient; rows that stand at no position, which the kernel does not write, are zero."""
    grad = torch.empty_like(output, memory_format=torch.contiguous_format)
    used = max(0, -((placement.first - length) // placement.factor))
    grad[:, :, used:].zero_()
    return grad


def _fuse_library(outputs: list[Tensor]) -> ctypes.CDLL:
    compiled = kernels(len(outputs), outputs[0].dtype)
    assert compiled is not None, "fusion.fuse has made sure of it"
    return compiled


def _fuse_arguments(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[list[Tensor], Tensor | None, _FuseArguments]:
    """The arguments both directions share, and the tensors they point to, with contiguous rows."""
    outputs = [_with_contiguous_rows(output) for output in outputs]
    B, H, _, d = outputs[0].shape
    arguments = _FuseArguments(
        batch=B, heads=H, length=length, width=d, threads=torch.get_num_threads(), redundancy=problem.redundancy,
        ridge=problem.ridge, domain=DOMAINS.index(problem.domain), kind=KINDS.index(problem.kind),
        own_gain=problem.own_gain, normalize=problem.normalize,
    )  # fmt: skip
    for level, price in enumerate(problem.prices):
        arguments.price[level] = price
    for level, (output, place) in enumerate(zip(outputs, placements, strict=True)):
        arguments.rows[level], arguments.outputs[level] = output.shape[2], output.data_ptr()
        arguments.first[level], arguments.factor[level] = place.first, place.factor
        strides = output.stride()
        arguments.batch_stride[level], arguments.head_stride[level], arguments.row_stride[level] = strides[:3]
    if linear is not None:
        arguments.linear = linear.data_ptr()
        arguments.linear_batch, arguments.linear_position = linear.stride()[:2]
        arguments.linear_scale, arguments.linear_head = linear.stride()[2:]
    if target is not None:
        target = _with_contiguous_rows(target)
        arguments.target = target.data_ptr()
        arguments.target_batch, arguments.target_position, arguments.target_head = target.stride()[:3]
    return outputs, target, arguments


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _state(shape: tuple[int, ...] | torch.Size) -> Tensor:
    return torch.empty(shape, dtype=torch.int32)
