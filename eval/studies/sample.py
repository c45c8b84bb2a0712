"""A positive quantity over seeds: geometric mean and relative spread."""

import math
import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One positive quantity of one row over its seeds: geometric mean, standard deviation of the logarithms."""

    values: list[float]

    @property
    def mean(self) -> float:
        """Geometric mean: of perplexities, the perplexity of the mean loss."""
        return math.exp(statistics.fmean(map(math.log, self.values)))

    @property
    def spread(self) -> float:
        """Sample standard deviation of the logarithms: the relative spread; 0 for one seed."""
        return statistics.stdev(map(math.log, self.values)) if len(self.values) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"mean": self.mean, "relative_spread": self.spread, "values": self.values}

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.spread * self.mean:.2f}"
