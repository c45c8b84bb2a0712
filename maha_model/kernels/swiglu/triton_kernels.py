"""SwiGLU's Triton kernels: silu(gate) * hidden, both in one row of x."""

import triton
import triton.language as tl


@triton.jit
def _place(count, width, BLOCK: tl.constexpr):
    """Numbers of this program, where the gate of each is in x, and which exist."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return at, at // width * (2 * width) + at % width, at < count


@triton.jit
def swiglu_kernel(x, out, count, width, BLOCK: tl.constexpr, REAL: tl.constexpr):
    """Out (rows, width) from x (rows, 2 width), `count` numbers in all."""
    at, gate_at, inside = _place(count, width, BLOCK)
    gate = tl.load(x + gate_at, mask=inside, other=0).to(REAL)
    hidden = tl.load(x + (gate_at + width), mask=inside, other=0).to(REAL)
    tl.store(out + at, (gate / (1 + tl.exp(-gate)) * hidden).to(out.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward_kernel(grad, x, grad_x, count, width, BLOCK: tl.constexpr, REAL: tl.constexpr):
    """The gradient of x; silu is computed again."""
    at, gate_at, inside = _place(count, width, BLOCK)
    pulled = tl.load(grad + at, mask=inside, other=0).to(REAL)
    gate = tl.load(x + gate_at, mask=inside, other=0).to(REAL)
    hidden = tl.load(x + (gate_at + width), mask=inside, other=0).to(REAL)
    sigmoid = 1 / (1 + tl.exp(-gate))
    grad_gate = pulled * hidden * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(grad_x + gate_at, grad_gate.to(grad_x.dtype.element_ty), mask=inside)
    tl.store(grad_x + (gate_at + width), (pulled * gate * sigmoid).to(grad_x.dtype.element_ty), mask=inside)
