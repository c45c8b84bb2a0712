"""Launching the Triton kernels for keys that are bounds."""

from typing import Any

import torch
import triton
from torch import Tensor

from maha_model.kernels.descent.triton_kernels_parts import merge_kernel, split_kernel


def beside_bounds(q: Tensor, width: int) -> Tensor:
    """As `reference.beside_bounds`: queries for products with keys of a width."""
    if q.shape[3] == width:
        return q
    q = q if q.stride(-1) == 1 else q.contiguous()
    parts = q.new_empty(*q.shape[:3], 2 * q.shape[3])
    _launch_rows(split_kernel, q, q, q.stride()[:3], parts)
    return parts


def merged(grad: Tensor, q: Tensor) -> Tensor:
    """The gradient of queries from that of `beside_bounds(q)`."""
    if grad.shape == q.shape:
        return grad
    q = q if q.stride(-1) == 1 else q.contiguous()
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    _launch_rows(merge_kernel, q, grad, q, q.stride()[:3], grad_q)
    return grad_q


def _launch_rows(kernel: Any, q: Tensor, *arguments: Any) -> None:
    """A kernel over all rows of q (B, H, M, d)."""
    B, H, M, d = q.shape
    D = triton.next_power_of_2(d)
    R = max(2048 // D, 1)
    kernel[(triton.cdiv(B * H * M, R),)](*arguments, B * H * M, H, M, d, R=R, D=D, num_warps=4)
