"""Local context before attention: a short causal convolution, the paper's hybrid block or plain."""

from torch import Tensor, nn
from torch.nn import functional as F

from maha_model.config import ModelConfig
from maha_model.convolution import DepthwiseConv
from maha_model.layers import normal_

_PLAIN_STD = 0.3  # of a plain convolution's first taps: recall is learned several times faster than from zero


class LocalContext(nn.Module):
    """C(X) = X + f(dilated convolution of X), causal and depthwise; f = ReLU in the paper (eq. 11)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv = DepthwiseConv(config.d_model, kernel_size=3, dilation=config.dilation, causal=config.causal)
        self.plain = config.local_activation == "none"

    def initialize_parameters(self) -> None:
        """Random taps: from exactly zero the ReLU would pass no gradient."""
        normal_(self.conv.weight, std=_PLAIN_STD if self.plain else self.conv.weight.shape[0] ** -0.5)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return x_BND + self._activate(self.conv(x_BND))

    @property
    def window(self) -> int:
        """Inputs that an output depends on."""
        return self.conv.window

    def last(self, x_BND: Tensor) -> Tensor:
        """The last output (B, 1, D) of one window, N = `window`."""
        return x_BND[:, -1:] + self._activate(self.conv.last(x_BND))

    def _activate(self, x_BND: Tensor) -> Tensor:
        return x_BND if self.plain else F.relu(x_BND)
