"""Sizes and codes of the small QP that every implementation of its solver uses."""

DOMAINS = ("simplex", "budget", "box")
MAX_SCALES = 8  # unknowns of a problem
FULL_EXCHANGES = 3  # block exchanges without progress before single exchanges begin
MAX_EXCHANGES = 100  # far beyond what occurs (at most about 10); bounds rounding-induced cycles
UPPER_BIT, TIGHT_BIT = 8, 16  # first bits, in a packed active set, of the unknowns at 1 and of the binding sum


def solver_constants() -> tuple[float, ...]:
    """In the order of `solver_constants` in solver.h, which must return the same."""
    codes = range(len(DOMAINS))
    return (MAX_SCALES, *codes, FULL_EXCHANGES, MAX_EXCHANGES, UPPER_BIT, TIGHT_BIT)
