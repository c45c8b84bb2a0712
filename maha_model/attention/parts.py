"""MAHA on a part of a window: which rows before it each step takes along.

What precedes the part is there in two forms. A *lead* of a few of the layer's inputs goes through local context,
decomposition and gates with the part, so that the newest coarse token before the part, visible at its first positions,
is made here again. Spans and descents take keys and values of the parts before, exchanged once a layer.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from maha_model.config import ModelConfig
from maha_model.multiscale import Decomposition
from maha_model.parallel import ALL, ContextSplit, extended

if TYPE_CHECKING:
    from maha_model.attention.maha import Projected


def lead_tokens(config: ModelConfig) -> int:
    """Tokens before a part from which the token before it follows at every scale: one of the coarsest, or two.

    Two where windows overlap: the first rows then lack what lies before them.
    """
    overlaps = config.decomposition == "conv" and Decomposition.kernel_size_of(config.ratio) > config.ratio
    return config.context_unit * (2 if overlaps else 1)


def without_lead(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], config: ModelConfig, split: ContextSplit
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Queries, keys and values (B, n, ...) of the scales, finest first, without the rows of the lead.

    Of coarse queries that of the last token before the part stays, whose output the first positions use.
    """
    lead = min(lead_tokens(config), split.start)
    drops = [lead // config.ratio**level for level in range(config.num_scales)]
    if config.query == "coarse":
        stays = [0, *[min(1, drop) for drop in drops[1:]]]
        queries = [x[:, drop - stay :] for x, drop, stay in zip(queries, drops, stays, strict=True)]
    else:  # one a position at every scale
        queries = [x[:, lead:] for x in queries]
    keys, values = ([x[:, n:] for x, n in zip(tensors, drops, strict=False)] for tensors in (keys, values))
    return queries, keys, values


def with_rows_before(projected: "Projected", config: ModelConfig, split: ContextSplit) -> "Projected":
    """Keys and values (B, n, ...) with those before the part that its queries can attend to."""
    _, _, keys, values, indexed = projected
    factors = [config.ratio**level for level in range(config.num_scales)]
    if config.descent or config.span == "full":
        widths = [ALL] * len(factors)
    else:  # at coarse scales the newest token before the part has an output here too
        widths = [config.span - 1, *[config.span] * (len(factors) - 1)]
    levels, rows = [*range(len(keys)), *range(len(values))], [*keys, *values]
    if indexed is not None:
        levels, rows = [*levels, 0], [*rows, indexed.keys]
    rows = extended(rows, [widths[i] for i in levels], [factors[i] for i in levels], split)
    if indexed is not None:
        indexed = indexed._replace(keys=rows.pop())
    return projected._replace(keys=rows[: len(keys)], values=rows[len(keys) :], indexed=indexed)
