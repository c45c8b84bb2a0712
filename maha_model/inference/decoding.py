"""Decoding token by token: the model over a state whose size does not depend on how many tokens it has seen.

Each attention module has a stream here that computes its next output from what it keeps of the past. Of every scale
MAHA keeps the keys and values of its last W tokens, the last inputs of the convolutions that make its tokens (a partial
block), its last context before the gate and, with coarse queries, its output, which stands until the scale's next
token. A prompt goes through the modules' own full forward, which then leaves the same state behind.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from maha_model.aggregation import Placement
from maha_model.attention import MAHAAttention, StandardAttention
from maha_model.config import ModelConfig
from maha_model.kernels.fuse import compute_dtype
from maha_model.kernels.span import attend_to_all
from maha_model.layers import apply_rotary, rotary_angles, rotate
from maha_model.multiscale import CrossScaleGate, Decomposition, LocalContext
from maha_model.transformer import Block, CausalLM

_FIRST_ROOM = 64  # tokens that a growing cache has room for at first; doubled whenever it is full


@dataclass
class _Now:
    """Where the pyramid stands at the position of the newest token; the same in every layer."""

    finished: int
    """Scales that finish a token at this position: the first so many."""
    present: int
    """Scales that have finished one by now."""
    angles: list[tuple[Tensor, Tensor]]
    """For each scale the rotary cosines and sines of its newest token."""


class DecodingState:
    """The state of `model` (in evaluation mode) after the tokens so far of `batch_size` sequences of equal length.

    The logits are those of the full forward. The size is O(L W D) a layer with a finite span; `standard` attention and
    `span: full` keep every key and value, in room that doubles when it is full.
    """

    def __init__(self, model: CausalLM, batch_size: int = 1) -> None:
        self.model, self.config = model, model.config
        self.position = 0
        """Tokens seen so far."""
        maha = self.config.attention == "maha"
        self._qk_dim = self.config.scale_qk_dim if maha else self.config.head_dim
        self._now = _Now(0, 0, [self._angles(0) for _ in range(self.config.num_scales if maha else 1)])
        like = model.lm_head.weight.new_zeros(batch_size, 0)
        blocks = [block for block in model.transformer.blocks if isinstance(block, Block)]
        self._layers = [(block, build_stream(block.attention, like)) for block in blocks]

    @torch.inference_mode()
    def prefill(self, ids_BN: Tensor) -> Tensor:
        """Take in a whole prompt, N >= 1, at once; logits (B, V) of the token after it.

        Raises:
            ValueError: if there is no token, or the state has seen some already.
        """
        if self.position or not ids_BN.shape[1]:
            raise ValueError("prefill takes the first tokens, at least one; give later ones to step")
        self._advance(ids_BN)
        return self._logits(ids_BN)

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Take in one token a sequence; logits (B, V) of the next."""
        self._advance(ids_B[:, None])
        return self._logits(ids_B[:, None])

    def tensors(self) -> Iterator[Tensor]:
        """All that is kept."""
        return chain(chain(*self._now.angles), *(stream.tensors() for _, stream in self._layers))

    def num_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum({x.data_ptr(): x.untyped_storage().nbytes() for x in self.tensors()}.values())

    def _advance(self, ids_BN: Tensor) -> None:
        """Move on by N tokens, N = 1 unless the state is new."""
        before, self.position = self.position, self.position + ids_BN.shape[1]
        now, ratio = self._now, self.config.ratio
        newest = [(self.position // ratio**level, before // ratio**level) for level in range(len(now.angles))]
        now.finished = sum(after > earlier for after, earlier in newest)
        now.present = sum(after > 0 for after, _ in newest)
        for level in range(now.finished):
            now.angles[level] = self._angles(newest[level][0] - 1)

    def _angles(self, position: int) -> tuple[Tensor, Tensor]:
        weight = self.model.lm_head.weight
        position_1 = torch.tensor([position], dtype=compute_dtype(weight.dtype), device=weight.device)
        return rotary_angles(position_1, self._qk_dim, self.config.rope_base)

    def _logits(self, ids_BN: Tensor) -> Tensor:
        transformer = self.model.transformer
        x_BND = transformer.embedding(ids_BN)
        for block, stream in self._layers:
            take = stream.step if ids_BN.shape[1] == 1 else stream.prefill
            x_BND = x_BND + take(block.attention_norm(x_BND), self._now)
            x_BND = x_BND + block.ffn(block.ffn_norm(x_BND))
        return self.model.lm_head(transformer.norm(x_BND[:, -1]))


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
        self.local = attention.local if isinstance(attention.local, LocalContext) else None
        self.inputs = Window(like, self.local.window if self.local else 0, config.d_model)
        self.contexts = Pyramid(attention.decompose, like, config)
        self.values = Pyramid(attention.decompose, like, config)
        self.scales = [KeyValues(like, H, config.scale_qk_dim, config.head_dim, config.span) for _ in range(L)]
        self.newest = [like.new_zeros(B, 1, config.d_model) for _ in range(L)]  # contexts before the gates
        self.outputs = [like.new_zeros(B, H, 1, config.head_dim) for _ in range(L)]

    def step(self, x_B1D: Tensor, now: _Now) -> Tensor:
        """(B, 1, D) -> (B, 1, D)."""
        attention, coarse = self.attention, self.attention.config.query == "coarse"
        context_B1D = self.local.last(self.inputs.push(x_B1D)) if self.local else x_B1D
        contexts = self.contexts.step(context_B1D, now.finished)
        if attention.config.values == "shared":
            values = self.values.step(attention.value[0](context_B1D), now.finished)
        else:
            values = [project(context) for project, context in zip(attention.value, contexts, strict=False)]
        # A scale's own gate sees the coarser token that is finished at this very position.
        self.newest[: now.finished] = contexts
        for level, gate in enumerate(attention.gates[: min(now.finished, now.present - 1)]):
            assert isinstance(gate, CrossScaleGate)
            contexts[level] = gate.last(contexts[level], self.newest[level + 1])
        for level, (context, value) in enumerate(zip(contexts, values, strict=True)):
            key = rotate(self._heads(attention.key(context, level)), *now.angles[level])
            self.scales[level].push(key, self._heads(value))
        for level in range(now.finished if coarse else now.present):
            query = attention.query(contexts[level if coarse else 0], level)
            self.outputs[level] = self._ask(level, query, now)
        value_B1Hd = self._heads(values[0]).transpose(1, 2)
        # Absent scales stand from the position after this one on.
        placements = [Placement(int(level >= now.present), 1) for level in range(len(self.outputs))]
        mixed_B1Hd, _, _ = attention.aggregate(x_B1D, self.outputs, value_B1Hd, placements)
        return attention.out(mixed_B1Hd.flatten(2))

    def prefill(self, x_BND: Tensor, now: _Now) -> Tensor:
        """(B, N, D) -> (B, N, D), from the empty state."""
        attention, config = self.attention, self.attention.config
        contexts, queries, keys, values = attention.project(x_BND)
        self.inputs.push(x_BND)
        self.contexts.prefill(contexts)
        self.values.prefill(values)
        for level, (context, query, key, value) in enumerate(zip(contexts, queries, keys, values, strict=True)):
            self.newest[level] = context[:, -1:].clone()
            self.scales[level].push(apply_rotary(self._heads(key), config.rope_base), self._heads(value))
            self.outputs[level] = self._ask(level, query[:, -1:], now)
        return attention.out(attention.attend_and_aggregate(x_BND, queries, keys, values)[0])

    def tensors(self) -> Iterable[Tensor]:
        """All that is kept."""
        windows = [self.inputs, *self.contexts.windows, *self.values.windows]
        kept = [(cache.keys, cache.values) for cache in self.scales]
        return chain((window.last for window in windows), *kept, self.newest, self.outputs)

    def _ask(self, level: int, query_B1D: Tensor, now: _Now) -> Tensor:
        return self.scales[level].attend(rotate(self._heads(query_B1D), *now.angles[level]))

    def _heads(self, x_BnD: Tensor) -> Tensor:
        return x_BnD.unflatten(-1, (self.attention.config.num_heads, -1)).transpose(1, 2)


class StandardStream:
    """`StandardAttention` token by token: a window of W keys and values, or all of them."""

    def __init__(self, attention: StandardAttention, like: Tensor) -> None:
        self.attention, config = attention, attention.config
        self.cache = KeyValues(like, config.num_heads, config.head_dim, config.head_dim, attention.span)

    def step(self, x_B1D: Tensor, now: _Now) -> Tensor:
        """(B, 1, D) -> (B, 1, D)."""
        q, k, v = self._project(x_B1D)
        self.cache.push(rotate(k, *now.angles[0]), v)
        mixed_BH1d = self.cache.attend(rotate(q, *now.angles[0]))
        return self.attention.out(mixed_BH1d.transpose(1, 2).flatten(2))

    def prefill(self, x_BND: Tensor, now: _Now) -> Tensor:
        """(B, N, D) -> (B, N, D), from the empty state."""
        _, k, v = self._project(x_BND)
        self.cache.push(apply_rotary(k, self.attention.config.rope_base), v)
        return self.attention(x_BND)[0]

    def tensors(self) -> Iterable[Tensor]:
        """All that is kept."""
        return self.cache.keys, self.cache.values

    def _project(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        qkv = self.attention.qkv(x_BND).unflatten(-1, (3, self.attention.config.num_heads, -1))
        return qkv.permute(2, 0, 3, 1, 4).unbind()


class Pyramid:
    """`Decomposition` token by token: of every scale but the coarsest the tokens that the next coarser one needs."""

    def __init__(self, decompose: Decomposition, like: Tensor, config: ModelConfig) -> None:
        self.decompose = decompose
        self.windows = [Window(like, decompose.window, config.d_model) for _ in range(config.num_scales - 1)]

    def step(self, x_B1D: Tensor, finished: int) -> list[Tensor]:
        """The `finished` scales' new tokens (B, 1, D), finest first, of which the finest is given."""
        new = [x_B1D]
        for level, window in enumerate(self.windows):
            seen_BnD = window.push(new[level])
            if len(new) == finished:
                break
            new.append(self.decompose.last(level, seen_BnD))
        return new

    def prefill(self, scales: list[Tensor]) -> None:
        """Keep what is needed of whole scales (B, n_l, D)."""
        for window, scale in zip(self.windows, scales, strict=False):
            window.push(scale)


class Window:
    """The last `size` inputs (B, size, D) of a sequence, zeros before its first."""

    def __init__(self, like: Tensor, size: int, width: int) -> None:
        self.last = like.new_zeros(like.shape[0], size, width)

    def push(self, x_BMD: Tensor) -> Tensor:
        """Take in M more; the window after them."""
        size = self.last.shape[1]
        self.last = torch.cat((self.last[:, x_BMD.shape[1] :], x_BMD[:, max(0, x_BMD.shape[1] - size) :]), dim=1)
        return self.last


class KeyValues:
    """Keys (B, H, W, dk) and values (B, H, W, d) of the last W tokens, the newest in the place of the oldest.

    With the span `full` those of all tokens.
    """

    def __init__(self, like: Tensor, heads: int, qk_dim: int, head_dim: int, span: int | Literal["full"]) -> None:
        self.grows = span == "full"
        self.count = 0
        room = _FIRST_ROOM if span == "full" else span
        self.keys = like.new_zeros(like.shape[0], heads, room, qk_dim)
        self.values = like.new_zeros(like.shape[0], heads, room, head_dim)

    def push(self, keys_BHmd: Tensor, values_BHmd: Tensor) -> None:
        """Take in those of m more tokens."""
        m, room = keys_BHmd.shape[2], self.keys.shape[2]
        while self.grows and self.count + m > room:
            self.keys, self.values = (torch.cat((x, torch.zeros_like(x)), 2) for x in (self.keys, self.values))
            room *= 2
        kept = min(m, room)
        self.count += m
        start = (self.count - kept) % room
        to_end = min(kept, room - start)
        for into, new in ((self.keys, keys_BHmd[:, :, m - kept :]), (self.values, values_BHmd[:, :, m - kept :])):
            into[:, :, start : start + to_end] = new[:, :, :to_end]
            into[:, :, : kept - to_end] = new[:, :, to_end:]

    def attend(self, q_BH1d: Tensor) -> Tensor:
        """What one query makes of them: (B, H, 1, d)."""
        return attend_to_all(q_BH1d, self.keys[:, :, : self.count], self.values[:, :, : self.count])
