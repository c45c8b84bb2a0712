"""The configuration of the aggregation."""

from dataclasses import dataclass
from typing import Literal

from maha_model.config.checks import ConfigError, check_choices, check_finite


@dataclass(kw_only=True)
class AggregationConfig:
    """How the scale outputs of one position and head are fused (docs/model.md: convex = paper eq. 7, nash = eq. 8)."""

    strategy: Literal["convex", "nash", "best_response", "mean", "softmax", "gate", "joint"] = "convex"
    """`convex` and `nash` solve a small QP exactly; `best_response` is Nash by unrolled sweeps; `mean`, `softmax`
    (static logits), `gate` (softmax of a linear map of the input) and `joint` (one softmax over all tokens that a
    descent reaches at any scale, a coarse one counting as often as those it covers) are the baselines."""
    domain: Literal["simplex", "budget"] = "simplex"
    """Feasible set of `convex`: weights sum to 1, or to at most 1 (there the sparsity term can switch scales off)."""
    target: Literal["utility", "projection", "value", "output"] = "utility"
    """What the weights aim at: `utility`, a learned value of each scale (the Gram matrix of the normalised outputs is
    then the price of redundancy); `projection`, a learned projection of the input; `value`, the value at the same
    position; `output` (Nash only), each player's own output, as in the paper's equation 8."""
    redundancy: float = 1.0
    """Weight of the Gram matrix in the quadratic term; 0 with `utility` on the simplex is sparsemax."""
    ridge: float = 1.0
    """rho > 0, added to the diagonal of the quadratic term: makes the solution unique."""
    sparsity: float = 0.1
    """lambda >= 0, price of a unit of weight. Constant, hence without effect, on the simplex with equal costs."""
    head_start: float | None = None
    """By how much the utility of the finest scale is above the others' before training, which else dilute it before
    anything is learned. null: with a descent three quarters of `redundancy` + `ridge` for `convex` and `nash`, where
    all scales still have weight; with spans alone 3 for `convex`; else 0."""
    costs: list[float] | None = None
    """c_l >= 0, relative price of each scale; null means 1 for every scale."""
    normalize: bool = False
    """Divide the weights of `nash` and `best_response` by their sum, so that the output is an average of scales;
    without it every scale's weight is between 0 and 1 whatever the others' are."""
    threshold: float = 0.0
    """Of `gate`: weights below it are set to 0, the others divided by their sum; where all are below, all are 0."""
    sweeps: int = 8
    """Sweeps of `best_response`."""
    solver: Literal["exact", "cvxpylayers"] = "exact"
    """Solver of the QP: our batched exact one, or cvxpylayers (for comparison; slow, on the CPU)."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_finite(self, "aggregation.")
        if self.strategy == "convex" and self.target == "output":
            raise ConfigError("aggregation.target 'output' is for nash; use utility, projection or value with convex")
        if self.ridge <= 0:
            raise ConfigError(f"aggregation.ridge is {self.ridge}; it must be positive, or the weights are not unique")
        if self.sparsity < 0 or self.redundancy < 0 or min(self.costs or [0]) < 0:
            raise ConfigError("aggregation.sparsity, aggregation.redundancy and aggregation.costs must not be negative")
        if self.threshold and self.strategy != "gate":
            raise ConfigError(f"aggregation.threshold is for gate, not for {self.strategy}; set threshold 0")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"aggregation.threshold is {self.threshold}; it must be at least 0 and below 1")
        if self.sweeps < 1:
            raise ConfigError(f"aggregation.sweeps is {self.sweeps}; it must be at least 1")
