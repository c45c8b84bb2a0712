"""Depthwise convolution against torch's."""

import pytest
import torch

from maha_model.convolution import DepthwiseConv


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 3), (2, 1)])
def test_it_is_torchs_convolution(causal: bool, stride: int, dilation: int) -> None:
    conv = DepthwiseConv(6, kernel_size=3, stride=stride, dilation=dilation, causal=causal).double()
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 21, 6, dtype=torch.float64)
    reach = 2 * dilation
    left, right = (reach + 1 - stride, 0) if causal else (reach // 2, reach // 2)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (left, right))
    weight = conv.weight.T[:, None]
    expected = torch.nn.functional.conv1d(padded, weight, stride=stride, dilation=dilation, groups=6).transpose(1, 2)
    torch.testing.assert_close(conv(x), expected[:, : 21 // stride])


@pytest.mark.parametrize("dilation", [1, 3])
def test_the_last_output_needs_one_window_alone(dilation: int) -> None:
    conv = DepthwiseConv(6, kernel_size=3, dilation=dilation)
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 21, 6)
    torch.testing.assert_close(conv.last(x[:, -conv.window :]), conv(x)[:, -1:])
