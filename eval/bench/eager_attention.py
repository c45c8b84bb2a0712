"""Attention with its scores written out, as the field's libraries do without a fused kernel: for measurement only.

The same functions as `StandardAttention` computes by fused kernels (tested), in the forms that a user of those
libraries runs, without dropout and without the mask of padded tokens, which windows of a stream of text do not have.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from maha_model import CausalLM
from maha_model.attention import StandardAttention
from maha_model.kernels.rotary import apply_rotary


class EagerAttention(StandardAttention):
    """Full causal attention with N x N scores a head: the `eager` attention of Hugging Face's models.

    Scores in the model's precision, an additive mask, softmax in float32, weights cast back for the product with V. In
    bfloat16 autograd keeps the weights twice, in float32 for the softmax and in bfloat16 for the product.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        """As `StandardAttention.attend`, its scores written out."""
        q, k, v = self._rotated(qkv)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        weights = _softmax(scores + _mask(future, q.dtype), q.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _rotated(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(-1, (3, self.config.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return apply_rotary(q, self.config.rope_base), apply_rotary(k, self.config.rope_base), v.contiguous()


class BandedAttention(EagerAttention):
    """A causal sliding window with N x (2w + 1) scores a head, w = span - 1: Longformer's `sliding chunks`.

    As in Hugging Face's Longformer with an attention window of 2w (Beltagy et al. 2020, the form without a custom CUDA
    kernel): overlapping chunks of 2w against themselves, their diagonals copied to the columns of a band, an additive
    mask, softmax over the band in float32, the band padded back to diagonals for the product with windows of 3w values.
    The form has no causal window: the w columns of the future are computed and masked.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        """As `StandardAttention.attend`, its band of scores written out."""
        assert isinstance(self.span, int)
        q, k, v = self._rotated(qkv)
        B, H, N, d = q.shape
        w = self.span - 1
        padding = (0, 0, 0, -N % (2 * w))
        q, k, v = (F.pad(x, padding).flatten(0, 1) if padding[-1] else x.flatten(0, 1) for x in (q, k, v))
        band = self._band(q * d**-0.5, k, w)
        weights = _softmax(band, q.dtype).unflatten(1, (-1, w))
        # row r of a block of w weighs the values r .. r + 2w of the 3w around the block
        diagonal = F.pad(weights, (0, w + 1)).flatten(2)[..., :-w].unflatten(2, (w, 3 * w + 1))[..., :-1]
        windows = F.pad(v, (0, 0, w, w)).unfold(1, 3 * w, w).mT
        return (diagonal @ windows).view(B, H, -1, d)[:, :, :N].transpose(1, 2).flatten(2)

    @staticmethod
    def _band(q: Tensor, k: Tensor, w: int) -> Tensor:
        """Masked scores (B*H, N, 2w + 1): column j of row i is key i + j - w."""
        N = q.shape[1]
        chunks_q, chunks_k = (x.unfold(1, 2 * w, w).mT for x in (q, k))
        scores = chunks_q @ chunks_k.mT  # (B*H, N / w - 1, 2w, 2w)
        # A row longer by one turns diagonals into columns: keys ahead on their row, keys behind on the row before.
        skewed = F.pad(scores, (0, 0, 0, 1)).flatten(2).unflatten(2, (2 * w, 2 * w + 1))
        band = q.new_zeros(len(q), N // w, w, 2 * w + 1)
        band[:, :-1, :, w:] = skewed[:, :, :w, : w + 1]
        band[:, -1, :, w:] = skewed[:, -1, w:, : w + 1]
        band[:, 1:, :, :w] = skewed[:, :, w - 1 : 2 * w - 1, w + 1 :]
        band[:, 0, 1:, 1:w] = skewed[:, 0, : w - 1, w + 2 :]
        band = band.flatten(1, 2)
        ahead = torch.arange(2 * w + 1, device=q.device) - w
        band += _mask((ahead > 0) | (torch.arange(N, device=q.device)[:, None] + ahead < 0), q.dtype)
        return band


def use_attention(model: CausalLM, kind: type[StandardAttention]) -> CausalLM:
    """The model, its attention computed by `kind` with the same weights."""
    for block in model.transformer.blocks:
        attention = kind(model.config)
        attention.load_state_dict(block.attention.state_dict())  # type: ignore[union-attr]
        block.attention = attention
    return model


def _mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """In float32, at least."""
    return F.softmax(scores, dim=-1, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
