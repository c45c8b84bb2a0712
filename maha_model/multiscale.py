"""The causal multiscale pyramid: local context, decomposition, shifted upsampling, cross-scale gating.

Visibility rule (docs/model.md): coarse token j of scale l covers positions up to (j+1) r^l - 1 and may be used at
position t only if (j+1) r^l - 1 <= t, that is j(t) = floor((t+1) / r^l) - 1. Where j(t) < 0 the scale is absent.
With `causal=False` windows are centred, upsampling is the plain nearest neighbour and every scale is present.
"""

import torch
from torch import Tensor, nn

from maha_model.config import ModelConfig
from maha_model.convolution import DepthwiseConv
from maha_model.kernels.depthwise import Pyramid, pyramid
from maha_model.kernels.fuse import Placement, Problem, fuse
from maha_model.layers import normal_


class Decomposition(nn.Module):
    """X_l = D_l(X_{l-1}) for l = 1..L-1 (paper eq. 5); the same operators serve the shared values (eq. 6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ratio, self.causal = config.ratio, config.causal
        self.num_scales = config.num_scales
        self.kernel_size = self.kernel_size_of(config.ratio)
        self.convs = nn.ModuleList(
            DepthwiseConv(config.d_model, self.kernel_size, stride=config.ratio, causal=config.causal)
            for _ in range(config.num_scales - 1 if config.decomposition == "conv" else 0)
        )

    @staticmethod
    def kernel_size_of(ratio: int) -> int:
        """The paper's kernel is 3; a larger ratio needs a larger one, or tokens between windows would be lost."""
        return max(3, ratio)

    def initialize_parameters(self) -> None:
        """An average over the window, slightly perturbed: a coarse token starts as a summary of what it covers."""
        for conv in self.convs:
            assert isinstance(conv, DepthwiseConv)
            normal_(conv.weight, mean=1 / self.kernel_size, std=0.1 / self.kernel_size)

    def forward(self, x_BND: Tensor) -> list[Tensor]:
        """(B, N, D) -> [(B, n_l, D)] with n_0 = N, n_l = floor(n_{l-1} / r); scales without a token are left out."""
        scales = [x_BND]
        for level in range(self.num_scales - 1):
            if scales[-1].shape[1] < self.ratio:
                break
            scales.append(self.convs[level](scales[-1]) if self.convs else self._max_pool(scales[-1]))
        return scales

    def packed(self, context_BND: Tensor, value_BND: Tensor) -> Pyramid:
        """All scales of both, packed; N >= r^(L-1)."""
        first = self.convs[0]
        assert isinstance(first, DepthwiseConv)
        return pyramid(context_BND, value_BND, [conv() for conv in self.convs], self.ratio, first.left)

    @property
    def window(self) -> int:
        """Tokens of a scale that a token of the next coarser one is made from."""
        return self.kernel_size if self.convs else self.ratio

    def last(self, level: int, x_BND: Tensor) -> Tensor:
        """The token (B, 1, D) of scale `level` + 1 that ends with the last of scale `level`'s `window` tokens."""
        if not self.convs:
            return x_BND.amax(1, keepdim=True)
        conv = self.convs[level]
        assert isinstance(conv, DepthwiseConv)
        return conv.last(x_BND)

    def _max_pool(self, x_BND: Tensor) -> Tensor:
        n = x_BND.shape[1] // self.ratio
        return x_BND[:, : n * self.ratio].unflatten(1, (n, self.ratio)).amax(dim=2)


def upsample(coarse: Tensor, factor: int, length: int, causal: bool = True, dim: int = 1) -> Tensor:
    """Bring a coarse sequence to `length` positions along `dim`: coarse token j(t) at position t, zero where absent.

    Causal: j(t) = floor((t+1)/factor) - 1. Otherwise nearest neighbour, the last token repeated over a tail.
    """
    if factor == 1:
        return coarse
    shape = list(coarse.shape)
    repeated = coarse.unsqueeze(dim + 1).expand(*shape[: dim + 1], factor, *shape[dim + 1 :]).flatten(dim, dim + 1)
    if causal:
        before = repeated.new_zeros(*shape[:dim], factor - 1, *shape[dim + 1 :])
        return torch.cat((before, repeated), dim=dim).narrow(dim, 0, length)
    tail = length - repeated.shape[dim]
    if tail <= 0:
        return repeated.narrow(dim, 0, length)
    return torch.cat((repeated, coarse.narrow(dim, -1, 1).expand(*shape[:dim], tail, *shape[dim + 1 :])), dim=dim)


class CrossScaleGate(nn.Module):
    """g C_l + (1 - g) U(C_{l+1}), one g = sigmoid(W_g [C_l; U(C_{l+1})] + b) per head; C_l where U(C) is absent."""

    OPEN = 2.0  # initial bias: a scale starts mostly (sigmoid(2) = 0.88) as itself

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.placements = [Placement(0, 1), Placement(config.ratio - 1 if config.causal else 0, config.ratio)]
        self.fine = nn.Linear(config.d_model, config.num_heads)
        self.coarse = nn.Linear(config.d_model, config.num_heads, bias=False)

    def initialize_parameters(self) -> None:
        """Start near the identity."""
        nn.init.constant_(self.fine.bias, self.OPEN)

    def forward(self, fine_BND: Tensor, coarse_BnD: Tensor) -> Tensor:
        """(B, n_l, D), (B, n_{l+1}, D) -> (B, n_l, D)."""
        fine, coarse = self.placements
        length = fine_BND.shape[1]
        # Half of W_g multiplies each side: applied before upsampling, with which a linear map commutes.
        logits_BNH = self.fine(fine_BND) + upsample(self.coarse(coarse_BnD), coarse.factor, length, coarse.first > 0)
        present_N1 = torch.arange(length, device=fine_BND.device)[:, None] >= coarse.first
        away_BNH = torch.sigmoid(-logits_BNH) * present_N1
        weights_BN2H = torch.stack((1 - away_BNH, away_BNH), dim=2)
        outputs = [x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (fine_BND, coarse_BnD)]
        blended_BNHd, _ = fuse(outputs, [fine, coarse], length, Problem("given"), linear=weights_BN2H)
        return blended_BNHd.flatten(2)

    def last(self, fine_B1D: Tensor, coarse_B1D: Tensor) -> Tensor:
        """The last token (B, 1, D) of the finer scale, given the last finished one of the coarser scale."""
        away_B1H = torch.sigmoid(-self.fine(fine_B1D) - self.coarse(coarse_B1D))
        fine, coarse = (x.unflatten(-1, (self.num_heads, -1)) for x in (fine_B1D, coarse_B1D))
        return torch.lerp(fine, coarse, away_B1H[..., None]).flatten(2)
