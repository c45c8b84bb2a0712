"""Muon for hidden matrices and AdamW for all else, whatever ZeRO leaves of a matrix on a process.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves a matrix by its momentum with all singular values set
to about 1. That needs whole matrices, of which ZeRO's optimisers are given flat ranges. A process therefore sends its
ranges of a matrix to the one process that orthogonalises it with torch's own `torch.optim.Muon`, and gets its range of
the result back; the work is shared out by matrices.

(DeepSpeed 0.19's Muon under ZeRO clips the orthogonalised updates and reports their norm as the gradient's: the length
of an update then follows from grad_clip and the number of matrices, and a large gradient is not seen in the norm. Its
groups are chosen by the parameters' names, convolution taps among them.)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from maha_model.hidden import hidden_matrices

_BUFFER = "momentum_buffer"  # its name in torch.optim.Muon


@dataclass(frozen=True)
class MatrixRange:
    """A matrix of which this process's flat partition has a range, in the order of ranks."""

    shape: tuple[int, int]
    offset: int
    """Of the range in the partition."""
    counts: tuple[int, ...]
    """Elements of the matrix that each process has."""


class MuonAdamW(torch.optim.AdamW):
    """Groups with `momentum` are updated by Muon, the others by AdamW. Gradients are those after clipping.

    Muon's update is `torch.optim.Muon`'s with Nesterov momentum and `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025,
    arXiv 2502.16982, section 2.2): its entries are as large as AdamW's, so that rate and weight decay serve both.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        """`options` are AdamW's. Parameters of groups with `momentum` are matrices (out, in)."""
        super().__init__(groups, **options)
        self._ranges: dict[Tensor, list[MatrixRange]] = {}
        self._device = torch.device("cpu")

    def place(self, ranges: dict[Tensor, list[MatrixRange]], device: torch.device) -> None:
        """Where the matrices are in the flat partitions that ZeRO gives; `device` computes and communicates."""
        # the largest first: those that are orthogonalised at a time are about as large
        self._ranges = {flat: sorted(those, key=lambda it: -math.prod(it.shape)) for flat, those in ranges.items()}
        self._device = device

    @property
    def partitions(self) -> set[Tensor]:
        """The flat partitions, of those that ZeRO gives, that Muon updates."""
        return set(self._ranges)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all groups. Under ZeRO collective: every process has the same groups and matrices."""
        groups = self.param_groups
        for group in groups:
            for parameter in group["params"]:
                if "momentum" in group and parameter.grad is not None:
                    self._step_muon(parameter, group)
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups

    def _step_muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Of a whole matrix, or of a flat partition with ranges of several."""
        state, beta = self.state[parameter], group["momentum"]
        if _BUFFER not in state:
            state[_BUFFER] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state[_BUFFER].lerp_(parameter.grad, 1 - beta)
        update = parameter.grad.lerp(state[_BUFFER], beta)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        if parameter not in self._ranges:
            parameter.add_(orthogonalized(update.bfloat16()), alpha=-_adjusted(group["lr"], parameter.shape))
            return
        for matrix, result in _orthogonalized_ranges(update, self._ranges[parameter], self._device):
            own = parameter[matrix.offset : matrix.offset + len(result)]
            own.add_(result.to(own.device), alpha=-_adjusted(group["lr"], matrix.shape))


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix in bfloat16 with its singular values set to about 1: the update of torch's Muon, at the rate 1.

    Of a wide one, whose rate torch does not adjust.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    moved = nn.Parameter(torch.zeros_like(wide))
    moved.grad = wide
    torch.optim.Muon([moved], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    return -moved.detach() if wide is matrix else -moved.detach().T


def place_matrices(optimizer: MuonAdamW, zero: Any, model: nn.Module, device: torch.device) -> None:
    """Let the optimiser find the hidden matrices in the partitions of DeepSpeed's ZeRO optimiser. Collective."""
    found = [_own_range(parameter, zero) for parameter in hidden_matrices(model)]
    own = torch.tensor([count for _, _, count in found], device=device)
    counts = own.new_empty(dist.get_world_size() * len(found))
    dist.all_gather_into_tensor(counts, own)
    ranges: dict[Tensor, list[MatrixRange]] = {}
    of_ranks = counts.view(-1, len(found)).T.tolist()
    for parameter, (partition, offset, _), of_each in zip(hidden_matrices(model), found, of_ranks, strict=True):
        rows, columns = getattr(parameter, "ds_shape", parameter.shape)
        ranges.setdefault(partition, []).append(MatrixRange((rows, columns), offset, tuple(of_each)))
    optimizer.place(ranges, device)


def _own_range(parameter: Any, zero: Any) -> tuple[Tensor, int, int]:
    """The partition that a matrix is in, and this process's range: offset and elements without padding."""
    if hasattr(parameter, "ds_tensor"):  # ZeRO 3
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        start = dist.get_rank() * size
        return zero.fp32_partitioned_groups_flat[group], offset, max(0, min(size, parameter.ds_numel - start))
    partitions = getattr(zero, "single_partition_of_fp32_groups", None) or zero.fp32_groups_flat_partition
    fragment = parameter._hp_mapping  # noqa: SLF001 - DeepSpeed has no public way
    if fragment is None:
        return partitions[0], 0, 0
    return partitions[0], fragment.hp_fragment_address.start, fragment.lp_fragment_address.numel


def _orthogonalized_ranges(
    update: Tensor, matrices: list[MatrixRange], device: torch.device
) -> Iterator[tuple[MatrixRange, Tensor]]:
    """This process's range of every matrix, orthogonalised: as many matrices at a time as there are processes."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    for first in range(0, len(matrices), world_size):
        batch = matrices[first : first + world_size]
        own = [matrix.counts[rank] for matrix in batch]
        ranges = [update[it.offset : it.offset + count].bfloat16() for it, count in zip(batch, own, strict=True)]
        sent = torch.cat(ranges).to(device)
        to_ranks = own + [0] * (world_size - len(batch))
        from_ranks = list(batch[rank].counts) if rank < len(batch) else [0] * world_size
        whole = sent.new_empty(sum(from_ranks))
        dist.all_to_all_single(whole, sent, from_ranks, to_ranks)
        if rank < len(batch):
            whole = orthogonalized(whole.view(batch[rank].shape)).flatten()
        dist.all_to_all_single(sent, whole, to_ranks, from_ranks)
        yield from zip(batch, sent.split(own), strict=True)


def _adjusted(rate: float, shape: tuple[int, ...] | torch.Size) -> float:
    return rate * 0.2 * math.sqrt(max(shape))
