"""Decoding token by token: the model over a state whose size, without a descent, does not depend on their number."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from maha_model.attention import rotary_line
from maha_model.config import ModelConfig
from maha_model.inference.cache import first_room
from maha_model.inference.captured import CapturedSteps
from maha_model.inference.compiled import CompiledSteps
from maha_model.inference.streams import PyramidPosition, build_stream
from maha_model.kernels.dispatch import device_kind
from maha_model.kernels.fuse import compute_dtype
from maha_model.kernels.rotary import rotary_frequencies
from maha_model.transformer import Block, CausalLM


class StreamingState:
    """The state of a transformer's `blocks` and final `norm` after the inputs so far of sequences of equal length.

    Outputs are those of the full forward, in evaluation mode. The size is O(L W D) a layer with a finite span;
    `standard` attention, `span: full` and a descent keep every key and value, in room that doubles when it is full.

    Args:
        blocks: of the transformer.
        norm: after the last of them.
        config: of the model.
        like: (B, 0), whose dtype and device the state has. Its tensors are never those of inference mode, which torch
            compiles apart from others.
        compile: whether steps of one token run as code that torch.compile makes of them once all scales have a token:
            faster after a start of several seconds, which a model's states share. On a GPU they are CUDA graphs too.
    """

    @torch.inference_mode(False)
    def __init__(
        self, blocks: Iterable[nn.Module], norm: nn.Module, config: ModelConfig, like: Tensor, compile: bool = False
    ) -> None:
        self.config = config
        self.position = 0
        """Tokens so far."""
        self._dtype = like.dtype
        self._kind = "cpu" if like.is_meta else like.device.type  # a shapes-only run has no autocast of its own
        maha = config.attention == "maha"
        wide = like.new_empty(0, dtype=compute_dtype(like.dtype))
        qk_dim = config.scale_qk_dim if maha else config.head_dim
        self._frequencies = rotary_frequencies(qk_dim, config.rope_base, wide)[None]
        scales = config.num_scales if maha else 1
        grows = config.descent > 0 or config.attention == "standard" or config.span == "full"
        self._window = None if grows else int(config.span)
        self._room = first_room(config.ratio, scales)
        self._at = PyramidPosition(
            finished=0,
            present=0,
            slots=[like.new_zeros(1, dtype=torch.int64) for _ in range(scales)],
            empty=[like.new_full((self._window or 0,), -torch.inf) for _ in range(scales)],
            angles=[(torch.empty_like(self._frequencies), torch.empty_like(self._frequencies)) for _ in range(scales)],
        )
        self._norm = norm
        self._compiled = CompiledSteps(norm) if compile else None
        self._captured = CapturedSteps() if compile and device_kind(like) == "cuda" else None
        self._layers = [(block, build_stream(block.attention, like)) for block in blocks if isinstance(block, Block)]

    def advance(self, x_BND: Tensor, inputs: list[Tensor] | None = None) -> Tensor:
        """Append N >= 1 tokens, given as embeddings; the hidden states (B, N, D) after the final norm.

        All at once in a new state, else one by one. The inputs (B, N, D) of every block are appended to `inputs`.
        """
        x_BND = x_BND.to(self._dtype)
        if x_BND.shape[1] > 1 and self.position:
            found: list[list[Tensor]] = [[] for _ in range(x_BND.shape[1])]
            hidden = [self.advance(x_B1D, into) for x_B1D, into in zip(x_BND.split(1, dim=1), found, strict=True)]
            if inputs is not None:
                inputs += [torch.cat(steps, dim=1) for steps in zip(*found, strict=True)]
            return torch.cat(hidden, dim=1)
        self._move_on(x_BND.shape[1])
        with self._without_autocast():
            return self._next(x_BND) if inputs is None else self._norm(self._through_blocks(x_BND, inputs))

    @torch.inference_mode(False)
    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times. Indices (K) int64."""
        for _, stream in self._layers:
            stream.select(rows_K)
        self._tensors_changed()

    def tensors(self) -> Iterator[Tensor]:
        """All that is kept."""
        return chain(self._at.tensors(), *(stream.tensors() for _, stream in self._layers))

    def num_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum({x.data_ptr(): x.untyped_storage().nbytes() for x in self.tensors()}.values())

    @torch.inference_mode(False)
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.config)] = self.config
        for module in (self._norm, *(block for block, _ in self._layers)):  # the model is the same one
            memo.update({id(part): part for part in module.modules()})
        new = object.__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def _next(self, new: Tensor) -> Tensor:
        """`process`, compiled if that was chosen, and captured on a GPU."""
        at = self._at
        if self._compiled is None or new.shape[1] > 1 or at.present < len(at.slots):
            return self.process(new)
        if self._captured is None or torch.is_grad_enabled():  # a graph has no gradients
            return self._compiled_step(new)
        return self._captured.run(self._compiled_step, new, at.finished)

    def _compiled_step(self, new: Tensor) -> Tensor:
        assert self._compiled is not None
        growing = (cache.rows for _, stream in self._layers for cache in stream.caches if cache.grows)
        return self._compiled.run(type(self).process, self, new, growing, self._at.finished, self.config.ratio)

    def process(self, x_BND: Tensor) -> Tensor:
        """Hidden states (B, N, D) after the final norm of new tokens' embeddings, whose places are set already."""
        return self._norm(self._through_blocks(x_BND))

    def _through_blocks(self, x_BND: Tensor, inputs: list[Tensor] | None = None) -> Tensor:
        """Before the final norm; N = 1 unless the state is new. The position is that of the last token already."""
        for block, stream in self._layers:
            if inputs is not None:
                inputs.append(x_BND)
            take = stream.step if x_BND.shape[1] == 1 and block.attention.split is None else stream.prefill
            x_BND = x_BND + take(block.attention_norm(x_BND), self._at)
            x_BND = x_BND + block.ffn(block.ffn_norm(x_BND))
        return x_BND

    def _move_on(self, count: int) -> None:
        """The place of the newest token of every scale that has one more."""
        before, self.position = self.position, self.position + count
        at, ratio = self._at, self.config.ratio
        counts = [(self.position // ratio**level, before // ratio**level) for level in range(len(at.slots))]
        at.finished = sum(after > earlier for after, earlier in counts)
        at.present = sum(after > 0 for after, _ in counts)
        for level, (n, earlier) in enumerate(counts[: at.finished]):
            first, step = rotary_line(self.config, ratio**level)
            angle = self._frequencies * (first + step * (n - 1))
            torch.cos(angle, out=at.angles[level][0])
            torch.sin(angle, out=at.angles[level][1])
            at.slots[level].fill_(n - 1 if self._window is None else (n - 1) % self._window)
            if self._window is not None and earlier < self._window:
                at.empty[level][:n] = 0
        while self._window is None and self.position > self._room:
            self._double_room()

    @torch.inference_mode(False)
    def _double_room(self) -> None:
        self._room *= 2
        for _, stream in self._layers:
            for cache in stream.caches:
                cache.double()
        self._tensors_changed()

    def _without_autocast(self) -> AbstractContextManager[object]:
        """What is kept has the weights' type, which autocast would change between operations."""
        return torch.autocast(self._kind, enabled=False) if torch.is_autocast_enabled(self._kind) else nullcontext()

    def _tensors_changed(self) -> None:
        if self._compiled is not None:
            self._compiled.check_again()
        if self._captured is not None:
            self._captured.forget()


class DecodingState(StreamingState):
    """The state of `model` (in evaluation mode) after the tokens so far of `batch_size` sequences of equal length."""

    def __init__(self, model: CausalLM, batch_size: int = 1, compile: bool = False) -> None:
        transformer, self.model = model.transformer, model
        like = model.lm_head.weight.new_zeros(batch_size, 0)
        super().__init__(transformer.blocks, transformer.norm, model.config, like, compile)

    @torch.inference_mode()
    def prefill(self, ids_BN: Tensor) -> Tensor:
        """Append a whole prompt, N >= 1, at once; logits (B, V) of the token after it.

        Where processes share the prompt (`CausalLM.context_parallel`) `ids_BN` is this one's part; the process of the
        last part alone has the logits, and a state to go on from without `context_parallel`.

        Raises:
            ValueError: if there is no token, or the state has some already.
        """
        if self.position or not ids_BN.shape[1]:
            raise ValueError("prefill takes the first tokens, at least one; give later ones to step")
        split = self.model.context_parallel
        self._move_on(ids_BN.shape[1] if split is None else sum(split.sizes))
        with self._without_autocast():
            return self.process(ids_BN)

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Append one token a sequence; logits (B, V) of the next."""
        self._move_on(1)
        with self._without_autocast():
            return self._next(ids_B[:, None])

    def process(self, ids_BN: Tensor) -> Tensor:
        """Logits (B, V) after the last of new tokens, whose places are set already."""
        x_BND = self._through_blocks(self.model.transformer.embedding(ids_BN))
        return self.model.lm_head(self._norm(x_BND[:, -1]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo.update({id(part): part for part in self.model.modules()})
        return super().__deepcopy__(memo)
