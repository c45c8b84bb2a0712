"""The QPs of a block of T positions inside Triton kernels, as `problem.assemble` defines them."""

import triton
import triton.language as tl

from maha_model.kernels.fuse.problem import KINDS, NORM_EPS, TINY_POWER

_UTILITY, _TARGET = (tl.constexpr(KINDS.index(kind)) for kind in ("utility", "target"))
_NORM_EPS, _TINY_POWER = tl.constexpr(NORM_EPS), tl.constexpr(TINY_POWER)


@triton.jit
def rows_of_scale(
    outputs, strides, b, h, l: tl.constexpr, t, first, factors, length, D: tl.constexpr, width, REAL: tl.constexpr
):  # fmt: skip
    """The rows of scale l at positions t: (T, D), zero where absent."""
    since = t - first[l]
    row = tl.where(since >= 0, since, 0) // factors[l]
    column = tl.arange(0, D)[None, :]
    at = outputs[l] + b * strides[l][0] + h * strides[l][1] + row[:, None] * strides[l][2] + column
    real = ((since >= 0) & (t < length))[:, None] & (column < width)
    return tl.load(at, mask=real, other=0).to(REAL)


@triton.jit
def column_of(x, l: tl.constexpr, LP: tl.constexpr):
    """Column l of (T, LP)."""
    return tl.sum(tl.where(tl.arange(0, LP)[None, :] == l, x, 0), axis=1)


@triton.jit
def assemble(
    outputs, strides, linear, linear_strides, target_rows, grad_rows, b, h, t, first, factors, length,
    PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, KIND: tl.constexpr, OWN: tl.constexpr,
    WITH_GRAD: tl.constexpr, L: tl.constexpr, LP: tl.constexpr, D: tl.constexpr, width, REAL: tl.constexpr,
):  # fmt: skip
    """Q, p, present, Gram matrix, inverse of the outputs' divisor, inner products with target and gradient."""
    index = tl.arange(0, LP)[None, :]
    row, column = tl.arange(0, LP)[None, :, None], tl.arange(0, LP)[None, None, :]
    zero = (t[:, None] * index * 0).to(REAL)
    G = (t[:, None, None] * row * column * 0).to(REAL)
    linear_part, with_target, with_grad, price, since = zero, zero, zero, zero, zero.to(tl.int32) - 1
    for l in tl.static_range(L):
        o = rows_of_scale(outputs, strides, b, h, l, t, first, factors, length, D, width, REAL)
        for m in tl.static_range(l + 1):
            other = rows_of_scale(outputs, strides, b, h, m, t, first, factors, length, D, width, REAL)
            pair = ((row == l) & (column == m)) | ((row == m) & (column == l))
            G = tl.where(pair, tl.sum(o * other, axis=1)[:, None, None], G)
        if KIND == _TARGET:
            with_target = tl.where(index == l, tl.sum(o * target_rows, axis=1)[:, None], with_target)
        if WITH_GRAD:
            with_grad = tl.where(index == l, tl.sum(o * grad_rows, axis=1)[:, None], with_grad)
        if KIND == _UTILITY:
            at = linear + b * linear_strides[0] + t * linear_strides[1] + l * linear_strides[2] + h * linear_strides[3]
            u = tl.load(at, mask=(t >= 0) & (t < length), other=0).to(REAL)
            linear_part = tl.where(index == l, u[:, None], linear_part)
        since = tl.where(index == l, (t - first[l])[:, None], since)
        price = tl.where(index == l, PRICES[l], price)
    present = since >= 0
    norm2 = tl.sum(tl.where(row == column, G, 0), axis=2)
    if KIND == _UTILITY:
        inverse = 1 / tl.sqrt(norm2 + _NORM_EPS)
    else:
        count = tl.sum(present.to(REAL), axis=1)
        power = tl.sum(norm2, axis=1) / tl.where(count > 0, count, 1)
        inverse = (1 / tl.sqrt(power + _TINY_POWER))[:, None] + zero
    Q = (
        REDUNDANCY * (G * inverse[:, :, None] * inverse[:, None, :])
        + tl.where(row == column, 1.0, 0.0).to(REAL) * RIDGE
    )
    p = linear_part + with_target * inverse * inverse - price
    if OWN:
        p += REDUNDANCY * norm2 * inverse * inverse
    return Q, p, present, G, inverse, with_target, with_grad
