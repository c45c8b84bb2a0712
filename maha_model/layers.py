"""Building blocks every transformer of this package shares: norm, feed-forward network, wide map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maha_model.config import ModelConfig
from maha_model.kernels.dispatch import device_kind
from maha_model.kernels.fuse import compute_dtype
from maha_model.kernels.swiglu import swiglu


@torch.no_grad()
def normal_(parameter: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    """Fill from a normal distribution, drawn in float32 at least: a model starts alike in every precision."""
    wide = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
    parameter.copy_(wide.normal_(mean, std))


class RMSNorm(nn.RMSNorm):
    """torch's, but on the CPU too it keeps its input and one number a position, as torch's kernel for GPUs does.

    On the CPU torch's own keeps two tensors of the input's shape in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return super().forward(x) if x.is_cuda else _RMSNorm.apply(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def]
        wide = _wide(x)
        inverse = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse * weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, weight, inverse = ctx.saved_tensors
        normal, grad = _wide(x) * inverse, _wide(grad)
        grad_weight = (grad * normal).flatten(0, -2).sum(0).to(weight.dtype)
        grad_normal = grad * weight
        along = (grad_normal * normal).mean(-1, keepdim=True)
        return (grad_normal.sub_(normal.mul_(along)).mul_(inverse)).to(x.dtype), grad_weight, None


class WideLinear(nn.Linear):
    """torch's, but computed and returned in float32 at least, and it keeps its input in the input's dtype.

    For small maps whose results must not be rounded to bfloat16: products and sums of bfloat16 numbers are float32.
    On a GPU the gradient is rounded to the weights' dtype, as in every other map: its products are single kernels then.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.weight.dtype == compute_dtype(self.weight.dtype):
            return super().forward(x.to(self.weight.dtype))
        return _WideLinear.apply(x, self.weight, self.bias)


class _WideLinear(torch.autograd.Function):
    """A linear map of x (..., in) by bfloat16 weights (out, in) and a bias (out), or None, in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.biased, ctx.on_gpu = bias is not None, device_kind(x) == "cuda" and x.dtype == weight.dtype
        if ctx.on_gpu:  # of 16-bit operands the kernel's own sums, as they are
            out = torch.mm(x.flatten(0, -2), weight.T, out_dtype=torch.float32).unflatten(0, x.shape[:-1])
            return out if bias is None else out.add_(bias)
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        dtype = weight.dtype if ctx.on_gpu else torch.float32
        rows = grad.flatten(0, -2).to(dtype)
        grad_weight = (rows.T @ x.flatten(0, -2).to(dtype)).to(weight.dtype)
        grad_bias = rows.sum(0).to(weight.dtype) if ctx.biased else None
        return (rows @ weight.to(dtype)).to(x.dtype).view(x.shape), grad_weight, grad_bias


def linear_of_parts(rows: Tensor, first: Tensor, others: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map of rows (T, in) -> (T, out) that keeps the two tensors with the same rows in place of them.

    Args:
        rows: the input.
        first: its first rows again, (B, N, in), without a gradient; something else keeps them anyway.
        others: the rows after these, (T - B N, in), alike.
        weight: (out, in).
        bias: (out).
    """
    return _LinearOfParts.apply(rows, first, others, weight, bias)


class _LinearOfParts(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, rows: Tensor, first: Tensor, others: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(first, others, weight)
        ctx.biased = bias is not None
        return F.linear(rows, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        first, others, weight = ctx.saved_tensors
        first = first.flatten(0, 1)
        grad_weight = (grad[: len(first)].T @ first).addmm_(grad[len(first) :].T, others)
        return grad @ weight, None, None, grad_weight, grad.sum(0) if ctx.biased else None


class Embedding(nn.Embedding):
    """torch's, its gradient summed in float32 at least: of a token that comes often bfloat16 would lose most.

    256 equal gradients are all that a bfloat16 sum can hold.
    """

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, N) int64 -> (B, N, D)."""
        return _Embedding.apply(input_ids, self.weight)


class _Embedding(torch.autograd.Function):
    """Rows of `weight` (V, D)."""

    @staticmethod
    def forward(ctx, input_ids: Tensor, weight: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(input_ids)
        ctx.rows, ctx.dtype = weight.shape[0], weight.dtype
        return F.embedding(input_ids, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[no-untyped-def]
        (input_ids,) = ctx.saved_tensors
        return None, torch.ops.aten.embedding_dense_backward(_wide(grad), input_ids, ctx.rows, -1, False).to(ctx.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def build_norm(config: ModelConfig) -> nn.Module:
    """RMSNorm or LayerNorm over the last dimension (D)."""
    return RMSNorm(config.d_model, eps=1e-6) if config.norm == "rmsnorm" else nn.LayerNorm(config.d_model)


class FeedForward(nn.Module):
    """Position-wise network (B, N, D) -> (B, N, D): SwiGLU (Shazeer 2020) or the two-matrix GELU form."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.ffn == "swiglu"
        self.up = nn.Linear(config.d_model, (2 if self.gated else 1) * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        hidden = self.up(x_BND)
        if self.gated:
            return self.down(swiglu(hidden))
        return self.down(F.gelu(hidden))


@torch.no_grad()
def prefer_near_(bias: Tensor, num_heads: int, height: float) -> None:
    """Fill the bias (H*d) of the queries, and that of the keys alike, so that their product prefers near tokens.

    Two such biases, rotated to positions a distance x apart, give head h the score h' / (d/2) * sum_i cos(w_i x), w_i
    the rotary frequencies and h' = height * (2h + 1) / H. As the frequencies are spaced evenly in logarithm, it falls
    about as -log x: attention starts as a power law of the distance, steeper from head to head.
    """
    d = bias.numel() // num_heads
    heights_H = height * (2 * torch.arange(num_heads, device=bias.device, dtype=torch.float32) + 1) / num_heads
    bias_Hd = bias.view(num_heads, d)
    bias_Hd[:, : d // 2] = (heights_H * (2 / d**0.5)).sqrt()[:, None]  # scores are divided by sqrt(d)
    bias_Hd[:, d // 2 :] = 0
