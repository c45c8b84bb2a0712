"""The Triton kernel of the loss: a row of logits is read twice, and its gradient written in its place."""

import triton
import triton.language as tl


@triton.jit
def loss_kernel(
    logits, targets, share, losses, tokens, ignored, GRADIENT: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """-log softmax at the targets of logits (rows, tokens): 0 at an `ignored` one, NaN at one that is no token.

    GRADIENT: the rows become `share` times the loss's gradient.
    """
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * tokens
    column = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    scored, is_token = target != ignored, (target >= 0) & (target < tokens)
    picked = tl.load(base + target, mask=is_token, other=float("nan")).to(REAL)
    peak = tl.full((BLOCK,), float("-inf"), REAL)
    total = tl.zeros((BLOCK,), REAL)
    for start in range(0, tokens, BLOCK):
        x = tl.load(base + start + column, mask=start + column < tokens, other=float("-inf")).to(REAL)
        higher = tl.maximum(peak, x)
        shift = tl.where(higher == float("-inf"), 0, higher)
        total = total * tl.exp(peak - shift) + tl.exp(x - shift)
        peak = higher
    highest = tl.max(peak, 0)
    log_sum = highest + tl.log(tl.sum(total * tl.exp(peak - highest), 0))
    tl.store(losses + row, tl.where(scored, log_sum - picked, 0))
    if GRADIENT:
        factor = tl.where(scored, tl.load(share), 0)
        for start in range(0, tokens, BLOCK):
            at = start + column
            x = tl.load(base + at, mask=at < tokens, other=float("-inf")).to(REAL)
            grad = (tl.exp(x - log_sum) - tl.where(at == target, 1.0, 0.0)) * factor
            tl.store(base + at, grad.to(logits.dtype.element_ty), mask=at < tokens)
