"""Decoding token by token: the model over a state whose size, without a descent, does not depend on their number."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from maha_model.attention import rotary_line
from maha_model.inference.streams import PyramidPosition, build_stream
from maha_model.kernels.fuse import compute_dtype
from maha_model.kernels.rotary import rotary_angles
from maha_model.transformer import Block, CausalLM


class DecodingState:
    """The state of `model` (in evaluation mode) after the tokens so far of `batch_size` sequences of equal length.

    The logits are those of the full forward. The size is O(L W D) a layer with a finite span; `standard` attention,
    `span: full` and a descent keep every key and value, in room that doubles when it is full.
    """

    def __init__(self, model: CausalLM, batch_size: int = 1) -> None:
        self.model, self.config = model, model.config
        self.position = 0
        """Tokens so far."""
        maha = self.config.attention == "maha"
        self._qk_dim = self.config.scale_qk_dim if maha else self.config.head_dim
        self._at = PyramidPosition(0, 0, 0, [self._angles(0) for _ in range(self.config.num_scales if maha else 1)])
        like = model.lm_head.weight.new_zeros(batch_size, 0)
        blocks = [block for block in model.transformer.blocks if isinstance(block, Block)]
        self._layers = [(block, build_stream(block.attention, like)) for block in blocks]

    @torch.inference_mode()
    def prefill(self, ids_BN: Tensor) -> Tensor:
        """Append a whole prompt, N >= 1, at once; logits (B, V) of the token after it.

        Raises:
            ValueError: if there is no token, or the state has some already.
        """
        if self.position or not ids_BN.shape[1]:
            raise ValueError("prefill takes the first tokens, at least one; give later ones to step")
        self._advance(ids_BN)
        return self._logits(ids_BN)

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Append one token a sequence; logits (B, V) of the next."""
        self._advance(ids_B[:, None])
        return self._logits(ids_B[:, None])

    def tensors(self) -> Iterator[Tensor]:
        """All that is kept."""
        return chain(chain(*self._at.angles), *(stream.tensors() for _, stream in self._layers))

    def num_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum({x.data_ptr(): x.untyped_storage().nbytes() for x in self.tensors()}.values())

    def _advance(self, ids_BN: Tensor) -> None:
        """Move on by N tokens, N = 1 unless the state is new."""
        before, self.position = self.position, self.position + ids_BN.shape[1]
        at, ratio = self._at, self.config.ratio
        counts = [(self.position // ratio**level, before // ratio**level) for level in range(len(at.angles))]
        at.finished = sum(after > earlier for after, earlier in counts)
        at.present = sum(after > 0 for after, _ in counts)
        at.position = self.position - 1
        for level in range(at.finished):
            first, step = rotary_line(self.config, ratio**level)
            at.angles[level] = self._angles(first + step * (counts[level][0] - 1))

    def _angles(self, position: float) -> tuple[Tensor, Tensor]:
        weight = self.model.lm_head.weight
        position_1 = torch.tensor([position], dtype=compute_dtype(weight.dtype), device=weight.device)
        return rotary_angles(position_1, self._qk_dim, self.config.rope_base)

    def _logits(self, ids_BN: Tensor) -> Tensor:
        transformer = self.model.transformer
        x_BND = transformer.embedding(ids_BN)
        for block, stream in self._layers:
            take = stream.step if ids_BN.shape[1] == 1 else stream.prefill
            x_BND = x_BND + take(block.attention_norm(x_BND), self._at)
            x_BND = x_BND + block.ffn(block.ffn_norm(x_BND))
        return self.model.lm_head(transformer.norm(x_BND[:, -1]))
