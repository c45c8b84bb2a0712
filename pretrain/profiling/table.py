"""The seconds of the parts as text."""

from pretrain.profiling.parts import PartTimes


def table(times: PartTimes, title: str) -> str:
    """A line for each part: milliseconds a step forward and backward, and the share of the step."""
    steps = max(1, times.steps)
    width = max(map(len, times.total), default=0)
    lines = [
        f"{title}: {1000 * times.wall / steps:.1f} ms a step",
        f"{'part':<{width}}  {'forward ms':>11}  {'backward ms':>11}  {'share':>6}",
    ]
    for part, seconds in times.total.items():
        forward, backward = (1000 * of.get(part, 0.0) / steps for of in (times.forward, times.backward))
        share = seconds / times.wall if times.wall else 0.0
        lines.append(f"{part:<{width}}  {forward:>11.2f}  {backward:>11.2f}  {share:>6.1%}")
    return "\n".join(lines) + "\n"
