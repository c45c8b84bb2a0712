"""Attention at every scale of the pyramid: over spans of each scale's own, or down the scales."""

from typing import NamedTuple

import torch
from torch import Tensor

from maha_model.attention.bounds import bounding_keys, bounding_query
from maha_model.config import ModelConfig
from maha_model.kernels.descent import descend
from maha_model.kernels.fuse import Placement
from maha_model.kernels.rotary import apply_rotary, apply_rotary_to_all
from maha_model.kernels.span import span_attention


class ScaleOutputs(NamedTuple):
    """What the aggregation fuses."""

    outputs: list[Tensor]
    """Outputs of the scales (B, H, n_l, d), each at its own resolution, finest first."""
    placements: list[Placement]
    """Which row of each stands at a position."""
    log_sums: list[Tensor] | None = None
    """With a descent: log-sum-exp of every position's scores at each scale, (B, H, N), -inf where it is absent."""


def rotary_line(config: ModelConfig, factor: int) -> tuple[float, float]:
    """Rotary position of token 0 of the scale whose tokens cover `factor` positions, and the distance to the next."""
    return (0.0, 1.0) if config.positions == "scale" else ((factor - 1) / 2, float(factor))


def _lines(num_scales: int, config: ModelConfig) -> list[tuple[float, float]]:
    return [rotary_line(config, config.ratio**level) for level in range(num_scales)]


def rotate_keys(k_BHnd: Tensor, level: int, config: ModelConfig) -> Tensor:
    """Keys (B, H, n, dk) of a scale, rotated."""
    return apply_rotary(k_BHnd, config.rope_base, *rotary_line(config, config.ratio**level))


def attend_down(
    q_BHNd: Tensor, keys: list[Tensor], values: list[Tensor], beta_L: Tensor | None, config: ModelConfig
) -> ScaleOutputs:
    """Descent: one query a position, keys and values of every scale (B, H, n_l, ...), none of them rotated.

    With bounds for coarse keys the finest keys alone.
    """
    q_BHNd, *keys = apply_rotary_to_all([q_BHNd, *keys], [(0.0, 1.0), *_lines(len(keys), config)], config.rope_base)
    if config.bounded:
        keys += bounding_keys(keys[0], config.ratio, len(values))
    return descend_from(0, q_BHNd, keys, values, beta_L, config)


def descend_from(
    start: int, q_BHMd: Tensor, keys: list[Tensor], values: list[Tensor], beta_L: Tensor | None, config: ModelConfig
) -> ScaleOutputs:
    """Descent of the queries at positions start.., everything rotated; rows before a scale's first token left out."""
    groups = config.descent_groups or config.num_heads
    assert config.span != "full"
    coarse_q = bounding_query(q_BHMd) if config.bounded and len(keys) > 1 else None
    found = descend(q_BHMd, keys, values, beta_L, config.ratio, config.span, config.descent, groups, start, coarse_q)
    firsts = [max(0, config.ratio**level - 1 - start) for level in range(len(keys))]
    outputs = [x[:, :, first:] for x, first in zip(found.outputs, firsts, strict=True)]
    return ScaleOutputs(outputs, [Placement(first, 1) for first in firsts], found.log_sums)


def attend_in_spans(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], config: ModelConfig
) -> ScaleOutputs:
    """Attention of every scale to at most W tokens of its own; queries, keys, values (B, H, n, ...), not rotated."""
    L, coarse = len(keys), config.query == "coarse"
    if not coarse and config.positions == "scale":  # rotated below, where it is known which token each stands at
        keys = apply_rotary_to_all(keys, _lines(L, config), config.rope_base)
    else:
        lines = _lines(L, config) if coarse else [(0.0, 1.0)] * L
        rotated = apply_rotary_to_all([*queries, *keys], [*lines, *_lines(L, config)], config.rope_base)
        queries, keys = rotated[:L], rotated[L:]
    if coarse:
        outputs = [
            span_attention(q, k, v, config.span, config.causal) for q, k, v in zip(queries, keys, values, strict=True)
        ]
    else:
        triples = enumerate(zip(queries, keys, values, strict=True))
        outputs = [_attend_fine(q, k, v, level, config) for level, (q, k, v) in triples]
    return ScaleOutputs(outputs, _placements(L, config))


def _placements(num_scales: int, config: ModelConfig) -> list[Placement]:
    """The visibility rule (docs/model.md): coarse token j is first visible at position factor*(j+1) - 1."""
    factors = [config.ratio**level for level in range(num_scales)]
    repeated = [factor if config.query == "coarse" else 1 for factor in factors]
    return [Placement(f - 1 if config.causal else 0, r) for f, r in zip(factors, repeated, strict=True)]


def _attend_fine(q_BHNd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, level: int, config: ModelConfig) -> Tensor:
    """Every position from the first with a finished coarse token on attends to those: (B, H, n*factor, d).

    The `factor` positions for which the same coarse tokens are visible become as many heads, each with one query
    per coarse token, so that the attention is that of the coarse sequence with itself. A bidirectional tail
    without a coarse token of its own has no row here. Keys are rotated, queries too if positions are tokens'.
    """
    factor, (_, H, n, _) = config.ratio**level, k_BHnd.shape
    offset = factor - 1 if config.causal else 0
    q_BHNd = q_BHNd[:, :, offset : offset + n * factor]
    q_BHNd = torch.nn.functional.pad(q_BHNd, (0, 0, 0, n * factor - q_BHNd.shape[2]))
    q_BHfnd = q_BHNd.unflatten(2, (n, factor)).transpose(2, 3)
    if config.positions == "scale":  # a query stands where its newest visible token does
        q_BHfnd = apply_rotary(q_BHfnd, config.rope_base)
    k_BGnd = k_BHnd.repeat_interleave(factor, dim=1)
    v_BGnd = v_BHnd.repeat_interleave(factor, dim=1)
    out = span_attention(q_BHfnd.flatten(1, 2), k_BGnd, v_BGnd, config.span, config.causal)
    return out.unflatten(1, (H, factor)).transpose(2, 3).flatten(2, 3)
