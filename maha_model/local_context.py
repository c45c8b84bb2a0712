"""Local context before the scales: the dilated convolution of the paper's hybrid block."""

from torch import Tensor, nn
from torch.nn import functional as F

from maha_model.config import ModelConfig
from maha_model.convolution import DepthwiseConv
from maha_model.layers import normal_


class LocalContext(nn.Module):
    """C(X) = X + ReLU(dilated convolution of X): the paper's hybrid block (its eq. 11), causal and depthwise."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv = DepthwiseConv(config.d_model, kernel_size=3, dilation=config.dilation, causal=config.causal)

    def initialize_parameters(self) -> None:
        """Random taps: from exactly zero the ReLU would pass no gradient."""
        normal_(self.conv.weight, std=self.conv.weight.shape[0] ** -0.5)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return x_BND + F.relu(self.conv(x_BND))

    @property
    def window(self) -> int:
        """Inputs that an output depends on."""
        return self.conv.window

    def last(self, x_BND: Tensor) -> Tensor:
        """The last output (B, 1, D) of one window, N = `window`."""
        return x_BND[:, -1:] + F.relu(self.conv.last(x_BND))
