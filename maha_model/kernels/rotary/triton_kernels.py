"""The Triton kernel that rotates queries and keys."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def rotary_kernel(
    inputs, results, input_strides, result_strides, rows, heads, batch, gains, kept, parts, FIRST: tl.constexpr,
    STEP: tl.constexpr, BASE: tl.constexpr, BACK: tl.constexpr, HALF: tl.constexpr, GAINED: tl.constexpr,
    D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """One program rotates T rows of one tensor, all heads: cosines and sines are computed once for them.

    Where GAINED, rows are multiplied by gains (heads * d) first, and kept as they were before. BACK: the gradient,
    and what these rows give to the gains', into a row of `parts` (blocks of rows, heads * d).
    """
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
            cosine, sine = tl.cos(angle), tl.sin(angle)
            if BACK:
                sine = -sine
            inside = (row < rows[l])[:, None] & (pair < HALF[l])
            source = inputs[l] + b * input_strides[l][0] + row.to(tl.int64)[:, None] * input_strides[l][2] + pair
            target = results[l] + b * result_strides[l][0] + row.to(tl.int64)[:, None] * result_strides[l][2] + pair
            channel = pair
            copy = kept[l] + (b * rows[l] + row.to(tl.int64))[:, None] * (heads * 2 * HALF[l])
            part = parts[l] + (block * batch + b) * (heads * 2 * HALF[l])
            for _ in range(heads):
                even = tl.load(source, mask=inside, other=0).to(REAL)
                odd = tl.load(source + HALF[l], mask=inside, other=0).to(REAL)
                if GAINED[l]:
                    gain_even = tl.load(gains[l] + channel, mask=pair < HALF[l], other=0).to(REAL)
                    gain_odd = tl.load(gains[l] + channel + HALF[l], mask=pair < HALF[l], other=0).to(REAL)
                    if not BACK:
                        tl.store(copy + channel, even.to(kept[l].dtype.element_ty), mask=inside)
                        tl.store(copy + channel + HALF[l], odd.to(kept[l].dtype.element_ty), mask=inside)
                        even, odd = even * gain_even, odd * gain_odd
                turned_even, turned_odd = even * cosine - odd * sine, odd * cosine + even * sine
                if GAINED[l] and BACK:
                    kept_even = tl.load(copy + channel, mask=inside, other=0).to(REAL)
                    kept_odd = tl.load(copy + channel + HALF[l], mask=inside, other=0).to(REAL)
                    given_even = tl.sum(turned_even * kept_even, 0, keep_dims=True)
                    given_odd = tl.sum(turned_odd * kept_odd, 0, keep_dims=True)
                    tl.store(part + channel, given_even, mask=pair < HALF[l])
                    tl.store(part + channel + HALF[l], given_odd, mask=pair < HALF[l])
                    turned_even, turned_odd = turned_even * gain_even, turned_odd * gain_odd
                tl.store(target, turned_even.to(results[l].dtype.element_ty), mask=inside)
                tl.store(target + HALF[l], turned_odd.to(results[l].dtype.element_ty), mask=inside)
                channel += 2 * HALF[l]
                source += input_strides[l][1]
                target += result_strides[l][1]
        block -= blocks
