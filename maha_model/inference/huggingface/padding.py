"""Where the rows of a padded batch begin, rows turned to begin at column 0, and where sequences of a packed batch do.

A model's positions count from a row's first token, and coarse tokens lie on that grid, which padding at the left would
shift. So a full forward runs over turned rows, what follows a row's tokens being visible to none of them, and a cache
keeps rows with different numbers of pads apart.
"""

from itertools import pairwise

import torch
from torch import Tensor


def first_tokens(attention_mask: Tensor, position_ids: Tensor | None, cached: bool) -> Tensor:
    """The column (B) int64 of each row's first token.

    Args:
        attention_mask: (B, N), 1 at tokens and 0 at padding.
        position_ids: None or (B or 1, N), which must count the tokens of a row one by one, as this model does itself.
        cached: whether rows go on behind column N - 1: it must then be a token's, but of rows without tokens here,
            whose result is N.

    Raises:
        ValueError: if the mask has another form or padding between the tokens of a row; or if positions do not count.
    """
    if attention_mask.dim() != 2:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}; give (rows, tokens), 1 at tokens")
    kept_BN = attention_mask.bool()
    if (attention_mask != kept_BN).any():
        raise ValueError(
            "attention_mask has other values than 0 and 1; the sequences of a packed batch are told by position_ids, "
            "which begin anew with each"
        )
    if position_ids is not None:
        if position_ids.shape not in ((1, kept_BN.shape[1]), kept_BN.shape):
            raise ValueError(
                f"position_ids have shape {tuple(position_ids.shape)}; give {tuple(kept_BN.shape)}, or leave them out"
            )
        both = kept_BN[:, 1:] & kept_BN[:, :-1]
        if ((position_ids.diff(dim=-1) != 1) & both).any():
            raise ValueError(
                "position_ids do not count the tokens of a row one by one; leave them out (those of a packed batch "
                "begin anew at one number with every sequence, and need rows without padding and no cache)"
            )
    first_B = kept_BN.long().argmax(1)
    if ((kept_BN[:, 1:] & ~kept_BN[:, :-1]).sum(1) + kept_BN[:, 0] > 1).any():
        raise ValueError("attention_mask has padding between tokens; a row is padded at its left or right end")
    if cached:
        if not torch.equal(kept_BN[:, -1], kept_BN.any(1)):
            raise ValueError("attention_mask ends with padding, where a cache goes on; pad at the left")
        first_B = first_B.masked_fill(~kept_BN[:, -1], kept_BN.shape[1])
    return first_B


def packed_lengths(
    attention_mask: Tensor | None, position_ids: Tensor | None, rows: int, columns: int
) -> list[list[int]] | None:
    """Tokens of every sequence of each row of a packed batch; None if it is none, or one that cannot be set apart.

    As `transformers` has them (`DataCollatorWithFlattening`): positions count on or begin anew, in all sequences at one
    number.

    Args:
        attention_mask: None or (B, N), which must be 1 everywhere.
        position_ids: None or (B or 1, N).
        rows: B.
        columns: N.
    """
    if position_ids is None or position_ids.shape not in ((1, columns), (rows, columns)):
        return None
    if attention_mask is not None and not (attention_mask.shape == (rows, columns) and attention_mask.all()):
        return None
    starts_BN = torch.cat((torch.ones_like(position_ids[:, :1], dtype=torch.bool), position_ids.diff(dim=1) != 1), 1)
    firsts = position_ids[starts_BN]
    if len(firsts) == len(position_ids) or (firsts != firsts[0]).any():
        return None
    places = [[*row.nonzero().flatten().tolist(), len(row)] for row in starts_BN.expand(rows, -1).cpu()]
    return [[end - start for start, end in pairwise(row)] for row in places]


def turn(x_BND: Tensor, by_B: Tensor) -> Tensor:
    """Row b of (B, N, D) turned by by_B[b] columns to the left, its first ones behind its last."""
    column_N = torch.arange(x_BND.shape[1], device=x_BND.device)
    from_BN = (column_N + by_B[:, None]) % len(column_N)
    return x_BND.gather(1, from_BN[..., None].expand_as(x_BND))
