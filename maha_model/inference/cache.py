"""What decoding keeps of a sequence: its last inputs, or the keys and values of its last tokens."""

from typing import Literal

import torch
from torch import Tensor

from maha_model.kernels.span import attend_to_all

_FIRST_ROOM = 64  # tokens that a growing cache has room for at first; doubled whenever it is full


class Window:
    """The last `size` inputs (B, size, D) of a sequence, zeros before its first."""

    def __init__(self, like: Tensor, size: int, width: int) -> None:
        self.last = like.new_zeros(like.shape[0], size, width)

    def push(self, x_BMD: Tensor) -> Tensor:
        """Append M inputs; the window after them."""
        size = self.last.shape[1]
        self.last = torch.cat((self.last[:, x_BMD.shape[1] :], x_BMD[:, max(0, x_BMD.shape[1] - size) :]), dim=1)
        return self.last

    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times."""
        self.last = self.last.index_select(0, rows_K)


class KeyValues:
    """Keys (B, H, W, dk) and values (B, H, W, d) of the last W tokens, the newest in the place of the oldest.

    With the span `full` those of all tokens.
    """

    def __init__(self, like: Tensor, heads: int, qk_dim: int, head_dim: int, span: int | Literal["full"]) -> None:
        self.grows = span == "full"
        self.count = 0
        room = _FIRST_ROOM if span == "full" else span
        self.keys = like.new_zeros(like.shape[0], heads, room, qk_dim)
        self.values = like.new_zeros(like.shape[0], heads, room, head_dim)

    def push(self, keys_BHmd: Tensor, values_BHmd: Tensor, skipped: int = 0) -> None:
        """Append those of m tokens; of a cache that does not grow, `skipped` tokens before them are not kept."""
        self.count += skipped
        m, room = keys_BHmd.shape[2], self.keys.shape[2]
        while self.grows and self.count + m > room:
            self.keys, self.values = (torch.cat((x, torch.zeros_like(x)), 2) for x in (self.keys, self.values))
            room *= 2
        kept = min(m, room)
        self.count += m
        start = (self.count - kept) % room
        to_end = min(kept, room - start)
        for into, new in ((self.keys, keys_BHmd[:, :, m - kept :]), (self.values, values_BHmd[:, :, m - kept :])):
            into[:, :, start : start + to_end] = new[:, :, :to_end]
            into[:, :, : kept - to_end] = new[:, :, to_end:]

    def select(self, rows_K: Tensor) -> None:
        """Keep these sequences of the batch, in this order; one may come several times."""
        self.keys, self.values = self.keys.index_select(0, rows_K), self.values.index_select(0, rows_K)

    def all(self) -> tuple[Tensor, Tensor]:
        """The keys and values that are kept, of a cache that grows in their order."""
        return self.keys[:, :, : self.count], self.values[:, :, : self.count]

    def attend(self, q_BH1d: Tensor) -> Tensor:
        """Attention of one query over all that is kept: (B, H, 1, d)."""
        return attend_to_all(q_BH1d, *self.all())
