"""MAHA's attention: queries, keys and values at every scale, attention at each, one aggregation."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maha_model.aggregation import Aggregator, Placement
from maha_model.attention.base import Attention
from maha_model.attention.index import ChoiceIndex, Indexed
from maha_model.attention.packed import attend_packed, packs
from maha_model.attention.parts import lead_tokens, with_rows_before, without_lead
from maha_model.attention.scales import (
    ScaleOutputs,
    attend_down,
    attend_in_spans,
    placements_of,
    rotate_down,
    wanted_scales,
)
from maha_model.config import ModelConfig
from maha_model.kernels.index import Rows, attach, choose_blocks, lesson
from maha_model.layers import linear_of_parts, prefer_near_
from maha_model.multiscale import CrossScaleGate, Decomposition


class _Gains(nn.Module):
    """One gain a channel for each of `levels` coarser scales."""

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        for index in range(levels):
            self.register_parameter(str(index), nn.Parameter(torch.ones(width)))

    def forward(self, level: int | None = None) -> Tensor:
        """A copy of that of scale `level` > 0, or of all (L - 1, E): the parameters may be whole in here only."""
        if level is None:
            return torch.stack(list(self.parameters()))
        return self.get_parameter(str(level - 1)).clone()


class _Projection(nn.Linear):
    """torch's, or with a gain a channel."""

    def forward(
        self, x_BnD: Tensor, gain_E: Tensor | None = None, parts: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, n, D) -> (B, n, E), or rows (T, D) -> (T, E) of which `parts` are the first (B, N, D) and the others."""
        if parts is not None:
            return linear_of_parts(x_BnD, *parts, self.weight, self.bias)
        if gain_E is None:
            return super().forward(x_BnD)
        # The gain goes into the matrix, so that nothing but x is kept for the backward pass.
        bias_E = None if self.bias is None else self.bias * gain_E
        return nn.functional.linear(x_BnD, self.weight * gain_E[:, None], bias_E)


class ScaleProjections(nn.Module):
    """Queries or keys of `num_scales` scales: X_l W_l + b_l (paper eq. 6, with a bias that prefers near tokens).

    With shared projections W_l = W diag(g_l) and b_l = b g_l. W and b are the finest scale's; g_l, one gain a channel
    for each coarser scale, starts at 1. Without weight decay, as every vector.

    Every parameter is used in its own module's forward: under ZeRO 3 with torch.compile it is whole nowhere else.
    """

    def __init__(self, config: ModelConfig, num_scales: int) -> None:
        super().__init__()
        self.config, biased = config, config.recency_height > 0
        width, shared = config.num_heads * config.scale_qk_dim, config.projections == "shared"
        matrices, gains = (1, num_scales - 1) if shared else (num_scales, 0)
        self.matrices = nn.ModuleList(_Projection(config.d_model, width, bias=biased) for _ in range(matrices))
        self.gains = _Gains(gains, width)

    def initialize_parameters(self) -> None:
        """Start with a preference for near tokens, in every scale's own distances."""
        for matrix in self.matrices:
            if isinstance(matrix.bias, Tensor):
                prefer_near_(matrix.bias, self.config.num_heads, self.config.recency_height)

    def forward(self, x_BnD: Tensor, level: int) -> Tensor:
        """(B, n, D) -> (B, n, H*dk)."""
        if self.config.projections == "shared" and level:
            matrix, gain_E = self.matrices[0], self.gains(level)
            if isinstance(matrix, _Projection):
                return matrix(x_BnD, gain_E)
            return matrix(x_BnD) * gain_E  # a wrapper of it, such as LoRA's, whose own part has the gain too
        return self.matrices[level](x_BnD)

    def packed(self, rows_TD: Tensor, finest_BND: Tensor, coarse_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Packed scales (T, D) -> (T, E) by the shared matrix; the gains (L - 1, E) of coarse rows, not yet applied.

        `finest_BND` and `coarse_TD` have the same rows again, see `linear_of_parts`.
        """
        return self.matrices[0](rows_TD, parts=(finest_BND, coarse_TD)), self.gains()


class Projected(NamedTuple):
    """What a MAHA layer makes of its input before attention; tensors (B, n, ...) of every scale, finest first."""

    contexts: list[Tensor]
    """Before the gates."""
    queries: list[Tensor]
    """Of a descent one tensor, for all scales."""
    keys: list[Tensor]
    """With bounds for coarse keys those of the finest scale alone."""
    values: list[Tensor]
    indexed: Indexed | None
    """With a choice by an index."""


class MAHAAttention(Attention):
    """Multiscale aggregated hierarchical attention (paper eqs. 5 to 8) under the causal visibility rule."""

    lesson_scale = 1.0
    """What a loss is multiplied by before its backward pass; set by `CausalLM.scale_lessons`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        L = config.num_scales
        self.decompose = Decomposition(config)
        self.gates = nn.ModuleList(CrossScaleGate(config) for _ in range(L - 1 if config.gating else 0))
        self.query = ScaleProjections(config, 1 if config.descent else L)  # a descent has one query for all scales
        # Bounds of keys are made from the finest ones.
        self.key = ScaleProjections(config, 1 if config.bounded else L)
        matrices = L if config.values == "separate" else 1
        self.value = nn.ModuleList(nn.Linear(config.d_model, config.d_model, bias=False) for _ in range(matrices))
        self.aggregate = Aggregator(config)
        # By how much the log share of a chosen token raises the scores of those that it leads to. A bound needs no such
        # way to learn, as it is made of their own keys, and is no measure of their share.
        has_beta = config.descent and L > 1 and not config.bounded and not config.indexed
        self.index = ChoiceIndex(config) if config.indexed else None
        self.beta = nn.Parameter(torch.ones(L - 1)) if has_beta else None

    def forward(self, x_BND: Tensor, rows: Rows | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> (B, N, D), aux."""
        if packs(self, x_BND):
            mixed_BND, aux = attend_packed(self, x_BND)
            return self.out(mixed_BND), aux
        projected = self.project(x_BND)
        mixed_BND, aux = self.maybe_recompute(self.attend_and_aggregate, x_BND, projected, rows)
        return self.out(mixed_BND), aux

    def project(self, x_BND: Tensor) -> Projected:
        """Contexts, queries, keys and values of every scale.

        With bounds for coarse keys there are contexts of coarse scales only if their values are made from them.
        """
        config = self.config
        context_BND = self.local_context(x_BND, 0 if self.split is None else lead_tokens(config))
        contexts = self.decompose(context_BND) if self.has_coarse_contexts else [context_BND]
        if config.values == "shared":
            values = self.decompose(self.value[0](context_BND))
        else:
            values = [project(context) for project, context in zip(self.value, contexts, strict=False)]
        gated = list(contexts)
        for level, gate in enumerate(self.gates[: len(contexts) - 1]):
            gated[level] = gate(contexts[level], contexts[level + 1])
        sources = gated if config.query == "coarse" else [gated[0]] * (1 if config.descent else len(gated))
        queries = [self.query(source, level) for level, source in enumerate(sources)]
        bounded = config.bounded
        keys = [self.key(context, level) for level, context in enumerate(gated[:1] if bounded else gated)]
        indexed = None if self.index is None else self.index(context_BND)
        if self.split is not None:
            queries, keys, values = without_lead(queries, keys, values, config, self.split)
            if indexed is not None:
                own = keys[0].shape[1]
                indexed = indexed._replace(queries=indexed.queries[:, -own:], keys=indexed.keys[:, -own:])
        return Projected(contexts, queries, keys, values, indexed)

    @property
    def raise_2L(self) -> Tensor | None:  # noqa: N802  # its shape, as everywhere
        """What is added to the scores of a chosen token's children, see `kernels.descent.descend`; None: nothing."""
        if self.beta is None:
            return None
        config = self.config
        return torch.stack(
            [self.beta, self.beta * (math.log(config.descent) if config.chosen_share == "relative" else 0.0)]
        )

    @property
    def has_coarse_contexts(self) -> bool:
        """Whether coarse scales have contexts: with shared values, bounds for their keys leave no use for them."""
        return not self.config.bounded or self.config.values == "separate"

    def attend_and_aggregate(
        self, x_BND: Tensor, projected: Projected, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What `project` made -> the scales' mixture (B, N, D) before the output projection, aux."""
        if self.split is not None:
            projected = with_rows_before(projected, self.config, self.split)
        return self.attend_to_rows(x_BND, projected, rows)

    def attend_to_rows(
        self, x_BND: Tensor, projected: Projected, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`attend_and_aggregate` where keys and values have the rows before this part already."""
        _, queries, keys, values, indexed = projected
        value_BNHd = values[0][:, -x_BND.shape[1] :].unflatten(-1, (self.config.num_heads, -1))
        wanted, start = None, 0
        if self.split is None:
            wanted = self.wanted(x_BND, placements_of(len(values), self.config))
        else:
            start = self.split.start
        q, k, v = ([self._heads(x) for x in tensors] for tensors in (queries, keys, values))
        scales, lost = self.attend(q, k, v, indexed, wanted, start, rows)
        mixed_BNHd, _, aux = self.aggregate(x_BND, scales.outputs, value_BNHd, scales.placements, scales.log_sums)
        mixed_BND = mixed_BNHd.flatten(2)
        return (mixed_BND if lost is None else attach(mixed_BND, lost, self.lesson_scale)), aux

    def wanted(self, x_BND: Tensor, placements: list[Placement]) -> list[Tensor] | None:
        """Where each scale is needed, bool (B, G, N); None: everywhere.

        So it is in training, where no weight is known yet, and in an encoder.
        """
        if torch.is_grad_enabled() or not self.config.causal or not self.aggregate.weighs_beforehand:
            return None
        return wanted_scales(self.aggregate.weights_beforehand(x_BND, placements), self.config)

    def attend(
        self, queries: list[Tensor], keys: list[Tensor], values: list[Tensor], indexed: Indexed | None = None,
        wanted: list[Tensor] | None = None, start: int = 0, rows: Rows | None = None,
    ) -> tuple[ScaleOutputs, Tensor | None]:  # fmt: skip
        """Attention at every scale, and in training the loss of an index.

        Queries, keys and values (B, H, n, ...), finest first, not rotated; with bounds for coarse keys the finest keys
        alone. The first position is `start`, rows before it those of `parts.with_rows_before`.
        """
        config = self.config
        if not config.descent:
            return attend_in_spans(queries, keys, values, config, wanted, start), None
        q_BHMd, keys = rotate_down(queries[0], keys, len(values), config, start)
        chosen, lost = None, None
        if indexed is not None:
            assert self.index is not None
            short_q, short_k = self.index.apart(indexed.queries), self.index.apart(indexed.keys)
            ratio, near = config.ratio, config.spans[0]
            chosen = choose_blocks(short_q, short_k, indexed.fade, ratio, near, config.descent, start)
            if torch.is_grad_enabled() and any(x.requires_grad for x in indexed):
                total = None if self.split is None else sum(self.split.sizes)
                lost = lesson(short_q, short_k, indexed.fade, q_BHMd, keys[0], ratio, near, start, total, rows)
                if self.split is not None:  # scaled as the gradient of `mean_over_parts` is
                    lost = lost * len(self.split.sizes)
        return attend_down(q_BHMd, keys, values, self.raise_2L, config, wanted, start, chosen), lost

    def _heads(self, x_BnD: Tensor) -> Tensor:
        return x_BnD.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
