"""Launching the fusion's Triton kernels for GPUs: three forward, three backward, one for each scale of large rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.chunks import divide
from maha_model.kernels.fuse.problem import KINDS, Placement, Problem, compute_dtype, empty_gradient
from maha_model.kernels.fuse.triton_backward import differentiate_kernel, spread_kernel, sum_parts_kernel
from maha_model.kernels.fuse.triton_kernels import gram_kernel, mix_kernel, solve_kernel
from maha_model.kernels.fuse.triton_tiles import BLOCK, LANES, columns_of_tile, positions_of_tile
from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.qp.constants import DOMAINS, MAX_SCALES

_PARTS = 16  # of a row's parts, those that are added up at once


class Launch(NamedTuple):
    """One kernel with its arguments by name, and the number of its programs for the sizes of a tile."""

    kernel: Any
    arguments: dict[str, Any]
    programs: Callable[[dict[str, Any]], int]

    def run(self) -> None:
        """Queue it on the current stream."""
        self.kernel[lambda sizes: (self.programs(sizes),)](**self.arguments)


def unsupported(num_scales: int) -> str | None:
    """What the kernels lack for that many scales; None if nothing."""
    return f"more than {MAX_SCALES} scales" if num_scales > MAX_SCALES else None


def forward(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture (B, N, H, d), weights (L, B, H, N), active sets (B, H, N): see `operator.fuse`."""
    results, launches = plan_forward(outputs, linear, target, placements, length, problem)
    for launch in launches:
        launch.run()
    return results


def backward(
    grad_combined: Tensor,
    grad_weights: Tensor | None,
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    active_set: Tensor,
    placements: list[Placement],
    problem: Problem,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the outputs, of `linear` (B, N, L, H) and of the target; the last two empty where there is none."""
    results, launches = plan_backward(
        grad_combined, grad_weights, outputs, linear, target, active_set, placements, problem
    )
    for launch in launches:
        launch.run()
    return results


def plan_forward(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Launch]]:
    """The results of `forward`, not yet computed, and the launches that compute them."""
    call = _Call(outputs, linear, target, placements, length, problem)
    (B, H, _, d), L = outputs[0].shape, len(outputs)
    combined = outputs[0].new_empty(B, length, H, d)
    weights = combined.new_empty((0,) if problem.kind == "given" else (L, B, H, length), dtype=call.dtype)
    active_set = weights.new_empty(weights.shape[1:] or (0,), dtype=torch.int32)
    launches = []
    if problem.kind == "given":
        mixing = call.linear
    else:
        dots, mixing = call.numbers(call.pairs + call.aimed), weights.permute(1, 3, 0, 2)
        launches.append(call.gram(dots))
        strides = mixing.stride()
        launches.append(
            call.per_problem(
                solve_kernel, dots=dots, weights=weights, weight_strides=strides, active_set=active_set, EPS=call.eps
            )
        )
    launches.append(call.per_tile(mix_kernel, combined=combined, weights=mixing, weight_strides=mixing.stride()))
    return (combined, weights, active_set), launches


def plan_backward(
    grad_combined: Tensor,
    grad_weights: Tensor | None,
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    active_set: Tensor,
    placements: list[Placement],
    problem: Problem,
) -> tuple[tuple[list[Tensor], Tensor, Tensor], list[Launch]]:
    """The results of `backward`, not yet computed, and the launches that compute them."""
    (B, N, H, d), L = grad_combined.shape, len(outputs)
    call = _Call(outputs, linear, target, placements, N, problem)
    grad_combined = with_contiguous_rows(grad_combined)
    grads = [empty_gradient(output, place, N) for output, place in zip(outputs, placements, strict=True)]
    grad_linear = grad_combined.new_empty((0,) if linear is None else (B, N, L, H), dtype=call.dtype)
    grad_target = grad_combined.new_empty((0,) if target is None else (B, N, H, d))
    if problem.kind == "given":
        coefficients = call.linear
        launches = [call.gram(grad_linear, grad_combined, grad_linear)]
    else:
        # a lane reads all numbers of its position before it writes as many: the coefficients take their place
        dots = coefficients = call.numbers(call.pairs + call.aimed + L)
        grad_weights_BNLH = None if grad_weights is None else grad_weights.permute(1, 3, 0, 2)
        launches = [
            call.gram(dots, grad_combined, grad_linear),
            call.per_problem(
                differentiate_kernel,
                dots=dots,
                grad_weights=dots if grad_weights_BNLH is None else grad_weights_BNLH,
                grad_weight_strides=(0, 0, 0, 0) if grad_weights_BNLH is None else grad_weights_BNLH.stride(),
                active_set=active_set,
                coefficients=coefficients,
                grad_linear=grad_linear,
                HAS_GRAD_WEIGHTS=grad_weights_BNLH is not None,
            ),
        ]
    chunks = divide(call.rows, tuple(placements), N)
    parts = [
        grad.new_empty(B, H, chunks.number, d, dtype=call.dtype) if in_parts else grad
        for grad, in_parts in zip(grads, chunks.in_parts, strict=True)
    ]
    launches.append(
        call.per_tile(
            spread_kernel,
            chunks.number,
            grad_combined=grad_combined,
            grad_strides=grad_combined.stride()[:3],
            coefficients=coefficients,
            grad_outputs=tuple(grads),
            parts=tuple(parts),
            grad_target=grad_target,
            lead=chunks.lead,
            IN_PARTS=chunks.in_parts,
            CHUNK=chunks.size,
        )
    )
    for grad, part, place, in_parts in zip(grads, parts, placements, chunks.in_parts, strict=True):
        if in_parts:
            launches.append(_sum_parts(grad, part, place, chunks.size, chunks.lead))
    return (grads, grad_linear, grad_target), launches


def _sum_parts(grad: Tensor, parts: Tensor, place: Placement, size: int, lead: int) -> Launch:
    B, H, rows, d = grad.shape
    arguments = {
        "parts": parts, "grad": grad, "rows": rows, "chunks": parts.shape[2], "lead": lead, "FIRST": place.first,
        "FACTOR": place.factor, "CHUNK": size, "PARTS": min(_PARTS, triton.next_power_of_2(place.factor // size)),
        "WIDTH": d, "D": columns_of_tile(d), "REAL": _real(parts.dtype), "num_warps": 2,
    }  # fmt: skip
    return Launch(sum_parts_kernel, arguments, lambda _: B * H * rows)


def _real(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


class _Call:
    """The arguments that kernels share."""

    def __init__(
        self,
        outputs: list[Tensor],
        linear: Tensor | None,
        target: Tensor | None,
        placements: list[Placement],
        length: int,
        problem: Problem,
    ) -> None:
        outputs = [with_contiguous_rows(output) for output in outputs]
        (self.B, self.H, _, d), L, self.length = outputs[0].shape, len(outputs), length
        self.pairs, self.dtype = L * (L + 1) // 2, compute_dtype(outputs[0].dtype)
        self.aimed = 0 if target is None else L
        self.eps, self.columns = torch.finfo(self.dtype).eps, columns_of_tile(d)
        self.rows = tuple(output.shape[2] for output in outputs)
        # tensors that a kind lacks are not read: another stands for them
        self.linear = outputs[0].transpose(1, 2) if linear is None else linear
        target = outputs[0].transpose(1, 2) if target is None else with_contiguous_rows(target)
        self.arguments = {
            "outputs": tuple(outputs), "strides": tuple(output.stride()[:3] for output in outputs), "rows": self.rows,
            "linear": self.linear, "linear_strides": self.linear.stride(), "target": target,
            "target_strides": target.stride()[:3], "heads": self.H, "length": length,
            "FIRST": tuple(place.first for place in placements), "FACTORS": tuple(place.factor for place in placements),
            "PRICES": problem.prices, "REDUNDANCY": problem.redundancy, "RIDGE": problem.ridge,
            "KIND": KINDS.index(problem.kind), "DOMAIN": DOMAINS.index(problem.domain), "OWN": problem.own_gain,
            "NORMALIZE": problem.normalize, "L": L, "WIDTH": d, "D": self.columns, "T": LANES,
            "REAL": _real(self.dtype),
        }  # fmt: skip

    def numbers(self, count: int) -> Tensor:
        """Room for so many numbers at every position, between two kernels."""
        blocks = triton.cdiv(self.length, BLOCK)
        return self.linear.new_empty(self.B, self.H, blocks, count, BLOCK, dtype=self.dtype)

    def gram(self, dots: Tensor, grad_combined: Tensor | None = None, grad_linear: Tensor | None = None) -> Launch:
        """Inner products, with the mixture's gradient if there is one."""
        grad = self.arguments["target"] if grad_combined is None else grad_combined
        return self.per_tile(
            gram_kernel, grad_combined=grad, grad_strides=grad.stride()[:3], dots=dots,
            grad_linear=dots if grad_linear is None else grad_linear, WITH_GRAD=grad_combined is not None,
        )  # fmt: skip

    def per_tile(self, kernel: Any, count: int | None = None, **more: Any) -> Launch:
        """A kernel with tiles of positions, or of `count` chunks, of every batch entry and head."""
        count = self.length if count is None else count

        def programs(sizes: dict[str, Any]) -> int:
            tile = positions_of_tile(sizes["ELEMENTS"], sizes["WARPS"], self.columns)
            return self.B * self.H * triton.cdiv(count, tile)

        return Launch(kernel, self._of(kernel, more), programs)

    def per_problem(self, kernel: Any, **more: Any) -> Launch:
        """A kernel with one problem a lane."""
        programs = self.B * self.H * triton.cdiv(self.length, LANES)
        return Launch(kernel, {**self._of(kernel, more), "num_warps": 1}, lambda _: programs)

    def _of(self, kernel: Any, more: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (self.arguments | more).items() if name in kernel.arg_names}
