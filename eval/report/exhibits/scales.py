"""The use of the scales by the MAHA models."""

import html

from eval.report import plots
from eval.report.exhibits.source import Source
from eval.report.page import Exhibit, table
from eval.report.passage import passage_html
from eval.report.token_kinds import plain

LEAN = "the weights on the scales coarser than the first as a share of all weights, over layers and heads"


def scales_exhibits(source: Source) -> list[Exhibit]:
    """Scale weights by layer, head and token; nothing without a MAHA model or the part `scales`."""
    comparison = source.comparison
    uses = {label: probe.scales for label, probe in comparison.probes.items() if probe.scales}
    if not uses:
        return []
    first = next(iter(uses.values()))
    measured = (
        f"{first.tokens:,} tokens in whole windows spread evenly over {source.text}; newest checkpoint of each "
        f"model's first seed."
    )
    extremes = [
        (
            label,
            *[", ".join(f"{plain(one.name)} {100 * one.lean:.0f}%" for one in side) for side in (use.most, use.least)],
        )
        for label, use in uses.items()
    ]
    passages = [
        f"<details{' open' if number == 0 else ''}><summary>{html.escape(label)}</summary>"
        f"{passage_html(use.passage)}</details>"
        for number, (label, use) in enumerate(uses.items())
    ]
    return [
        *source.plot(
            "scales", "Scale weights by layer", plots.drawn(plots.scales_by_layer, comparison),
            "Mean weight of every scale over positions and heads, from the first layer to the last. Scale 0 is the "
            "full resolution; a scale that has no token yet counts as 0, and with the budget the weights may sum "
            "to less than 1.", measured,
        ),
        *source.plot(
            "scales", "Mean scale by layer and head", plots.drawn(plots.scales_by_head, comparison),
            "The mean number of the scale, weighted by the weights: 0 if a head uses nothing but the full "
            "resolution; each unit more multiplies the span by the ratio.", measured,
        ),
        *source.plot(
            "scales", "Which tokens lean on coarse scales", plots.drawn(plots.leans, comparison),
            f"The lean of a token is {LEAN}, at the position where it is the newest token read.", measured,
        ),
        Exhibit(
            "Tokens that lean most and least on coarse scales",
            '<div class="words">' + table(("Model", "Most", "Least"), extremes) + "</div>",
            f"Among the tokens that occur at least 20 times. The lean of a token is {LEAN}. ␣ is a space before a "
            "word, ⏎ a line break.", measured, "scales",
        ),
        Exhibit(
            "A passage, token by token", "".join(passages),
            f"The stronger the colour behind a token, the more it leans on coarse scales: {LEAN}. The colours "
            "span what nine tenths of the tokens lie in.",
            f"the end of a whole window in the middle of {source.text}.", "scales",
        ),
    ]  # fmt: skip
