"""What the processes that share a window send each other: the operators `maha::extended`, `maha::mean_over_parts`.

Every process calls the same operators in the same order, forward and backward, also where it has nothing to send. The
sizes of all messages follow from the sizes of the parts, so that nothing about them is sent.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from maha_model.parallel.split import ContextSplit, process_group

ALL = -1
"""A width: all rows before the part."""

Span = tuple[int, int]


def extended(tensors: list[Tensor], widths: list[int], factors: list[int], split: ContextSplit) -> list[Tensor]:
    """Each tensor (B, n, ...) with the last rows of the parts before it, of one or several: (B, h + n, ...).

    Differentiable: a row's gradients return to the process that has it, where they are summed in float32 at least.

    Args:
        tensors: rows of this part, of one dtype; the same on every process but for the number of rows.
        widths: how many rows before the part, `ALL` for all; at the window's begin there are fewer, so h may be 0.
        factors: positions that a row of each tensor covers.
        split: the parts.
    """
    return torch.ops.maha.extended(tensors, widths, factors, list(split.sizes), split.place, split.group)


def mean_over_parts(mean: Tensor, count: Tensor, split: ContextSplit) -> Tensor:
    """The mean over the whole window, on every process: of this part's mean (a scalar) over `count` of its tokens.

    Its gradient is scaled so that the average over the processes of the gradients of their weights, which data
    parallelism takes anyway, is the gradient of the window's mean. A part with `count` 0 contributes nothing.
    """
    return torch.ops.maha.mean_over_parts(mean, count, len(split.sizes), split.group)[0]


@torch.no_grad()
def whole(x: Tensor, dim: int, split: ContextSplit) -> Tensor:
    """x of all parts, one after another along `dim` (positions), on every process; not differentiable."""
    rows = x.movedim(dim, 0).contiguous()
    shapes = [(size, *rows.shape[1:]) for size in split.sizes]
    pieces = _swap([[rows]] * len(shapes), [[shape] for shape in shapes], rows, split.group)
    return torch.cat([piece for (piece,) in pieces]).movedim(0, dim)


def spans_before(sizes: list[int], factor: int, width: int) -> list[list[Span]]:
    """[target][source]: which of the source's own rows are among the last `width` before the target's part."""
    starts = [sum(sizes[:place]) // factor for place in range(len(sizes))]
    spans = []
    for start in starts:
        first = 0 if width == ALL else max(0, start - width)
        ends = [*starts[1:], start]  # the last part is before none
        pairs = zip(starts, ends, strict=True)
        spans.append([(min(max(first, a), max(a, min(b, start))) - a, max(a, min(b, start)) - a) for a, b in pairs])
    return spans


def _swap(
    sent: list[list[Tensor]], shapes: list[list[tuple[int, ...]]], like: Tensor, group: str
) -> list[list[Tensor]]:
    """One message to every process of the group and one from each: tensors of known shapes and of one dtype."""
    messages = [torch.cat([x.reshape(-1) for x in message]) for message in sent]
    elements = [[torch.Size(shape).numel() for shape in message] for message in shapes]
    width = like.element_size()
    out = like.new_empty(sum(map(sum, elements)))
    dist.all_to_all_single(  # bytes: gloo does not send every dtype
        out.view(torch.uint8),
        torch.cat(messages).view(torch.uint8),
        [sum(message) * width for message in elements],
        [message.numel() * width for message in messages],
        group=process_group(group),
    )
    received = iter(out.split([number for message in elements for number in message]))
    return [[next(received).view(shape) for shape in message] for message in shapes]


# (The part's own rows are in the result, which so is never empty: a compiler leaves out what gives nothing, and the
# other processes would wait for this one.)
@torch.library.custom_op("maha::extended", mutates_args=())
def _extended(
    tensors: list[Tensor], widths: list[int], factors: list[int], sizes: list[int], place: int, group: str
) -> list[Tensor]:
    spans = [spans_before(sizes, *pair) for pair in zip(factors, widths, strict=True)]
    places = range(len(sizes))
    sent = [[x[:, slice(*span[target][place])] for x, span in zip(tensors, spans, strict=True)] for target in places]
    shapes = [[_shape(x, span[place][source]) for x, span in zip(tensors, spans, strict=True)] for source in places]
    received = _swap(sent, shapes, tensors[0], group)
    return [torch.cat((*pieces, x), 1) for *pieces, x in zip(*received, tensors, strict=True)]


@_extended.register_fake
def _(
    tensors: list[Tensor], widths: list[int], factors: list[int], sizes: list[int], place: int, group: str
) -> list[Tensor]:
    results = []
    for x, width, factor in zip(tensors, widths, factors, strict=True):
        rows = sum(last - first for first, last in spans_before(sizes, factor, width)[place])
        results.append(x.new_empty(x.shape[0], rows + x.shape[1], *x.shape[2:]))
    return results


@torch.library.custom_op("maha::extended_backward", mutates_args=())
def _extended_backward(
    grads: list[Tensor], widths: list[int], factors: list[int], sizes: list[int], place: int, group: str
) -> list[Tensor]:
    spans = [spans_before(sizes, *pair) for pair in zip(factors, widths, strict=True)]
    places, rows = range(len(sizes)), [sizes[place] // factor for factor in factors]
    by_source = [
        grad.split([*(last - first for first, last in span[place]), n], 1)
        for grad, span, n in zip(grads, spans, rows, strict=True)
    ]
    *sent, own = ([*message] for message in zip(*by_source, strict=True))
    shapes = [[_shape(x, span[target][place]) for x, span in zip(grads, spans, strict=True)] for target in places]
    received = _swap(sent, shapes, grads[0], group)
    results = []
    for number, (x, span) in enumerate(zip(own, spans, strict=True)):
        total = x.to(torch.promote_types(x.dtype, torch.float32), copy=True, memory_format=torch.contiguous_format)
        for target, message in enumerate(received):
            total[:, slice(*span[target][place])] += message[number]
        results.append(total.to(x.dtype))
    return results


@_extended_backward.register_fake
def _(
    grads: list[Tensor], widths: list[int], factors: list[int], sizes: list[int], place: int, group: str
) -> list[Tensor]:
    return [
        x.new_empty(x.shape[0], sizes[place] // factor, *x.shape[2:]) for x, factor in zip(grads, factors, strict=True)
    ]


def _shape(x: Tensor, span: Span) -> tuple[int, ...]:
    return x.shape[0], span[1] - span[0], *x.shape[2:]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, *ctx.constants = inputs


def _backward(ctx, grads: list[Tensor]) -> tuple[list[Tensor], None, None, None, None, None]:  # type: ignore[no-untyped-def]
    return torch.ops.maha.extended_backward(grads, *ctx.constants), None, None, None, None, None


_extended.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("maha::mean_over_parts", mutates_args=())
def _mean_over_parts(mean: Tensor, count: Tensor, parts: int, group: str) -> tuple[Tensor, Tensor]:
    total = torch.stack((torch.where(count > 0, mean.double() * count, 0), count.double()))
    dist.all_reduce(total, group=process_group(group))
    return (total[0] / total[1]).to(mean.dtype), (count * parts / total[1]).to(mean.dtype)


@_mean_over_parts.register_fake
def _(mean: Tensor, count: Tensor, parts: int, group: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(mean)


def _keep_share(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _mean_backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
    (share,) = ctx.saved_tensors
    return grad * share, None, None, None


_mean_over_parts.register_autograd(_mean_backward, setup_context=_keep_share)
