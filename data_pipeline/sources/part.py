"""A part of a source: what one of several machines prepares."""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`: of the source's rows every `count`-th, so that all parts take equally long."""

    number: int = 1
    """From 1."""
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`3/16` as a part. Raises ValueError if it is none."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{text!r} is no part such as 3/16")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, row: int) -> bool:
        """Whether a row, counted from 0, is of this part."""
        return row % self.count == self.number - 1

    def after(self, rows: int) -> Callable[[int], bool]:
        """`has` for rows that are counted from 0 after so many others."""
        return lambda row: self.has(rows + row)


WHOLE = Part()
"""The only part of a source that one machine prepares."""
