"""MAHA's attention: queries, keys and values at every scale, span attention at each, one aggregation."""

import torch
from torch import Tensor, nn

from maha_model.aggregation import Aggregator, Placement
from maha_model.attention.base import Attention
from maha_model.config import ModelConfig
from maha_model.kernels.span import span_attention
from maha_model.layers import apply_rotary, prefer_near_
from maha_model.local_context import LocalContext
from maha_model.multiscale import CrossScaleGate, Decomposition


class ScaleProjections(nn.Module):
    """The queries or the keys of every scale: X_l W_l + b_l (paper eq. 6, with a bias that prefers near tokens).

    With shared projections W_l = W diag(g_l) and b_l = b g_l. W and b are the finest scale's; g_l, one gain a channel
    for each coarser scale, starts at 1. Without weight decay, as every vector.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, biased = config, config.recency_height > 0
        width, shared = config.num_heads * config.scale_qk_dim, config.projections == "shared"
        matrices, gains = (1, config.num_scales - 1) if shared else (config.num_scales, 0)
        self.matrices = nn.ModuleList(nn.Linear(config.d_model, width, bias=biased) for _ in range(matrices))
        self.gains = nn.ParameterList(torch.ones(width) for _ in range(gains))

    def initialize_parameters(self) -> None:
        """Start with a preference for near tokens, in every scale's own distances."""
        for matrix in self.matrices:
            if isinstance(matrix.bias, Tensor):
                prefer_near_(matrix.bias, self.config.num_heads, self.config.recency_height)

    def forward(self, x_BnD: Tensor, level: int) -> Tensor:
        """(B, n, D) -> (B, n, H*dk)."""
        if level == 0 or not self.gains:
            return self.matrices[level](x_BnD)
        # The gain goes into the matrix, so that nothing but x is kept for the backward pass.
        (matrix,), gain = self.matrices, self.gains[level - 1]
        bias = None if matrix.bias is None else matrix.bias * gain
        return nn.functional.linear(x_BnD, matrix.weight * gain[:, None], bias)


class MAHAAttention(Attention):
    """Multiscale aggregated hierarchical attention (paper eqs. 5 to 8) under the causal visibility rule."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.local = LocalContext(config) if config.dilation else nn.Identity()
        self.decompose = Decomposition(config)
        self.gates = nn.ModuleList(CrossScaleGate(config) for _ in range(config.num_scales - 1 if config.gating else 0))
        self.query, self.key = ScaleProjections(config), ScaleProjections(config)
        matrices = config.num_scales if config.values == "separate" else 1
        self.value = nn.ModuleList(nn.Linear(config.d_model, config.d_model, bias=False) for _ in range(matrices))
        self.aggregate = Aggregator(config)

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> (B, N, D), aux."""
        queries, keys, values = self.project(x_BND)[1:]
        mixed_BND, aux = self.maybe_recompute(self.attend_and_aggregate, x_BND, queries, keys, values)
        return self.out(mixed_BND), aux

    def project(self, x_BND: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """For every scale (B, n, ...): contexts before the gates, queries, keys, values; finest first."""
        context_BND = self.local(x_BND)
        contexts = self.decompose(context_BND)
        if self.config.values == "shared":
            values = self.decompose(self.value[0](context_BND))
        else:
            values = [project(context) for project, context in zip(self.value, contexts, strict=False)]
        gated = list(contexts)
        for level, gate in enumerate(self.gates[: len(contexts) - 1]):
            gated[level] = gate(contexts[level], contexts[level + 1])
        sources = gated if self.config.query == "coarse" else [gated[0]] * len(gated)
        queries = [self.query(source, level) for level, source in enumerate(sources)]
        keys = [self.key(context, level) for level, context in enumerate(gated)]
        return contexts, queries, keys, values

    def attend_and_aggregate(
        self, x_BND: Tensor, queries: list[Tensor], keys: list[Tensor], values: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What `project` made -> the scales' mixture (B, N, D) before the output projection, aux."""
        config = self.config
        attend = self._attend_coarse if config.query == "coarse" else self._attend_fine
        outputs_BHnd = [
            attend(self._heads(q), self._heads(k), self._heads(v), config.ratio**level)
            for level, (q, k, v) in enumerate(zip(queries, keys, values, strict=True))
        ]
        value_BNHd = values[0].unflatten(-1, (config.num_heads, -1))
        mixed_BNHd, _, aux = self.aggregate(x_BND, outputs_BHnd, value_BNHd, self._placements(len(outputs_BHnd)))
        return mixed_BNHd.flatten(2), aux

    def _placements(self, num_scales: int) -> list[Placement]:
        """The visibility rule (docs/model.md): coarse token j is first visible at position factor*(j+1) - 1."""
        config = self.config
        factors = [config.ratio**level for level in range(num_scales)]
        repeated = [factor if config.query == "coarse" else 1 for factor in factors]
        return [Placement(f - 1 if config.causal else 0, r) for f, r in zip(factors, repeated, strict=True)]

    def _heads(self, x_BnD: Tensor) -> Tensor:
        return x_BnD.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def _attend_coarse(self, q_BHnd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, factor: int) -> Tensor:
        """The scale attends to itself, whatever its `factor`: (B, H, n, d)."""
        config = self.config
        q_BHnd, k_BHnd = (apply_rotary(x, config.rope_base) for x in (q_BHnd, k_BHnd))
        return span_attention(q_BHnd, k_BHnd, v_BHnd, config.span, config.causal)

    def _attend_fine(self, q_BHNd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, factor: int) -> Tensor:
        """Every position from the first with a finished coarse token on attends to those: (B, H, n*factor, d).

        The `factor` positions for which the same coarse tokens are visible become as many heads, each with one query
        per coarse token, so that the attention is that of the coarse sequence with itself. A bidirectional tail
        without a coarse token of its own has no row here.
        """
        config, (_, H, n, _) = self.config, k_BHnd.shape
        offset = factor - 1 if config.causal else 0
        q_BHNd = q_BHNd[:, :, offset : offset + n * factor]
        q_BHNd = nn.functional.pad(q_BHNd, (0, 0, 0, n * factor - q_BHNd.shape[2]))
        q_BHfnd = apply_rotary(q_BHNd.unflatten(2, (n, factor)).transpose(2, 3), config.rope_base)
        k_BGnd = apply_rotary(k_BHnd, config.rope_base).repeat_interleave(factor, dim=1)
        v_BGnd = v_BHnd.repeat_interleave(factor, dim=1)
        out = span_attention(q_BHfnd.flatten(1, 2), k_BGnd, v_BGnd, config.span, config.causal)
        return out.unflatten(1, (H, factor)).transpose(2, 3).flatten(2, 3)
