"""One frame for a terminal: the table, the curves, the stragglers and the last events."""

import plotext
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pretrain.watch.panels import Panel, panels
from pretrain.watch.run_files import Snapshot
from pretrain.watch.status import events, straggler_lines, table

_COLOURS = (12, 208, 10, 13, 14, 9, 11, 8)
"""Of the terminal's 256: blue, orange, green, magenta, cyan, red, yellow, gray."""
_WIDTH, _LEAST_WIDTH, _HEIGHT, _LEAST_HEIGHT = 56, 38, 13, 8
"""Cells of a panel; the least where all panels have to be on one screen."""
_EVENTS = 6


def frame(runs: list[Snapshot], now: float, width: int, height: int | None = None) -> RenderableType:
    """All that is shown, `width` cells wide and, if the curves have room for it, `height` lines high.

    `now` in seconds since 1970.
    """
    head, notes = _table(runs, now), _notes(runs)
    shown = panels(runs)
    columns = max(1, min(width // (_WIDTH if height is None else _LEAST_WIDTH), len(shown)))
    rows = -(-len(shown) // columns)
    free = None if height is None else height - 18 - len(notes)
    each = _HEIGHT if free is None or not rows else max(_LEAST_HEIGHT, free // rows)
    grid = Table.grid()
    for first in range(0, len(shown), columns):
        drawn = [_drawn(panel, width // columns, each) for panel in shown[first : first + columns]]
        grid.add_row(*drawn, *[""] * (columns - len(drawn)))
    return Group(head, *notes, grid)


def _table(runs: list[Snapshot], now: float) -> Table:
    grid = Table(box=None, pad_edge=False)
    grid.add_column("run", style="dim")
    for number, run in enumerate(runs):
        grid.add_column(Text(run.name, style=f"bold color({_code(number)})"), overflow="fold")
    for name, cells in table(runs, now):
        grid.add_row(name, *[Text(cell) for cell in cells])
    return grid


def _notes(runs: list[Snapshot]) -> list[Text]:
    """Stragglers and the last events, a line each."""
    lines = []
    for number, run in enumerate(runs):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        style = f"color({_code(number)})"
        lines += [Text(prefix + line, style="bold red") for line in straggler_lines(run)[:3]]
        lines += [Text(prefix + line, style=style) for line in events(run, max(1, _EVENTS // len(runs)))]
    return lines


def _drawn(panel: Panel, width: int, height: int) -> Text:
    """A panel as text with colours."""
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width - 1, height)
    plotext.title(panel.title[: width - 12])  # a longer one than the canvas is left out
    labelled = len(panel.lines) > 1
    for number, line in enumerate(panel.lines):
        if not line.points:
            continue
        x, y = [float(step) for step, _ in line.points], [value for _, value in line.points]
        colour = _code(line.run if line.scale is None else number)
        if panel.bars:
            plotext.bar(x, y, color=colour, width=0.6)
        else:
            plotext.plot(x, y, color=colour, marker="braille", label=line.label if labelled else None)
    if panel.spikes:
        plotext.scatter([step for step, _ in panel.spikes], [loss for _, loss in panel.spikes], color=9, marker="x")
    ticks = _ticks([step for line in panel.lines for step, _ in line.points])
    plotext.xticks(ticks, [f"{tick:,}" for tick in ticks])
    return Text.from_ansi(plotext.build().rstrip("\n"))


def _ticks(steps: list[int]) -> list[int]:
    """Three at most: the ends and the middle."""
    low, high = min(steps), max(steps)
    return sorted({low, (low + high) // 2, high})


def _code(number: int) -> int:
    return _COLOURS[number % len(_COLOURS)]
