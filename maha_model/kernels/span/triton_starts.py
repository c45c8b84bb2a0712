"""The Triton kernel that writes where the sequences of packed scales begin."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["batch", "lengths"])
def starts_kernel(starts, batch, lengths, T: tl.constexpr):
    """Row of the first token of every sequence, int32, and after the last their number: one program."""
    first = 0
    for l in tl.static_range(len(lengths)):
        for b in range(0, batch, T):
            entry = b + tl.arange(0, T)
            tl.store(starts + l * batch + entry, first + entry * lengths[l], mask=entry < batch)
        first += batch * lengths[l]
    tl.store(starts + len(lengths) * batch, first)
