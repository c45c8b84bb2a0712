"""The positions of one scale of a descent."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Which tokens of a scale a query can attend to and choose; hashable and made of plain numbers."""

    factor: int
    """Positions that a token of the scale covers, r^l: token j is finished at position factor * (j + 1) - 1."""
    ratio: int
    """r, tokens of the next finer scale that a token covers."""
    span: int
    """W, how many of the newest finished tokens are near and always seen."""
    choose: int
    """k, tokens to choose, whose children the next finer scale attends to; 0 at the finest scale."""
    groups: int
    """Groups of heads with one choice each; divides the heads."""
    start: int = 0
    """Position of the first query."""
