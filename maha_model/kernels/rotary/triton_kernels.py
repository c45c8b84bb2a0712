"""The Triton kernel that rotates queries and keys."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def rotary_kernel(
    inputs, results, input_strides, result_strides, rows, heads, batch, FIRST: tl.constexpr, STEP: tl.constexpr,
    BASE: tl.constexpr, SIGN: tl.constexpr, HALF: tl.constexpr, D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """One program rotates T rows of one tensor, all heads: cosines and sines are computed once for them."""
    block, b = tl.program_id(0) // batch, (tl.program_id(0) % batch).to(tl.int64)
    pair = tl.arange(0, D)[None, :]
    for l in tl.static_range(len(FIRST)):
        blocks = tl.cdiv(rows[l], T)
        if (block >= 0) & (block < blocks):
            row = block * T + tl.arange(0, T)
            # In float64: an angle is the position times this, and float32's exp2 would move far positions.
            exponent = pair.to(tl.float64) * (-2.0 / (2 * HALF[l]))
            frequency = tl.exp2(exponent * tl.log2(tl.full((), BASE, tl.float64))).to(REAL)
            angle = (FIRST[l] + STEP[l] * row.to(REAL))[:, None] * frequency
            cosine, sine = tl.cos(angle), tl.sin(angle) * SIGN
            inside = (row < rows[l])[:, None] & (pair < HALF[l])
            source = inputs[l] + b * input_strides[l][0] + row.to(tl.int64)[:, None] * input_strides[l][2] + pair
            target = results[l] + b * result_strides[l][0] + row.to(tl.int64)[:, None] * result_strides[l][2] + pair
            for _ in range(heads):
                even = tl.load(source, mask=inside, other=0).to(REAL)
                odd = tl.load(source + HALF[l], mask=inside, other=0).to(REAL)
                rotated = even * cosine - odd * sine, odd * cosine + even * sine
                tl.store(target, rotated[0].to(results[l].dtype.element_ty), mask=inside)
                tl.store(target + HALF[l], rotated[1].to(results[l].dtype.element_ty), mask=inside)
                source += input_strides[l][1]
                target += result_strides[l][1]
        block -= blocks
