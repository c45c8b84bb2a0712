"""Which curves stand together in one panel, and at how many points they are drawn."""

from dataclasses import dataclass, field

from pretrain.watch.run_files import Curve, Snapshot

POINTS = 300
"""Of a curve at most: more than can be distinguished."""
_VALUES = (
    ("loss", "training loss, nats/token", 1.0),
    ("eval_loss", "validation loss, nats/token", 1.0),
    ("grad_norm", "gradient norm", 1.0),
    ("lr", "learning rate", 1.0),
    ("tokens_per_s", "tokens per second", 1.0),
    ("mfu", "MFU, %", 100.0),
    ("peak_memory_bytes", "peak memory, GiB", 2.0**-30),
)


@dataclass(frozen=True)
class Line:
    """A curve, or the bars of ranks."""

    label: str
    run: int
    """Number of the run, for its colour."""
    points: Curve
    scale: int | None = None
    """Number of the scale, of a curve that is one of several of its run."""


@dataclass(frozen=True)
class Panel:
    """Curves over one axis."""

    title: str
    lines: list[Line] = field(default_factory=list)
    spikes: Curve = field(default_factory=list)
    """Points to be marked."""
    bars: bool = False
    """Whether x is a rank and not a step."""


def panels(runs: list[Snapshot]) -> list[Panel]:
    """Those that have something to show: each value with all runs, the scale weights and the ranks of each run."""
    found = []
    for name, title, factor in _VALUES:
        curves = [thinned([(step, factor * value) for step, value in run.curve(name)]) for run in runs]
        lines = [Line(run.name, number, curves[number]) for number, run in enumerate(runs)]
        found.append(Panel(title, lines, [point for run in runs for point in _spikes(run)] if name == "loss" else []))
    for number, run in enumerate(runs):
        of_run = f"{run.name}: " if len(runs) > 1 else ""
        curves = [thinned(curve) for curve in run.scale_curves()]
        weights = [Line(f"scale {scale}", number, curve, scale) for scale, curve in enumerate(curves)]
        found.append(Panel(f"{of_run}mean weight of each scale", weights))
        times = [(it.rank, it.seconds) for it in run.ranks] if len(run.ranks) > 1 else []
        found.append(Panel(f"{of_run}own work by rank, s", [Line(run.name, number, times)], bars=True))
    return [panel for panel in found if any(line.points for line in panel.lines)]


def thinned(curve: Curve) -> Curve:
    """Means over equal stretches where there are more than `POINTS`; the last point stays."""
    stretch = -(-len(curve) // POINTS)
    if stretch <= 1:
        return curve
    before = curve[:-1]
    parts = [before[start : start + stretch] for start in range(0, len(before), stretch)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts] + curve[-1:]


def _spikes(run: Snapshot) -> Curve:
    """The losses of the steps that spiked and stayed."""
    losses = dict(run.curve("loss"))
    return [(line["step"], losses[line["step"]]) for line in run.lines("spike") if line["step"] in losses]
