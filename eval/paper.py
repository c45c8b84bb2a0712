"""The paper's Table I (arXiv 2512.14925), as published."""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """One row: perplexity on PG-19 in an unstated unit, memory in GB of an unstated batch."""

    model: str
    complexity: str
    perplexity: float
    memory_gb: float


PAPER = {
    "standard": PaperRow("Standard Transformer", "O(N²)", 24.3, 15.2),
    "longformer": PaperRow("Longformer", "O(N)", 23.8, 9.1),
    "maha": PaperRow("MAHA", "sub-quadratic", 23.1, 6.7),
}
"""By the value of `ModelConfig.attention`."""
