"""The Triton kernel that adds up what blocks of positions give to vectors."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["counts"])
def add_up_kernel(parts, results, counts, width, T: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):
    """Column sums of the matrices parts[l] (counts[l], width) into results[l] (width,), in a fixed order."""
    blocks = tl.cdiv(width, COLUMNS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    for l in tl.static_range(len(parts)):
        if tl.program_id(0) // blocks == l:
            total = tl.zeros((COLUMNS,), REAL)
            for first in range(0, counts[l], T):
                row = first + tl.arange(0, T)
                at = parts[l] + row.to(tl.int64)[:, None] * width + column[None, :]
                total += tl.sum(tl.load(at, mask=(row < counts[l])[:, None] & (column < width)[None, :], other=0), 0)
            tl.store(results[l] + column, total.to(results[l].dtype.element_ty), mask=column < width)
