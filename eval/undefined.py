"""Values derived from measurements. One that is undefined is None: `null` in JSON, "-" in a table.

Text without spaces has no perplexity per word, a blank document none per token, and exp overflows above 709 nats.
"""

import math

from data_pipeline.json_text import finite


def quotient(value: float | None, by: float | None) -> float | None:
    """value / by; None where one of them is None, `by` is 0 or the result is not finite."""
    if value is None or not by:
        return None
    return finite(value / by)


def perplexity(nll: float | None, units: float = 1) -> float | None:
    """exp(nll / units) of a negative log-likelihood in nats; None where there are no units or it is not finite."""
    mean = quotient(nll, units)
    try:
        return None if mean is None else math.exp(mean)
    except OverflowError:
        return None


def shown(value: float | None, digits: int) -> str:
    """The value with `digits` decimals, or "-"."""
    return "-" if value is None else f"{value:.{digits}f}"
