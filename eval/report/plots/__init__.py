"""The plots of the report: each function draws one as HTML with SVG, or returns None where there is nothing to draw.

`drawn(function, ...)` calls one in the report's style.
"""

import matplotlib

matplotlib.use("svg")
from eval.report.plots.attention import attention_distances, attention_maps
from eval.report.plots.cost import costs
from eval.report.plots.perplexity import bigram_distances, book_positions, contexts, perplexities, window_positions
from eval.report.plots.scales import leans, scales_by_head, scales_by_layer
from eval.report.plots.style import drawn
from eval.report.plots.training import losses, scales_in_training

__all__ = [
    "attention_distances",
    "attention_maps",
    "bigram_distances",
    "book_positions",
    "contexts",
    "costs",
    "drawn",
    "leans",
    "losses",
    "perplexities",
    "scales_by_head",
    "scales_by_layer",
    "scales_in_training",
    "window_positions",
]
