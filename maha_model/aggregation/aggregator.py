"""Fusing scale outputs per position and head: the learned inputs of the problem, and its solution by the strategy."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from maha_model.aggregation.cvxpylayers_solver import solve_with_cvxpylayers
from maha_model.aggregation.game import best_response
from maha_model.config import ConfigError, ModelConfig
from maha_model.kernels.fuse import Placement, Problem, assemble, compute_dtype, fuse, normalized, present_scales
from maha_model.layers import WideLinear, normal_

_KINDS = {"utility": "utility", "projection": "target", "value": "target", "output": "output"}


class Aggregator(nn.Module):
    """Weights w (L, B, N, H) of the scales and their combination sum_l w_l o_l, by the configured strategy.

    `convex` and `nash` solve the QP of `kernels.fuse` exactly. For the target `utility`, G is the Gram matrix of
    the normalised scale outputs and b the learned utilities. For the others both are divided by the outputs' mean
    power, so that ridge and sparsity are relative to it: with the plain 1/d the small outputs of a fresh model would
    all be priced away. Everything up to w is computed in float32 at least, with autocast or without.
    """

    reports_aux = False
    """Whether to compute the price of the weights; set by `Transformer.reports_aux`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.aggregation
        self.head_start, self.descends = config.head_start, config.descent > 0
        self.num_scales, self.num_heads, self.ratio = config.num_scales, config.num_heads, config.ratio
        strategy, target = self.config.strategy, self.config.target
        self.solves = strategy in ("convex", "nash", "best_response")
        self.utility = self.project = self.logits = None
        if strategy == "gate" or (self.solves and target == "utility"):
            self.utility = WideLinear(config.d_model, config.num_scales * config.num_heads)
        elif strategy == "softmax":
            self.logits = nn.Parameter(torch.zeros(config.num_scales, config.num_heads))
        elif self.solves and target == "projection":
            self.project = nn.Linear(config.d_model, config.d_model, bias=False)
        costs = self._costs()
        plays = (
            strategy != "convex"
        )  # a game, whose players also gain by explaining their own output (paper equation 8)
        self.problem = Problem(
            kind=_KINDS[target] if self.solves else "given",
            prices=tuple(self.config.sparsity * cost for cost in costs),
            domain="box" if plays else self.config.domain,
            redundancy=self.config.redundancy,
            ridge=self.config.ridge,
            own_gain=plays and target in ("utility", "output"),
            normalize=plays and self.config.normalize,
        )

    def initialize_parameters(self) -> None:
        """Start the finest scale ahead of the others by `head_start`; training raises the weights of coarse ones.

        Players of a game each gain by their own output (paper equation 8): around the weight of that the finest scale
        starts higher by half of it, the others lower.
        """
        if self.utility is not None:
            bias_LH = torch.zeros(self.num_scales, self.num_heads)
            bias_LH[0] = self.head_start
            if self.problem.own_gain:
                bias_LH -= self.head_start / 2
            with torch.no_grad():
                self.utility.bias.copy_(bias_LH.flatten())
            # Of unit size whatever the width where spans alone start with the finest scale, so that some tokens start
            # with a coarse one: a vertex of the simplex has no gradient. Else weights start inside of their set.
            at_vertex = self.head_start and not self.descends
            normal_(self.utility.weight, std=(1.0 if at_vertex else 0.1) * self.utility.in_features**-0.5)

    def forward(
        self,
        x_BND: Tensor,
        outputs_BHnd: list[Tensor],
        value_BNHd: Tensor,
        placements: list[Placement],
        log_sums_BHN: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fuse L scale outputs, each at its own resolution.

        Args:
            x_BND: the layer's input, from which utilities, gates and targets are made.
            outputs_BHnd: scale outputs (B, H, n_l, d), finest first.
            value_BNHd: the values at full resolution (target `value`).
            placements: which row of each scale stands at a position.
            log_sums_BHN: log-sum-exp of the scores of every scale, -inf where it is absent (`joint`).

        Returns:
            combined (B, N, H, d); weights (L, B, N, H) float32 or float64, zero where absent; aux, the mean of
            lambda * sum_l c_l w_l, a scalar, or None unless `reports_aux`.
        """
        problem, length = self._problem(len(outputs_BHnd)), x_BND.shape[1]
        device_type = "cpu" if x_BND.is_meta else x_BND.device.type  # a shapes-only run has no autocast of its own
        with torch.autocast(device_type, enabled=False):
            linear = target = None
            if problem.kind == "utility":
                linear = self._utilities(x_BND, len(outputs_BHnd))
            elif problem.kind == "target":
                target = self._target(x_BND, value_BNHd)
            elif problem.kind == "given":
                linear = self._given_weights(x_BND, placements, log_sums_BHN)
            if self.solves and (self.config.strategy == "best_response" or self.config.solver == "cvxpylayers"):
                linear = self._weights_by_other_solver(outputs_BHnd, placements, length, problem, linear, target)
                problem, target = replace(problem, kind="given"), None
            combined, weights = fuse(outputs_BHnd, placements, length, problem, linear, target)
        if not self.reports_aux:
            return combined, weights, None
        price_L = weights.new_tensor(problem.prices)
        return combined, weights, weights.mean((1, 2, 3)) @ price_L

    def set_sparsity(self, value: float) -> None:
        """Another lambda on a trained module, or with `gate` another threshold: higher, more weights are zero.

        Raises:
            ConfigError: for a value that the configuration refuses, or a strategy that has neither.
        """
        if self.config.strategy == "gate":
            self.config = replace(self.config, threshold=value)
        elif self.solves:
            self.config = replace(self.config, sparsity=value)
            self.problem = replace(self.problem, prices=tuple(value * cost for cost in self._costs()))
        else:
            raise ConfigError(f"aggregation.strategy {self.config.strategy} has no sparsity; leave it out")

    def _costs(self) -> list[float]:
        return self.config.costs or [1.0] * self.num_scales

    @property
    def weighs_beforehand(self) -> bool:
        """Whether the weights follow from the layer's input alone and can be zero."""
        if self.config.strategy == "gate":
            return self.config.threshold > 0
        in_closed_form = self.config.strategy in ("convex", "nash") and self.config.solver == "exact"
        return in_closed_form and self.problem.kind == "utility" and self.problem.redundancy == 0

    def weights_beforehand(self, x_BND: Tensor, placements: list[Placement]) -> Tensor:
        """The weights (L, B, N, H) that `forward` will give, bitwise, before there are scale outputs.

        Only where `weighs_beforehand`: the problem is then the same for any finite outputs, so here for zeros.
        """
        zeros_BH1d = x_BND.new_zeros(x_BND.shape[0], self.num_heads, 1, x_BND.shape[2] // self.num_heads)
        return self.forward(x_BND, [zeros_BH1d] * len(placements), zeros_BH1d, placements)[1]

    def _problem(self, num_scales: int) -> Problem:
        """The problem of the scales there are: a short sequence has no coarse ones."""
        return replace(self.problem, prices=self.problem.prices[:num_scales])

    def _utilities(self, x: Tensor, num_scales: int) -> Tensor:
        """(B, N, D) -> (B, N, L, H), in float32 at least: bfloat16 would round them by as much as weights differ."""
        assert self.utility is not None
        u = self.utility(x)
        return u.unflatten(-1, (self.num_scales, self.num_heads))[:, :, :num_scales]

    def _target(self, x: Tensor, value: Tensor) -> Tensor:
        """What the mixture should approach: (B, N, H, d), in the dtype of the outputs that it is compared with."""
        return value if self.project is None else self.project(x.to(self.project.weight.dtype)).view(value.shape)

    def _given_weights(self, x: Tensor, placements: list[Placement], log_sums_BHN: list[Tensor] | None) -> Tensor:
        """Weights (B, N, L, H) of the strategies that solve nothing: a softmax over present scales, or their mean."""
        B, N, _ = x.shape
        L = len(placements)
        if self.config.strategy == "joint":
            assert log_sums_BHN is not None, "joint comes with a descent"
            # A coarse token counts as often as the tokens that it covers.
            scores = torch.stack(
                [mass + level * math.log(self.ratio) for level, mass in enumerate(log_sums_BHN)], dim=-1
            ).permute(0, 2, 3, 1)
        elif self.utility is not None:
            scores = self._utilities(x, L)
        elif self.logits is not None:
            scores = self.logits[:L].expand(B, N, L, self.num_heads)
        else:
            scores = x.new_zeros(()).expand(B, N, L, self.num_heads)
        present_NL1 = present_scales(placements, N, x.device).T[..., None]
        weights = torch.where(present_NL1, scores.to(compute_dtype(scores.dtype)), -torch.inf).softmax(2)
        if self.config.threshold:
            weights = torch.where(weights >= self.config.threshold, weights, 0.0)
            weights = weights / weights.sum(2, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        return weights

    def _weights_by_other_solver(
        self,
        outputs_BHnd: list[Tensor],
        placements: list[Placement],
        length: int,
        problem: Problem,
        linear: Tensor | None,
        target: Tensor | None,
    ) -> Tensor:
        """Weights (B, N, L, H) by best-response sweeps or by cvxpylayers, on the problem in plain torch."""
        Q, p, present = assemble(problem, outputs_BHnd, placements, length, linear, target)
        if self.config.strategy == "best_response":
            weights = best_response(Q, p, present, self.config.sweeps)
        else:
            weights = solve_with_cvxpylayers(Q.flatten(2), p.flatten(1), problem.domain, present.flatten(1)).view_as(p)
        return (normalized(weights) if problem.normalize else weights).movedim(0, 2)
