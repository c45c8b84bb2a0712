"""Score entries: the products of a query with a key that an attention computes, the measure of equal work."""

from maha_model import ModelConfig


def score_entries(config: ModelConfig, length: int) -> int:
    """Score entries of one head of one layer over a sequence of `length` tokens."""
    span = length if config.span == "full" else config.span
    if config.attention == "standard":
        return _entries(length, length)
    if config.attention == "longformer":
        return _entries(length, span)
    if config.descent:
        return _descent_entries(config, length)
    entries, n = 0, length
    for scale in range(config.num_scales):
        if scale and config.query == "fine":
            cover = config.ratio**scale
            entries += sum(min((t + 1) // cover, span) for t in range(length))
        else:
            entries += _entries(n, span)
        n //= config.ratio
    return entries


def _descent_entries(config: ModelConfig, length: int) -> int:
    """The coarsest scale whole, of every finer one the near tokens and the children of what can be chosen.

    The product with a bound, twice as wide as a key, counts twice. An index chooses for the finest scale alone; its
    products count by their width, a head's share of all that a layer has of them.
    """
    entries, coarsest = 0.0, config.num_scales - 1
    wider = 2 if config.bounded else 1
    chosen = config.descent * config.ratio
    for t in range(length):
        for scale in range(config.num_scales):
            there = (t + 1) // config.ratio**scale
            near = config.spans[min(scale, 1)]
            if config.indexed:
                seen = min(there, near if scale else near + chosen)
            else:
                seen = there if scale == coarsest else min(there, near + chosen)
            entries += seen * (wider if scale else 1)
    if config.indexed:
        width = config.choosing_groups * config.index_dim / (config.num_heads * config.scale_qk_dim)
        entries += width * length * (length + 1) / 2
    return round(entries)


def equal_span(config: ModelConfig, length: int) -> int:
    """The least span of a window attention that has at least as many score entries as `config` at this length."""
    entries = min(score_entries(config, length), _entries(length, length))
    return next(span for span in range(1, length + 1) if _entries(length, span) >= entries)


def _entries(n: int, span: int) -> int:
    """Of n queries with a window of `span` keys each, the last their own."""
    span = min(span, n)
    return span * n - span * (span - 1) // 2
