"""Documents of a batch as sequences of their own, so that no token attends to another document's.

Each document of a packed batch (B, N) is laid out as a row: documents of similar length as one tensor (R, M, D), a few
such groups in all. Attention with all that precedes it (local context, decomposition) runs on each group as on any
batch. As all of it is causal, the padding at the end of the rows changes nothing, and every document gets the outputs
that it has alone. Everything that works on positions one by one stays packed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from maha_model.config import ConfigError
from maha_model.kernels.index import Rows

GROUPS = 8
"""Most groups of a batch."""
_PRICE = 512
"""Rows of padding that are taken rather than one more group: its launches on a GPU take about as long."""
_BITS = 5
"""Leading bits by which lengths are told apart when groups are chosen: 16 classes from one power of two to the next."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Where the tokens of the documents of a batch (B, N) are among P laid-out rows, padding included.

    The shapes are Python numbers: no GPU is waited for.
    """

    shapes: tuple[tuple[int, int], ...]
    """R rows of M tokens of every group; the sum of R M is P."""
    sources: Tensor
    """(P,) int64: the batch's token at every laid-out place; of padding the last token of its document."""
    places: Tensor
    """(T,) int64: the place of every token of the batch, T = B N."""
    lengths: Tensor
    """(sum of R,) int64: tokens of the document of every row, 0 where there is none."""

    @classmethod
    def of(
        cls, lengths: Sequence[Sequence[int]], least: int = 1, groups: int = GROUPS, exactly: bool = False
    ) -> "Documents":
        """On the CPU.

        Args:
            lengths: of every window the tokens of its documents in order, all of it.
            least: shortest M. With the tokens of a coarsest one every scale is there in every group, so that every
                parameter has a gradient, as processes that add theirs up need it.
            groups: most groups.
            exactly: whether there are to be as many, for processes that have to run the same modules.

        Raises:
            ConfigError: if a length is less than 1 or windows are not of one length.
        """
        tokens = {sum(window) for window in lengths}
        if len(tokens) != 1 or any(length < 1 for window in lengths for length in window):
            raise ConfigError("every document needs a token at least, and every window as many tokens as the others")
        given_R = torch.tensor([length for window in lengths for length in window])
        starts_R = given_R.cumsum(0) - given_R
        lengths_R, order_R = given_R.sort(descending=True, stable=True)
        starts_R = starts_R[order_R]
        shapes: list[tuple[int, int]] = []
        sources, places_T = [], torch.empty(int(given_R.sum()), dtype=torch.int64)
        for first, last in pairwise(_borders(lengths_R.clamp(min=least), groups)):
            R, M = last - first, max(least, int(lengths_R[first]))
            offsets_RM = torch.arange(M).expand(R, M)
            of_document_RM = offsets_RM < lengths_R[first:last, None]
            sources_RM = starts_R[first:last, None] + offsets_RM.minimum(lengths_R[first:last, None] - 1)
            laid = sum(rows * length for rows, length in shapes)
            places_T[sources_RM[of_document_RM]] = laid + torch.arange(R * M).view(R, M)[of_document_RM]
            shapes.append((R, M))
            sources.append(sources_RM.flatten())
        for _ in range(groups - len(shapes) if exactly else 0):
            shapes.append((1, least))
            sources.append(torch.zeros(least, dtype=torch.int64))
        none = lengths_R.new_zeros(sum(R for R, _ in shapes) - len(lengths_R))
        return cls(tuple(shapes), torch.cat(sources), places_T, torch.cat((lengths_R, none)))

    def to(self, device: torch.device, pinned: bool = False) -> "Documents":
        """The same on a device, copied from page-locked memory and without waiting for it if `pinned`."""
        tensors = (x.pin_memory() if pinned else x for x in self.tensors)
        return Documents(self.shapes, *(x.to(device, non_blocking=pinned) for x in tensors))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What lies on a device."""
        return self.sources, self.places, self.lengths

    def map_apart(self, function: Callable[[Tensor, Rows], Tensor], x_BND: Tensor) -> Tensor:
        """`function`, (R, M, D) and how much of it are tokens -> (R, M, E), of the documents of a batch: (B, N, E).

        Causal along M it gives every document what it would give the document alone.
        """
        laid_PD = _Copies.apply(x_BND.flatten(0, 1), self.sources, self.places)
        groups = laid_PD.split([R * M for R, M in self.shapes])
        lengths = self.lengths.split([R for R, _ in self.shapes])
        outputs = [
            function(x.view(*shape, -1), Rows(length, len(self.places)))
            for x, shape, length in zip(groups, self.shapes, lengths, strict=True)
        ]
        out_PE = torch.cat([x.flatten(0, 1) for x in outputs])
        return _Picked.apply(out_PE, self.places).view(*x_BND.shape[:2], -1)


class _Copies(torch.autograd.Function):
    """Rows `sources_P` of x (T, D): (P, D). Only the places `places_T` have a gradient, one for each row of x."""

    @staticmethod
    def forward(ctx, x: Tensor, sources_P: Tensor, places_T: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(places_T)
        return x.index_select(0, sources_P)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Picked(torch.autograd.Function):
    """Rows `places_T` of x (P, D), none twice: (T, D). Torch's own gradient is a sum, in no fixed order on a GPU."""

    @staticmethod
    def forward(ctx, x: Tensor, places_T: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(places_T)
        ctx.rows = len(x)
        return x.index_select(0, places_T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        whole = grad.new_zeros(ctx.rows, grad.shape[1])
        return whole.index_copy_(0, ctx.saved_tensors[0], grad), None


def _borders(lengths_R: Tensor, groups: int) -> list[int]:
    """Where groups of lengths, longest first, begin, and the end: the fewest rows, at `_PRICE` a group.

    An exact search over classes of lengths.
    """
    steps_R = 1 << (torch.frexp(lengths_R.double()).exponent - _BITS).clamp(min=0)
    classes_R = (lengths_R + steps_R - 1) // steps_R * steps_R
    classes_K, counts_K = classes_R.unique_consecutive(return_counts=True)
    before_K1 = torch.cat((counts_K.new_zeros(1), counts_K.cumsum(0)))
    # Of a group of classes i to j: rows as long as the first.
    costs_KK = (classes_K[:, None] * (before_K1[1:] - before_K1[:-1, None])).double()
    costs_KK.masked_fill_(costs_KK <= 0, torch.inf)
    # By number of groups, less 1: the least cost of the classes up to each one, and the first class of its last group.
    totals, firsts = [costs_KK[0]], [torch.zeros_like(classes_K)]
    for _ in range(1, min(groups, len(classes_K))):
        least_K, chosen_K = (totals[-1][:-1, None] + costs_KK[1:]).min(0)
        totals.append(least_K)
        firsts.append(chosen_K + 1)
    number = min(range(len(totals)), key=lambda n: float(totals[n][-1]) + n * _PRICE)
    borders, end = [len(lengths_R)], len(classes_K)
    for first_K in reversed(firsts[: number + 1]):
        end = int(first_K[end - 1])
        borders.append(int(before_K1[end]))
    return borders[::-1]
