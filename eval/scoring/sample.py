"""Mean and spread over seeds, the same in every report: both are taken of losses.

A perplexity's logarithm is a loss. So the mean of perplexities, and of ratios of perplexities, is geometric (the
perplexity of the mean loss), and their spread is relative.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from data_pipeline.json_text import finite
from eval.undefined import perplexity, quotient, shown


@dataclass(frozen=True)
class Sample:
    """One positive quantity over seeds. Nothing but `values` is defined where one of them is not."""

    values: tuple[float | None, ...]
    """One for each seed; None where it is undefined."""
    is_loss: bool = False
    """Whether the values are losses themselves, such as bits per byte, and not perplexities or ratios of them."""

    @property
    def mean(self) -> float | None:
        """Geometric mean; of losses the arithmetic one."""
        losses = self._losses()
        if not losses:
            return None
        mean = statistics.fmean(losses)
        return mean if self.is_loss else perplexity(mean)

    @property
    def relative_spread(self) -> float | None:
        """Sample standard deviation of the logarithms; of losses that of the values over the mean. None of one seed."""
        losses = self._losses()
        if len(losses) < 2:
            return None
        deviation = statistics.stdev(losses)
        return quotient(deviation, self.mean) if self.is_loss else deviation

    @property
    def spread(self) -> float | None:
        """The relative spread times the mean, in the unit of the values; None of one seed."""
        mean, relative = self.mean, self.relative_spread
        return None if mean is None or relative is None else finite(mean * relative)

    @property
    def least(self) -> float | None:
        """The smallest value."""
        return min(self._defined(), default=None)

    @property
    def most(self) -> float | None:
        """The largest value."""
        return max(self._defined(), default=None)

    def text(self, digits: int) -> str:
        """`mean ± spread`; of one seed the mean alone; "-" where it is undefined."""
        spread = self.spread
        return shown(self.mean, digits) + ("" if spread is None else f" ± {spread:.{digits}f}")

    def text_with_range(self, digits: int) -> str:
        """The same with `least to most` on a second line, where there are several seeds."""
        text = self.text(digits)
        return text if self.spread is None else f"{text}\n{shown(self.least, digits)} to {shown(self.most, digits)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "mean": self.mean, "std": self.spread, "relative_spread": self.relative_spread, "min": self.least,
            "max": self.most, "values": list(self.values),
        }  # fmt: skip

    def _defined(self) -> list[float]:
        """The values, or none at all unless every one is positive and finite."""
        known = [value for value in self.values if value is not None and 0 < value < math.inf]
        return known if len(known) == len(self.values) else []

    def _losses(self) -> list[float]:
        return self._defined() if self.is_loss else [math.log(value) for value in self._defined()]
