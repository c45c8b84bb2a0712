"""Operations of torch that are one kernel on a GPU and many elsewhere, in the form of the GPU."""

from collections import Counter
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FROM_THE_HOST = (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)


class GPUForms(TorchFunctionMode):
    """On tensors of the device `meta`: fused attention, fused RMSNorm; counts tensors that are made from host values."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, or the GPU's in its place."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _attention(*args, **kwargs)
        if func in (F.rms_norm, torch.rms_norm) and args[0].is_meta:
            return _RMSNorm.apply(args[0], kwargs["weight"] if "weight" in kwargs else args[2])
        if func in _FROM_THE_HOST:
            self._waits[func.__name__] += 1
        return func(*args, **kwargs)


class _RMSNorm(torch.autograd.Function):
    """LayerNorm's kernel each way in its place: for `meta` torch takes RMSNorm itself apart."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return torch.native_layer_norm(x, x.shape[-1:], weight, None, 1e-6)[0]

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        mean = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        grads = torch.ops.aten.native_layer_norm_backward(
            grad, x, x.shape[-1:], mean, mean, weight, None, [True, True, False]
        )
        return grads[0], grads[1]


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Flash attention, or with a mask the memory-efficient kernel, which takes one as numbers that are added."""
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(  # noqa: SLF001
            q, k, v, dropout_p, is_causal, False, scale=scale
        )[0]
    bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, -torch.inf)
    bias = bias.expand(*q.shape[:2], *bias.shape[-2:])
    return torch.ops.aten._scaled_dot_product_efficient_attention(  # noqa: SLF001
        q, k, v, bias, True, dropout_p, is_causal, scale=scale
    )[0]
