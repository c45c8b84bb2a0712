"""The model's streaming states as a cache of `transformers`."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from maha_model.inference.decoding import StreamingState


class _Group(NamedTuple):
    """Rows of the batch with the same number of pads, so that they stand at the same position."""

    rows: Tensor
    """Their indices (K) in the batch."""
    first: int
    """Column of their first token."""
    state: StreamingState


class MAHACache(Cache):
    """What generation keeps between forwards: one `StreamingState` for all rows that have the same number of pads.

    Empty at first; a forward with it fills it. It cannot be cut, except back to where `activate_past_recording` was
    called or `crop` last: from there on it keeps the inputs as well, and goes through those again that remain.

    Args:
        compile: whether steps of one token are compiled, see `StreamingState`.
    """

    def __init__(self, compile: bool = False) -> None:
        super().__init__(layers=[])
        self._compile = compile
        self._groups: list[_Group] = []
        self._waiting: Tensor | None = None
        """Rows (K) that have had nothing but pads so far; None before the first forward."""
        self._columns = 0
        self._recorded: list[Tensor] | None = None
        self._before: tuple[list[_Group], Tensor | None, int] = ([], None, 0)

    def begin(self, first_B: Tensor, columns: int, new_state: Callable[[int, bool], StreamingState]) -> None:
        """Make empty states for rows whose first tokens stand among the next `columns`, in column `first_B` of these.

        By `new_state(number of rows, whether to compile)`. Rows with `columns` there have none among them.

        Raises:
            ValueError: if a row that has tokens has pads behind them.
        """
        is_first = self._waiting is None
        waits_B = torch.full_like(first_B, is_first, dtype=torch.bool)
        if self._waiting is not None:
            waits_B[self._waiting] = True
            if first_B.masked_fill(waits_B, 0).any():
                raise ValueError("attention_mask has padding behind the tokens of the cache; pad at the left")
            if not self._has_waiting:
                return
        for first in first_B[waits_B & (first_B < columns)].unique().tolist():
            rows_K = (waits_B & (first_B == first)).nonzero()[:, 0]
            self._groups.append(_Group(rows_K, self._columns + first, new_state(len(rows_K), self._compile)))
        self._waiting = (waits_B & (first_B == columns)).nonzero()[:, 0]
        if is_first and self._recorded is not None:
            self._settle()

    def check_prompt(self, tokens: int, mask_columns: int | None = None, positions: int | None = None) -> None:
        """Raise ValueError unless so many tokens can follow those of the cache.

        Args:
            tokens: new ones; of a prompt that should repeat the text so far, how many it is longer.
            mask_columns: of the attention mask, which has those of the new tokens, or of the whole text.
            positions: how many are given, one for each new token.
        """
        whole = self._columns + tokens
        if not whole:
            raise ValueError("the prompt is empty; give at least one token, such as the bos token")
        if tokens < 1 or mask_columns not in (None, tokens, whole) or positions not in (None, tokens):
            raise ValueError(
                f"the cache holds {self._columns} tokens already; give a prompt of that text with more tokens behind "
                "it (and a mask of all of them), or a new cache"
            )

    def advance(self, x_BND: Tensor, inputs: list[Tensor] | None = None) -> Tensor:
        """Append N columns of embeddings; hidden states (B, N, D), zero at pads. The inputs of blocks go to `inputs`.

        Raises:
            ValueError: if the batch has another number of rows than before.
        """
        if len(x_BND) != self.batch_size:
            raise ValueError(f"the cache is of {self.batch_size} rows, the input of {len(x_BND)}; start with a new one")
        if self._recorded is not None:
            self._recorded.append(x_BND)
        before, self._columns = self._columns, self._columns + x_BND.shape[1]
        if len(self._groups) == 1 and self._groups[0].first <= before and not self._has_waiting:
            return self._groups[0].state.advance(x_BND, inputs)
        whole: list[Tensor] = []
        for group in self._groups:
            skipped = max(0, group.first - before)
            taken: list[Tensor] = []
            hidden = group.state.advance(x_BND[group.rows, skipped:], None if inputs is None else taken)
            parts = [hidden, *taken]
            whole = whole or [part.new_zeros(x_BND.shape) for part in parts]
            for into, part in zip(whole, parts, strict=True):
                into[group.rows, skipped:] = part
        if not whole:  # pads alone so far
            return x_BND.new_zeros(x_BND.shape)
        if inputs is not None:
            inputs += whole[1:]
        return whole[0]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] was; the number of rows may change."""
        groups = []
        for group in self._groups:
            of_row = torch.full((self.batch_size,), -1, device=beam_idx.device)
            of_row[group.rows] = torch.arange(len(group.rows), device=beam_idx.device)
            taken = of_row[beam_idx]
            rows_K = (taken >= 0).nonzero()[:, 0]
            if len(rows_K):
                group.state.select(taken[rows_K])
                groups.append(_Group(rows_K, group.first, group.state))
        self._groups = groups
        if self._waiting is not None:
            self._waiting = torch.isin(beam_idx, self._waiting).nonzero()[:, 0]
        if self._recorded is not None:
            self._settle()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row so many times, the copies beside each other."""
        rows_B = torch.arange(self.batch_size, device=None if self._waiting is None else self._waiting.device)
        self.reorder_cache(rows_B.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.reorder_cache(indices)

    def activate_past_recording(self) -> None:
        """Keep inputs from now on, so that `crop` can go back to here."""
        self._settle()

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last so many tokens, and forget how to take back the earlier ones.

        Raises:
            ValueError: if there are fewer since recording began.
        """
        count = abs(tokens_to_remove)
        recorded = torch.cat(self._recorded, dim=1) if self._recorded else None
        if count > (0 if recorded is None else recorded.shape[1]):
            raise ValueError(f"{count} tokens cannot be taken back; the cache has kept the inputs of fewer")
        if count and recorded is not None:
            self._groups, self._waiting, self._columns = self._before
            self._recorded = None
            if recorded.shape[1] > count:
                with torch.no_grad():
                    self.advance(recorded[:, :-count])
        self._settle()

    def reset(self) -> None:
        """Forget everything."""
        self._groups, self._waiting, self._columns, self._recorded = [], None, 0, None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns so far, pads included."""
        return self._columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No maximum."""
        return -1

    def num_bytes(self) -> int:
        """Memory of all states."""
        return sum(group.state.num_bytes() for group in self._groups)

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first forward."""
        waiting = -1 if self._waiting is None else len(self._waiting)
        return sum(len(group.rows) for group in self._groups) + waiting

    @property
    def is_initialized(self) -> bool:
        """Whether there are rows."""
        return self._waiting is not None

    @property
    def _has_waiting(self) -> bool:
        return self._waiting is not None and len(self._waiting) > 0

    @property
    def is_compileable(self) -> bool:
        """No: its tensors are replaced."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Whether inputs are kept."""
        return self._recorded is not None

    @property
    def is_linear(self) -> list[bool]:
        """No layer is without a length."""
        return [False]

    def _settle(self) -> None:
        self._recorded, self._before = [], copy.deepcopy((self._groups, self._waiting, self._columns))
