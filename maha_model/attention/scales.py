"""Attention at every scale of the pyramid: over spans of each scale's own, or down the scales."""

from typing import NamedTuple

import torch
from torch import Tensor

from maha_model.attention.last_queries import attend_from_last
from maha_model.config import ModelConfig
from maha_model.kernels.bounds import bounding_keys
from maha_model.kernels.descent import attend_found, descend
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


def _lines_from(firsts: list[int], config: ModelConfig) -> list[tuple[float, float]]:
    """Of every scale, the first row being token firsts[l] of it."""
    lines = [rotary_line(config, config.ratio**level) for level in range(len(firsts))]
    return [(offset + step * first, step) for first, (offset, step) in zip(firsts, lines, strict=True)]


def rotary_lines(num_scales: int, config: ModelConfig) -> list[tuple[float, float]]:
    """`rotary_line` of every scale, finest first."""
    return [rotary_line(config, config.ratio**level) for level in range(num_scales)]


def rotate_keys(k_BHnd: Tensor, level: int, config: ModelConfig, first: int = 0) -> Tensor:
    """Keys (B, H, n, dk) of a scale, rotated; row 0 is token `first` of the scale."""
    offset, step = rotary_line(config, config.ratio**level)
    return apply_rotary(k_BHnd, config.rope_base, offset + step * first, step)


def rotate_down(
    q_BHNd: Tensor, keys: list[Tensor], num_scales: int, config: ModelConfig, start: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Queries at positions start.. and keys of every scale (B, H, n_l, ...) of a descent, rotated.

    With bounds for coarse keys the finest keys alone are given, and bounds made.
    """
    lines = [(float(start), 1.0), *rotary_lines(len(keys), config)]
    q_BHNd, *keys = apply_rotary_to_all([q_BHNd, *keys], lines, config.rope_base)
    if config.bounded:
        keys += bounding_keys(keys[0], config.ratio, num_scales)
    return q_BHNd, keys


def attend_down(
    q_BHMd: Tensor, keys: list[Tensor], values: list[Tensor], raise_2L: Tensor | None, config: ModelConfig,
    wanted: list[Tensor] | None = None, start: int = 0, chosen_BGMk: Tensor | None = None,
) -> ScaleOutputs:  # fmt: skip
    """Descent of the queries at positions start.., all rotated; with `chosen_BGMk` to the blocks that an index found.

    Rows before a scale's first token are left out.
    """
    groups, spans = config.choosing_groups, config.spans
    if chosen_BGMk is None:
        found = descend(q_BHMd, keys, values, raise_2L, config.ratio, spans, config.descent, groups, start, wanted)
    else:
        found = attend_found(q_BHMd, keys, values, chosen_BGMk, config.ratio, spans, start, wanted)
    firsts = [max(0, config.ratio**level - 1 - start) for level in range(len(keys))]
    outputs = [x[:, :, first:] for x, first in zip(found.outputs, firsts, strict=True)]
    return ScaleOutputs(outputs, [Placement(first, 1) for first in firsts], found.log_sums)


def wanted_scales(weights_LBNH: Tensor, config: ModelConfig) -> list[Tensor]:
    """Where the outputs of the scales are used, by their weights (L, B, N, H): bool (B, groups of heads, N) each.

    With a descent by scores, whose way to a scale leads through all coarser ones, these are needed too, and by all
    heads of a group that chooses together. Without one every head is a group.
    """
    wanted_LBHN = (weights_LBNH != 0).transpose(2, 3)
    if config.descent:
        if not config.indexed:
            wanted_LBHN = wanted_LBHN.cummax(0).values
        wanted_LBHN = wanted_LBHN.unflatten(2, (config.choosing_groups, -1)).any(3)
    return list(wanted_LBHN)


def attend_in_spans(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], config: ModelConfig,
    wanted: list[Tensor] | None = None, start: int = 0,
) -> ScaleOutputs:  # fmt: skip
    """Attention of every scale to at most W tokens of its own; queries, keys, values (B, H, n, ...), not rotated.

    The first position is `start`, a multiple of every factor. Before the rows of the positions from there on there may
    be more keys and values of each scale, and of a coarse one's queries that of the last token before.
    """
    L, coarse, end = len(keys), config.query == "coarse", start + queries[0].shape[2]
    tokens = [end // config.ratio**level for level in range(L)]
    of_keys = _lines_from([n - k.shape[2] for n, k in zip(tokens, keys, strict=True)], config)
    if not coarse and config.positions == "scale":  # rotated below, where it is known which token each stands at
        keys = apply_rotary_to_all(keys, of_keys, config.rope_base)
    else:
        of_queries = [(float(start), 1.0)] * L
        if coarse:
            of_queries = _lines_from([n - q.shape[2] for n, q in zip(tokens, queries, strict=True)], config)
        rotated = apply_rotary_to_all([*queries, *keys], [*of_queries, *of_keys], config.rope_base)
        queries, keys = rotated[:L], rotated[L:]
    needed = [None] * L if wanted is None else wanted
    scales = enumerate(zip(queries, keys, values, needed, strict=True))
    if coarse:
        outputs = [_attend_coarse(*scale, level, config) for level, scale in scales]
    else:
        outputs = [_attend_fine(*scale, level, config, start) for level, scale in scales]
    return ScaleOutputs(outputs, placements_of(L, config, start))


def placements_of(num_scales: int, config: ModelConfig, start: int = 0) -> list[Placement]:
    """The visibility rule (docs/model.md): coarse token j is first visible at position factor*(j+1) - 1.

    Of positions that begin at `start` > 0 every scale has a row for the first one: coarse scales that of the last token
    before, which was first visible one position earlier.
    """
    factors = [config.ratio**level for level in range(num_scales)]
    if config.query != "coarse":
        return [Placement(f - 1 if config.causal and not start else 0, 1) for f in factors]
    if start:
        return [Placement(-1 if level else 0, f) for level, f in enumerate(factors)]
    return [Placement(f - 1 if config.causal else 0, f) for f in factors]


def _attend_coarse(
    q_BHnd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, wanted_BHN: Tensor | None, level: int, config: ModelConfig
) -> Tensor:
    """The scale attends to itself: (B, H, n, d); in a part of a window its queries may be fewer than its keys."""
    if not config.causal:
        return span_attention(q_BHnd, k_BHnd, v_BHnd, config.span, False)
    wanted_BHfn = _wanted_of_tokens(wanted_BHN, k_BHnd.shape[2], level, config)
    wanted_BHn = None if wanted_BHfn is None else wanted_BHfn.any(2)
    return attend_from_last(q_BHnd, k_BHnd, v_BHnd, config.span, wanted_BHn)


def _wanted_of_tokens(wanted_BHN: Tensor | None, n: int, level: int, config: ModelConfig) -> Tensor | None:
    """Which of the `factor` positions at which a token is the newest need it, in a causal model: (B, H, factor, n)."""
    if wanted_BHN is None:
        return None
    factor = config.ratio**level
    wanted_BHN = wanted_BHN[:, :, factor - 1 :]
    padded = torch.nn.functional.pad(wanted_BHN, (0, n * factor - wanted_BHN.shape[2]))
    return padded.unflatten(2, (n, factor)).transpose(2, 3)


def _attend_fine(
    q_BHNd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, wanted_BHN: Tensor | None, level: int, config: ModelConfig,
    start: int,
) -> Tensor:  # fmt: skip
    """Every position from the first with a finished coarse token on attends to those: (B, H, n*factor, d).

    The `factor` positions for which the same coarse tokens are visible become as many heads, each with one query
    per coarse token, so that the attention is that of the coarse sequence with itself. A bidirectional tail
    without a coarse token of its own has no row here. Keys are rotated, queries too if positions are tokens'. Keys
    before position `start` have empty queries, whose rows are dropped.
    """
    factor, (_, H, n, _) = config.ratio**level, k_BHnd.shape
    first = (start + q_BHNd.shape[2]) // factor - n  # the token of the first key
    # Key `first` is the newest visible one from position factor (first + 1) - 1 on.
    offset = factor * (first + 1) - 1 - start if config.causal else 0
    empty, offset = max(0, -offset), max(0, offset)
    q_BHNd = q_BHNd[:, :, offset : offset + n * factor - empty]
    q_BHNd = torch.nn.functional.pad(q_BHNd, (0, 0, empty, n * factor - empty - q_BHNd.shape[2]))
    q_BHfnd = q_BHNd.unflatten(2, (n, factor)).transpose(2, 3)
    if config.positions == "scale":  # a query stands where its newest visible token does
        q_BHfnd = apply_rotary(q_BHfnd, config.rope_base, float(first))
    k_BGnd = k_BHnd.repeat_interleave(factor, dim=1)
    v_BGnd = v_BHnd.repeat_interleave(factor, dim=1)
    wanted_BHfn = _wanted_of_tokens(wanted_BHN, n, level, config)
    wanted_BGn = None if wanted_BHfn is None else wanted_BHfn.flatten(1, 2)
    out = span_attention(q_BHfnd.flatten(1, 2), k_BGnd, v_BGnd, config.span, config.causal, wanted_BGn)
    return out.unflatten(1, (H, factor)).transpose(2, 3).flatten(2, 3)[:, :, empty:]
