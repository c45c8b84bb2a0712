"""One HTML file without scripts and without other files, which a browser loads again by itself."""

import html
import io
import re
import time

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pretrain.watch.panels import Line, Panel, panels
from pretrain.watch.run_files import Snapshot
from pretrain.watch.status import events, straggler_lines, table

_INK = "#010203"
"""Placeholder of the page's text colour, which replaces it in the SVG."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, distinct for readers of any colour vision."""
_LINES = {"-": "", "--": "6 3", ":": "2 2", "-.": "6 2 2 2"}
"""Matplotlib's line styles, and an SVG's dashes that look alike."""
_LEGEND = 8
"""Lines of a panel whose names find room in it; those of more are in the table's head alone."""
_DRAWING = {
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "axes.titlesize": 10, "axes.linewidth": 0.7,
    "axes.grid": True, "grid.color": "#808080", "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
    "svg.fonttype": "none", "axes.axisbelow": True, "axes.formatter.limits": (-4, 6),
    "text.parse_math": False,
}  # fmt: skip
_EVENTS = 12


def page(runs: list[Snapshot], now: float, refresh: float | None) -> str:
    """The file. `now` in seconds since 1970; it is loaded again every `refresh` seconds, or never."""
    names = ", ".join(run.name for run in runs)
    again = f'<meta http-equiv="refresh" content="{max(1, round(refresh))}">' if refresh else ""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    plots = "".join(f'<figure aria-label="{html.escape(panel.title)}">{_svg(panel)}</figure>' for panel in panels(runs))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(names)}</title>{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{html.escape(names)}</h1><p>As of {at}.</p>"
        f'{_table(runs, now)}<div class="plots">{plots}</div>{_notes(runs)}</main></body></html>\n'
    )


def _table(runs: list[Snapshot], now: float) -> str:
    heads = "".join(f'<th scope="col">{_sample(number)}{html.escape(run.name)}</th>' for number, run in enumerate(runs))
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in table(runs, now)
    )
    return f'<div class="scroll"><table><thead><tr><th scope="col">run</th>{heads}</tr></thead>{body}</table></div>'


def _style(number: int) -> tuple[str, str]:
    """Colour and line style."""
    return _COLOURS[number % len(_COLOURS)], [*_LINES][number // len(_COLOURS) % len(_LINES)]


def _sample(number: int) -> str:
    """A piece of a run's line."""
    colour, style = _style(number)
    line = f'<line x2="20" y1="4" y2="4" stroke="{colour}" stroke-width="2" stroke-dasharray="{_LINES[style]}"/>'
    return f'<svg width="20" height="8" aria-hidden="true">{line}</svg>'


def _notes(runs: list[Snapshot]) -> str:
    """Stragglers and the last events of each run."""
    parts = []
    for run in runs:
        slow = "".join(f'<li class="slow">{html.escape(line)}</li>' for line in straggler_lines(run))
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in events(run, _EVENTS))
        parts.append(f"<h2>{html.escape(run.name)}</h2><ul>{slow}{lines}</ul>" if slow or lines else "")
    return "".join(parts)


def _svg(panel: Panel) -> str:
    """A panel in the page's text colour."""
    with matplotlib.rc_context({**_DRAWING, "svg.hashsalt": panel.title}):  # ids that no other plot of the page has
        fig = Figure(figsize=(5.2, 2.7), layout="constrained")
        ax = fig.subplots()
        for number, line in enumerate(panel.lines):
            _draw(line, line.run if line.scale is None else number, panel.bars, ax)
        if panel.spikes:
            x, y = zip(*panel.spikes, strict=True)
            ax.plot(x, y, "x", color=_INK, label="spike")
        ax.set(title=panel.title, xlabel="rank" if panel.bars else "step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if panel.bars:
            ax.set_ylim(bottom=0)
        if 1 < len(panel.lines) <= _LEGEND:
            ax.legend(loc="best", fontsize=8)
        stream = io.StringIO()
        fig.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue().replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # which several plots on one page would share


def _draw(line: Line, number: int, bars: bool, ax: Axes) -> None:
    """In the colour and the line style of `number`."""
    if not line.points:
        return
    x, y = zip(*line.points, strict=True)
    colour, style = _style(number)
    if bars:
        ax.bar(x, y, color=colour, width=0.7)
        return
    marker = "o" if len(x) <= 30 else ""
    ax.plot(
        x, y, color=colour, linestyle=style, marker=marker, markersize=3, lw=1.4, label=_shown_in_legend(line.label)
    )


def _shown_in_legend(name: str) -> str:
    """Matplotlib leaves out names that begin with _; a space without width before it is not seen."""
    return f"\u200b{name}" if name.startswith("_") else name


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #1c1917; --paper: #fdfcfb; --quiet: #57534e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e5e4; --paper: #171513; --quiet: #a8a29e; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: var(--ink); background: var(--paper); }
main { max-width: 80rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { color: var(--quiet); margin: .25rem 0 1rem; }
ul { margin: 0; padding-left: 1.2rem; font-size: .875rem; overflow-wrap: anywhere; }
.slow { color: #d55e00; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; font-weight: 400; color: var(--quiet); position: sticky; left: 0;
  background: var(--paper); }
th svg { margin-right: .4rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); gap: 1rem;
  margin-top: 1.5rem; }
figure { margin: 0; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, sans-serif !important; }
"""
