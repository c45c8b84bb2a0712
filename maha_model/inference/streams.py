"""The attention modules token by token: each stream computes the next output from what it keeps of the past.

Of every scale MAHA keeps the keys and values of its last W tokens, the last inputs of the convolutions that make its
tokens (a partial block), its last context before the gate and, with coarse queries, its output, which stands until the
scale's next token; with a descent all keys and values. A prompt goes through the modules' own full forward, which
leaves the same behind; where processes share it, with the process that has its last part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from maha_model.aggregation import Placement
from maha_model.attention import MAHAAttention, StandardAttention, rotate_keys, with_rows_before
from maha_model.config import ModelConfig
from maha_model.inference.cache import KeyValues, Window, first_room
from maha_model.kernels.bounds import bounding_keys
from maha_model.kernels.descent import descend_at
from maha_model.kernels.index import choose_blocks_at
from maha_model.kernels.rotary import rotate
from maha_model.local_context import LocalContext
from maha_model.multiscale import CrossScaleGate, Decomposition
from maha_model.parallel import ContextSplit, extended


@dataclass
class PyramidPosition:
    """The scales at the position of the newest token; the same in every layer."""

    finished: int
    """Scales that finish a token at this position: the first so many."""
    present: int
    """Scales that have finished one by now."""
    slots: list[Tensor]
    """For each scale the place of its newest token among those that are kept, (1) int64."""
    empty: list[Tensor]
    """For each scale with a finite span (W) -inf at places without a token, else 0."""
    angles: list[tuple[Tensor, Tensor]]
    """For each scale the rotary cosines and sines of its newest token, (1, dk/2)."""

    def tensors(self) -> Iterable[Tensor]:
        """All that is kept."""
        return chain(self.slots, self.empty, *self.angles)


def build_stream(attention: nn.Module, like: Tensor) -> "MAHAStream | StandardStream":
    """The empty stream of an attention module, its tensors of the kind of `like` (B, ...)."""
    if isinstance(attention, MAHAAttention):
        return MAHAStream(attention, like)
    assert isinstance(attention, StandardAttention)
    return StandardStream(attention, like)


class MAHAStream:
    """`MAHAAttention` token by token."""

    def __init__(self, attention: MAHAAttention, like: Tensor) -> None:
        self.attention, config = attention, attention.config
        B, H, L = like.shape[0], config.num_heads, config.num_scales
        self.local = LocalInputs(attention.local, like, config)
        self.contexts = Pyramid(attention.decompose, like, config, L if attention.has_coarse_contexts else 1)
        self.values = Pyramid(attention.decompose, like, config, L)
        grows = config.descent > 0 or config.span == "full"
        rooms = [first_room(config.ratio, L) // config.ratio**level if grows else config.span for level in range(L)]
        wider = 2 if config.bounded else 1
        widths = [config.scale_qk_dim * (wider if level else 1) for level in range(L)]
        self.caches = [
            KeyValues(like, H, width, config.head_dim, int(room), grows)
            for width, room in zip(widths, rooms, strict=True)
        ]
        if config.indexed:  # the last one: the index's keys
            self.caches.append(KeyValues(like, config.choosing_groups, config.index_dim, 0, int(rooms[0]), grows=True))
        self.newest = [like.new_zeros(B, 1, config.d_model) for _ in range(L)]  # contexts before the gates
        self.outputs = [like.new_zeros(B, H, 1, config.head_dim) for _ in range(L)]

    def step(self, x_B1D: Tensor, at: PyramidPosition) -> Tensor:
        """(B, 1, D) -> (B, 1, D)."""
        attention, config = self.attention, self.attention.config
        context_B1D = self.local.step(x_B1D)
        contexts = self.contexts.step(context_B1D, at.finished)
        if config.values == "shared":
            values = self.values.step(attention.value[0](context_B1D), at.finished)
        else:
            values = [project(context) for project, context in zip(attention.value, contexts, strict=False)]
        # A scale's own gate takes the coarser token that is finished at this very position.
        for newest, context in zip(self.newest, contexts, strict=False):
            newest.copy_(context)
        for level, gate in enumerate(attention.gates[: min(at.finished, at.present - 1)]):
            assert isinstance(gate, CrossScaleGate)
            contexts[level] = gate.last(contexts[level], self.newest[level + 1])
        for level, value in enumerate(values):
            if config.bounded and level:
                key = self._newest_bound(level, at)
            else:
                key = rotate(self._heads(attention.key(contexts[level], level)), *at.angles[level])
            self.caches[level].push(key, self._heads(value), at.slots[level])
        # Absent scales stand from the position after this one on.
        placements = [Placement(int(level >= at.present), 1) for level in range(len(self.outputs))]
        outputs, log_sums = list(self.outputs), None
        if config.descent:
            wanted = attention.wanted(x_B1D, placements)
            query = rotate(self._heads(attention.query(contexts[0], 0)), *at.angles[0])
            caches = self.caches[: at.present]
            keys, kept = [cache.keys for cache in caches], [cache.values for cache in caches]
            found = descend_at(
                at.slots[0], query, keys, kept, attention.raise_2L, config.ratio, config.spans, config.descent,
                config.choosing_groups, wanted, self._chosen(context_B1D, at),
            )  # fmt: skip
            outputs[: at.present], log_sums = found.outputs, found.log_sums
            log_sums = log_sums + [torch.full_like(log_sums[0], -torch.inf)] * (len(outputs) - at.present)
        elif config.query == "coarse":
            for level in range(at.finished):
                self.outputs[level].copy_(self._attend_at(level, attention.query(contexts[level], level), at))
        else:
            for level in range(at.present):
                outputs[level] = self._attend_at(level, attention.query(contexts[0], level), at)
        value_B1Hd = self._heads(values[0]).transpose(1, 2)
        mixed_B1Hd, _, _ = attention.aggregate(x_B1D, outputs, value_B1Hd, placements, log_sums)
        return attention.out(mixed_B1Hd.flatten(2))

    def prefill(self, x_BND: Tensor, at: PyramidPosition) -> Tensor:
        """(B, N, D) -> (B, N, D), of an empty stream."""
        attention, config = self.attention, self.attention.config
        projected = attention.project(x_BND)
        self.local.prefill(x_BND, attention.split)
        self._keep_last(projected.contexts, projected.values)
        firsts = [0] * len(projected.values)
        if attention.split is not None:
            projected = with_rows_before(projected, config, attention.split)
        _, queries, keys, values, indexed = projected
        if attention.split is not None:
            firsts = [attention.split.own.stop // config.ratio**level - v.shape[1] for level, v in enumerate(values)]
        rotated = [rotate_keys(self._heads(key), level, config, firsts[level]) for level, key in enumerate(keys)]
        if config.bounded:
            rotated += bounding_keys(rotated[0], config.ratio, len(values))
        for cache, key, value, first in zip(self.caches, rotated, values, firsts, strict=False):
            cache.prefill(key, self._heads(value), first)
        if indexed is not None:
            assert attention.index is not None
            short = attention.index.apart(indexed.keys)
            self.caches[-1].prefill(short, short[..., :0], firsts[0])
        if config.query == "coarse":  # with fine queries every step makes its own outputs
            for level, query in enumerate(queries):
                self.outputs[level].copy_(self._attend_at(level, query[:, -1:], at))
        return attention.out(attention.attend_to_rows(x_BND, projected)[0])

    def _keep_last(self, contexts: list[Tensor], values: list[Tensor]) -> None:
        """The last contexts before the gates and values, also those before a part of a prompt."""
        if (split := self.attention.split) is not None:
            levels = [*range(len(contexts)), *range(len(values))]
            factors = [self.attention.config.ratio**level for level in levels]
            own = [split.sizes[split.place] // factor for factor in factors]  # contexts have some before it too
            rows = [x[:, x.shape[1] - n :] for x, n in zip((*contexts, *values), own, strict=True)]
            rows = extended(rows, [self.attention.decompose.window] * len(rows), factors, split)
            contexts, values = rows[: len(contexts)], rows[len(contexts) :]
        self.contexts.prefill(contexts)
        self.values.prefill(values)
        for level, context in enumerate(contexts):
            self.newest[level].copy_(context[:, -1:])

    def tensors(self) -> Iterable[Tensor]:
        """All that is kept."""
        windows = [self.local.inputs, *self.contexts.windows, *self.values.windows]
        kept = (cache.rows for cache in self.caches)
        return chain((window.last for window in windows), kept, self.newest, self.outputs)

    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times."""
        for window in (self.local.inputs, *self.contexts.windows, *self.values.windows):
            window.select(rows_K)
        for cache in self.caches:
            cache.select(rows_K)
        self.newest = [x.index_select(0, rows_K) for x in self.newest]
        self.outputs = [x.index_select(0, rows_K) for x in self.outputs]

    def _chosen(self, context_B1D: Tensor, at: PyramidPosition) -> Tensor | None:
        """The far blocks (B, G, 1, k) of the newest position, whose index key is kept with the others."""
        index, config = self.attention.index, self.attention.config
        if index is None:
            return None
        newest = index(context_B1D)
        query, key = index.apart(newest.queries), index.apart(newest.keys)
        kept = self.caches[-1]
        kept.push(key, key[..., :0], at.slots[0])
        return choose_blocks_at(
            at.slots[0], query, kept.keys, newest.fade, config.ratio, config.spans[0], config.descent
        )

    def _newest_bound(self, level: int, at: PyramidPosition) -> Tensor:
        """The key (B, H, 1, 2 dk) of the scale's token that ends with the newest of the finest scale."""
        ratio = self.attention.config.ratio
        rows_r = at.slots[level - 1] + torch.arange(1 - ratio, 1, device=at.slots[0].device)
        covered_BHrd = self.caches[level - 1].keys.index_select(2, rows_r)
        greatest, least = (covered_BHrd, covered_BHrd) if level == 1 else covered_BHrd.chunk(2, -1)
        return torch.cat((greatest.amax(2, keepdim=True), least.amin(2, keepdim=True)), -1)

    def _attend_at(self, level: int, query_B1D: Tensor, at: PyramidPosition) -> Tensor:
        config = self.attention.config
        own = config.query == "coarse" or config.positions == "scale"  # else a query stands at its own position
        query = rotate(self._heads(query_B1D), *at.angles[level if own else 0])
        return self.caches[level].attend(query, at.slots[level], at.empty[level])

    def _heads(self, x_BnD: Tensor) -> Tensor:
        return x_BnD.unflatten(-1, (self.attention.config.num_heads, -1)).transpose(1, 2)


class StandardStream:
    """`StandardAttention` token by token: a window of W keys and values, or all of them."""

    def __init__(self, attention: StandardAttention, like: Tensor) -> None:
        self.attention, config = attention, attention.config
        self.local = LocalInputs(attention.local, like, config)
        grows, d = attention.span == "full", config.head_dim
        room = first_room(config.ratio, 1) if grows else int(attention.span)
        self.caches = [KeyValues(like, config.num_heads, d, d, room, grows)]

    def step(self, x_B1D: Tensor, at: PyramidPosition) -> Tensor:
        """(B, 1, D) -> (B, 1, D)."""
        q, k, v = self._project(self.local.step(x_B1D))
        self.caches[0].push(rotate(k, *at.angles[0]), v, at.slots[0])
        mixed_BH1d = self.caches[0].attend(rotate(q, *at.angles[0]), at.slots[0], at.empty[0])
        return self.attention.out(mixed_BH1d.transpose(1, 2).flatten(2))

    def prefill(self, x_BND: Tensor, at: PyramidPosition) -> Tensor:
        """(B, N, D) -> (B, N, D), of an empty stream."""
        attention = self.attention
        self.local.prefill(x_BND, attention.split)
        q, k, v = attention.rotated(attention.qkv(attention.local_context(x_BND)))
        first = 0 if attention.split is None else attention.split.own.stop - k.shape[2]
        self.caches[0].prefill(k, v, first)
        return attention.out(attention.attend_rotated(q, k, v))

    def tensors(self) -> Iterable[Tensor]:
        """All that is kept."""
        return self.caches[0].rows, self.local.inputs.last

    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times."""
        self.caches[0].select(rows_K)
        self.local.inputs.select(rows_K)

    def _project(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        qkv = self.attention.qkv(x_BND).unflatten(-1, (3, self.attention.config.num_heads, -1))
        return qkv.permute(2, 0, 3, 1, 4).unbind()


class LocalInputs:
    """The local context before attention token by token: the last inputs of its convolution, none without one."""

    def __init__(self, local: nn.Module, like: Tensor, config: ModelConfig) -> None:
        self.local = local
        self.inputs = Window(like, local.window if isinstance(local, LocalContext) else 0, config.d_model)

    def step(self, x_B1D: Tensor) -> Tensor:
        """(B, 1, D) -> (B, 1, D)."""
        return self.local.last(self.inputs.push(x_B1D)) if isinstance(self.local, LocalContext) else x_B1D

    def prefill(self, x_BND: Tensor, split: ContextSplit | None) -> None:
        """Keep what is needed of the inputs (B, N, D), or of those of a part and of the parts before it."""
        if split is not None:
            (x_BND,) = extended([x_BND], [self.inputs.last.shape[1]], [1], split)
        self.inputs.push(x_BND)


class Pyramid:
    """`Decomposition` token by token: of every scale but the coarsest the tokens that the next coarser one needs."""

    def __init__(self, decompose: Decomposition, like: Tensor, config: ModelConfig, num_scales: int) -> None:
        self.decompose = decompose
        self.windows = [Window(like, decompose.window, config.d_model) for _ in range(num_scales - 1)]

    def step(self, x_B1D: Tensor, finished: int) -> list[Tensor]:
        """The `finished` scales' new tokens (B, 1, D), finest first, of which the finest is given."""
        new = [x_B1D]
        for level, window in enumerate(self.windows):
            window_BnD = window.push(new[level])
            if len(new) == finished:
                break
            new.append(self.decompose.last(level, window_BnD))
        return new

    def prefill(self, scales: list[Tensor]) -> None:
        """Keep what is needed of whole scales (B, n_l, D)."""
        for window, scale in zip(self.windows, scales, strict=False):
            window.push(scale)
