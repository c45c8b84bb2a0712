"""Values derived from measurements. One that is undefined is None: `null` in JSON, "-" in a table.

Text without spaces has no perplexity per word, a blank document none per token, and exp overflows above 709 nats.
"""

import json
import math
from typing import Any


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


def finite(value: float) -> float | None:
    """The value; None if it is NaN or infinite."""
    return value if math.isfinite(value) else None


def shown(value: float | None, digits: int) -> str:
    """The value with `digits` decimals, or "-"."""
    return "-" if value is None else f"{value:.{digits}f}"


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON by the standard, which has neither NaN nor infinity: these are null."""
    return json.dumps(_without_nonfinite(values), indent=indent, allow_nan=False)


def _without_nonfinite(values: Any) -> Any:
    if isinstance(values, float):
        return finite(values)
    if isinstance(values, dict):
        return {key: _without_nonfinite(value) for key, value in values.items()}
    return [_without_nonfinite(value) for value in values] if isinstance(values, list | tuple) else values
