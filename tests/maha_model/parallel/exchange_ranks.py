"""One of three processes of test_exchange: every check raises on the process where it fails."""

import torch
import torch.distributed as dist
from torch import Tensor

from maha_model.parallel import ALL, ContextSplit, extended, mean_over_parts, register_group, whole

SIZES = (8, 4, 3)


def check_rows_and_gradients(split: ContextSplit, dtype: torch.dtype) -> None:
    """Against slices of the whole: one tensor a position, one a row of two positions, of several widths."""
    generator = torch.Generator().manual_seed(0)
    for widths in ([0, 0], [1, 2], [6, 3], [9, ALL], [ALL, ALL]):
        full = [torch.randn(2, n, *more, generator=generator).to(dtype) for n, more in ((15, (3,)), (7, (2, 2)))]
        own, leaves = [], []
        for x, factor in zip(full, (1, 2), strict=True):
            start, end = split.own.start // factor, split.own.stop // factor
            leaf = x[:, start:end].clone().requires_grad_()
            leaves.append(leaf)
            own.append(leaf * 1)
        got = extended(own, widths, [1, 2], split)
        weights = [torch.randn(3, *x.shape, generator=generator).to(dtype) for x in full]
        cuts = [
            [rows_of(split, place, width, factor) for width, factor in zip(widths, (1, 2), strict=True)]
            for place in range(3)
        ]
        sum(
            (w[split.place][:, cut] * x).sum() for w, x, cut in zip(weights, got, cuts[split.place], strict=True)
        ).backward()
        for number, (x, factor) in enumerate(zip(full, (1, 2), strict=True)):
            torch.testing.assert_close(got[number], x[:, cuts[split.place][number]], rtol=0, atol=0)
            grad = torch.zeros(x.shape, dtype=torch.float64)
            for place in range(3):
                grad[:, cuts[place][number]] += weights[number][place][:, cuts[place][number]].double()
            mine = grad[:, split.own.start // factor : split.own.stop // factor]
            torch.testing.assert_close(leaves[number].grad, mine.to(dtype))


def rows_of(split: ContextSplit, place: int, width: int, factor: int) -> slice:
    """Rows of the whole that the extended part of a place has."""
    start = sum(split.sizes[:place])
    first = 0 if width == ALL else max(0, start // factor - width)
    return slice(first, (start + split.sizes[place]) // factor)


def check_operator(split: ContextSplit) -> None:
    """What torch checks of an operator: schema, shapes without data, registered gradient."""
    tensors = [torch.randn(2, split.sizes[split.place], 3, requires_grad=True)]
    torch.library.opcheck(
        torch.ops.maha.extended.default, (tensors, [6], [1], list(SIZES), split.place, split.group),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )  # fmt: skip


def check_mean(split: ContextSplit) -> None:
    """The mean of means by their counts, one of them 0; gradients average to that of the whole."""
    values, counts = torch.tensor([2.0, torch.nan, 5.0]), torch.tensor([3, 0, 1])
    own = values[split.place].clone().requires_grad_()
    mean = mean_over_parts(own, counts[split.place], split)
    mean.backward()
    assert mean.item() == 11 / 4
    assert own.grad == 3 * counts[split.place] / 4  # the average over three processes is the count's share
    assert mean_over_parts(own, torch.tensor(0), split).isnan()


def check_whole(split: ContextSplit, x: Tensor) -> None:
    torch.testing.assert_close(whole(x[:, split.own].clone(), 1, split), x)


def main() -> None:
    dist.init_process_group("gloo")
    split = ContextSplit(SIZES, dist.get_rank(), register_group(dist.group.WORLD))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        check_rows_and_gradients(split, dtype)
    check_operator(split)
    check_mean(split)
    check_whole(split, torch.arange(30).view(2, 15))
    check_whole(split, torch.arange(30).view(2, 15) % 3 == 0)
    dist.destroy_process_group()
