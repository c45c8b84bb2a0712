"""What decoding keeps of a sequence: its last inputs, or the keys and values of its last tokens.

All of it is changed in place, at indices that are tensors, so that a compiled step serves every token.
"""

import torch
from torch import Tensor

from maha_model.kernels.span import attend_to_all, attend_to_first

_FIRST_ROOM = 64


def first_room(ratio: int, num_scales: int) -> int:
    """Tokens of the finest scale that growing caches have room for at first, scale l for r^-l as many.

    At least 64. All are doubled together.
    """
    room = ratio ** (num_scales - 1)
    while room < _FIRST_ROOM:
        room *= 2
    return room


class Window:
    """The last `size` inputs (B, size, D) of a sequence, zeros before its first."""

    def __init__(self, like: Tensor, size: int, width: int) -> None:
        self.last = like.new_zeros(like.shape[0], size, width)

    def push(self, x_BMD: Tensor) -> Tensor:
        """Append M inputs; the window after them."""
        size = self.last.shape[1]
        self.last.copy_(torch.cat((self.last[:, x_BMD.shape[1] :], x_BMD[:, max(0, x_BMD.shape[1] - size) :]), dim=1))
        return self.last

    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times."""
        self.last = self.last.index_select(0, rows_K)


class KeyValues:
    """Keys (B, H, W, dk) and values (B, H, W, d) of the last W tokens, the newest in the place of the oldest.

    One that grows has those of all tokens, in their order, and room for more. Both are parts of one tensor, `rows`: a
    compiled step takes time for each that it is given.
    """

    def __init__(self, like: Tensor, heads: int, qk_dim: int, head_dim: int, room: int, grows: bool) -> None:
        self.grows = grows
        self.qk_dim = qk_dim
        self.rows = like.new_zeros(like.shape[0], heads, room, qk_dim + head_dim)

    @property
    def keys(self) -> Tensor:
        """(B, H, W, dk)."""
        return self.rows[..., : self.qk_dim]

    @property
    def values(self) -> Tensor:
        """(B, H, W, d)."""
        return self.rows[..., self.qk_dim :]

    def prefill(self, keys_BHnd: Tensor, values_BHnd: Tensor, first: int = 0) -> None:
        """Keep those of the tokens from `first` on, or of the last W of these."""
        n, room = keys_BHnd.shape[2], self.rows.shape[2]
        kept = min(n, room)
        start = (first + n - kept) % room
        to_end = min(kept, room - start)
        for into, new in ((self.keys, keys_BHnd[:, :, n - kept :]), (self.values, values_BHnd[:, :, n - kept :])):
            into[:, :, start : start + to_end] = new[:, :, :to_end]
            into[:, :, : kept - to_end] = new[:, :, to_end:]

    def push(self, keys_BH1d: Tensor, values_BH1d: Tensor, slot_1: Tensor) -> None:
        """Keep those of one token at its place, (1) int64."""
        self.rows.index_copy_(2, slot_1, torch.cat((keys_BH1d, values_BH1d), -1))

    def double(self) -> None:
        """Room for twice the tokens."""
        self.rows = torch.cat((self.rows, torch.zeros_like(self.rows)), 2)

    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times."""
        self.rows = self.rows.index_select(0, rows_K)

    def attend(self, q_BH1d: Tensor, slot_1: Tensor, empty_W: Tensor) -> Tensor:
        """Attention of one query over all that is kept: (B, H, 1, d).

        Args:
            q_BH1d: the query, rotated.
            slot_1: place of the newest token, (1) int64.
            empty_W: added to the scores of a finite span: -inf at places without a token, else 0.
        """
        if self.grows:
            return attend_to_first(q_BH1d, self.keys, self.values, slot_1)
        return attend_to_all(q_BH1d, self.keys, self.values, empty_W)
