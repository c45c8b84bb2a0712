"""A passage as HTML: behind each token a colour for its share of coarse scales."""

import html

from eval.report.scale_use import Passage
from eval.report.token_kinds import readable

_STEPS = 10
"""Shades, the classes c0 to c9 of the page's style."""


def passage_html(passage: Passage) -> str:
    """The text with its legend; a token's exact share shows when a pointer rests on it."""
    low, high = _range(passage.lean)
    return f'{_legend(low, high)}<p class="passage">{"".join(_runs(passage, low, high))}</p>'


def _range(lean: list[float]) -> tuple[float, float]:
    """The range of nine tenths of the tokens: a few extremes would leave the others without contrast."""
    ordered = sorted(lean)
    margin = len(ordered) // 20
    return ordered[margin], ordered[-1 - margin]


def _shade(value: float, low: float, high: float) -> int:
    share = (value - low) / (high - low) if high > low else 0.0
    return min(_STEPS - 1, max(0, int(share * _STEPS)))


def _runs(passage: Passage, low: float, high: float) -> list[str]:
    """One element for each token, a line break outside of it so that the colour ends with the line."""
    parts = []
    for piece, lean in zip(passage.pieces, passage.lean, strict=True):
        text = html.escape(readable(piece))
        shown = "⏎" if text == "\n" else text
        parts.append(f'<span class="c{_shade(lean, low, high)}" title="{100 * lean:.0f}%">{shown}</span>')
        if text == "\n":
            parts.append("\n")
    return parts


def _legend(low: float, high: float) -> str:
    """The shades with the share that each begins at."""
    steps = [low + (high - low) * step / _STEPS for step in range(_STEPS)]
    cells = "".join(f'<span class="c{step}">{100 * value:.0f}</span>' for step, value in enumerate(steps))
    return f'<p class="legend">weight on coarse scales, %: {cells}</p>'
