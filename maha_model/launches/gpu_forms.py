"""Operations of torch that are one kernel on a GPU and many elsewhere, in the form of the GPU."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F

from maha_model.layers import RMSNorm

_FROM_THE_HOST = ((torch, "tensor"), (torch, "as_tensor"), (torch, "from_numpy"), (torch.Tensor, "new_tensor"))


@contextlib.contextmanager
def gpu_forms(waits: Counter[str]) -> Iterator[None]:
    """Inside, tensors of the device `meta` take fused attention and RMSNorm; tensors made from host values are counted.

    Functions are replaced, as a mode would be off while a backward pass recomputes.
    """
    with contextlib.ExitStack() as replaced:

        def replace(owner: Any, name: str, form: Callable[..., Any]) -> None:
            replaced.enter_context(mock.patch.object(owner, name, form))

        replace(F, "scaled_dot_product_attention", _on_meta(_attention, F.scaled_dot_product_attention))
        replace(RMSNorm, "forward", lambda norm, x: _RMSNorm.apply(x, norm.weight))
        for owner, name in _FROM_THE_HOST:
            replace(owner, name, _counted(getattr(owner, name), name, waits))
        yield


def _on_meta(form: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: (form if x.is_meta else otherwise)(x, *args, **kwargs)


def _counted(function: Callable[..., Any], name: str, waits: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        waits[name] += 1
        return function(*args, **kwargs)

    return counted


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
