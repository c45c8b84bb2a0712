"""Measurements inside a model: weights of its scales, attention probabilities, arithmetic per token."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maha_model.aggregation import present_scales
from maha_model.attention import Indexed, MAHAAttention, StandardAttention, rotary_line
from maha_model.config import ModelConfig
from maha_model.kernels.rotary import apply_rotary
from maha_model.parallel import whole
from maha_model.transformer import CausalLM


class ScaleWeights(NamedTuple):
    """The aggregation weights of one layer over a batch, averaged over positions and heads."""

    mean: list[float]
    """Mean weight of every scale, absent ones counting as 0; finest first."""
    entropy: float
    """Mean entropy in nats of the weights, each divided by their sum."""
    zeros: float
    """Share of exact zeros among the weights of present scales."""


def scale_weight_statistics(model: nn.Module, input_ids: Tensor) -> list[ScaleWeights]:
    """Run `model` on input_ids (B, N) and summarise the weights of every MAHA layer, in order; [] for the baselines."""
    return [_summarise(*layer) for layer in scale_weights(model, input_ids)]


def scale_weights(model: nn.Module, input_ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Run `model` on input_ids (B, N) and return the aggregation weights of every MAHA layer; [] for the baselines.

    With `context_parallel` the ids are those of a part, the weights those of the whole windows, on every process.

    Returns:
        for each layer the weights (L, B, N, H), zero where absent, and which scales are present (L, N).
    """
    found: list[tuple[Tensor, Tensor]] = []

    def record(attention: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        weights = output[1]
        found.append((weights, present_scales(args[3], weights.shape[2], weights.device)))

    layers = [module for module in model.modules() if isinstance(module, MAHAAttention)]
    _observe(model, input_ids, [layer.aggregate for layer in layers], record)
    split = layers[0].split if layers else None
    return found if split is None else [(whole(w, 2, split), whole(present, 1, split)) for w, present in found]


class ScaleAttention(NamedTuple):
    """Attention probabilities of one scale."""

    probabilities: Tensor
    """(B, H, rows, n), each row summing to 1; at full resolution, and with fine queries, a row is a position."""
    factor: int
    """Tokens that a key stands for."""
    rows_per_key: int
    """Consecutive rows that stand at the same key (more than one with fine queries)."""

    @property
    def mean_distance(self) -> float:
        """Mean distance in tokens from the query's own key to the keys it attends to."""
        rows, keys = (torch.arange(n, device=self.probabilities.device) for n in self.probabilities.shape[2:])
        distance = (rows[:, None] // self.rows_per_key - keys).abs() * self.factor
        return float((self.probabilities * distance).sum(-1).mean())


def attention_probabilities(model: nn.Module, input_ids: Tensor) -> list[list[ScaleAttention]]:
    """Run `model` on a short input_ids (B, N) and recompute the attention of every layer and scale by a softmax.

    The models themselves never form these matrices: queries and keys are taken from the projections' outputs. The
    baselines have one scale.
    """
    layers = [module for module in model.modules() if isinstance(module, MAHAAttention | StandardAttention)]
    projected: dict[nn.Module, list[Any]] = defaultdict(list)

    def keep(projection: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        projected[projection].append(output)  # of one scale after the other, finest first

    projections: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, StandardAttention):
            projections.append(layer.qkv)
        else:
            projections += [part for part in (layer.query, layer.key, layer.index) if part is not None]
    _observe(model, input_ids, projections, keep)
    found = []
    for layer in layers:
        if isinstance(layer, StandardAttention):
            q, k, _ = projected[layer.qkv][0].chunk(3, dim=-1)
            found.append([_scale_attention(q, k, layer.config, layer.span, 1)])
        else:
            config = layer.config
            if config.descent:
                indexed = None if layer.index is None else projected[layer.index][0]
                found.append(_descent_attention(layer, projected[layer.query][0], projected[layer.key], indexed))
                continue
            found.append([
                _scale_attention(q, k, config, config.span, config.ratio**level)
                for level, (q, k) in enumerate(zip(projected[layer.query], projected[layer.key], strict=True))
            ])  # fmt: skip
    return found


def _descent_attention(
    layer: MAHAAttention, q_BND: Tensor, keys: list[Tensor], indexed: Indexed | None
) -> list[ScaleAttention]:
    """From queries and keys before the rotation: with unit vectors for values the outputs are the probabilities."""
    config = layer.config
    q, *scales = (x.unflatten(-1, (config.num_heads, -1)).transpose(1, 2) for x in (q_BND, *keys))
    lengths = [q.shape[2] // config.ratio**level for level in range(config.num_scales)]
    values = [torch.eye(n, dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1) for n in lengths if n]
    outputs = layer.attend([q], scales, values, indexed)[0].outputs
    factors = [config.ratio**level for level in range(len(values))]
    return [ScaleAttention(out, factor, factor) for out, factor in zip(outputs, factors, strict=True)]


def _scale_attention(q_BND: Tensor, k_BnD: Tensor, config: ModelConfig, span: int | str, factor: int) -> ScaleAttention:
    """From queries and keys before the rotation; `factor` is the scale's."""
    q, k = (x.unflatten(-1, (config.num_heads, -1)).transpose(1, 2) for x in (q_BND, k_BnD))
    line = rotary_line(config, factor)
    n, repeat = k.shape[2], factor if config.query == "fine" and factor > 1 else 1
    if repeat > 1:  # every position attends to the coarse tokens finished by then, rotated as the last of them
        offset = factor - 1 if config.causal else 0
        if config.positions == "token":
            q = apply_rotary(q, config.rope_base)
        q = q[:, :, offset : offset + n * factor]
        rows = q.shape[2]
        q = nn.functional.pad(q, (0, 0, 0, n * factor - rows)).unflatten(2, (n, factor)).transpose(2, 3)
        if config.positions == "scale":
            q = apply_rotary(q, config.rope_base)
        q = q.transpose(2, 3).flatten(2, 3)[:, :, :rows]
    else:
        q = apply_rotary(q, config.rope_base, *line)
    ahead = torch.arange(q.shape[2], device=q.device)[:, None] // repeat - torch.arange(n, device=q.device)
    visible = ahead >= 0 if config.causal else torch.ones_like(ahead, dtype=torch.bool)
    if not isinstance(span, str):
        visible &= ahead.abs() < span
    scores = (q @ apply_rotary(k, config.rope_base, *line).mT) * k.shape[-1] ** -0.5
    return ScaleAttention(scores.masked_fill(~visible, -torch.inf).softmax(-1), factor, repeat)


@torch.no_grad()
def _observe(model: nn.Module, input_ids: Tensor, modules: list[Any], hook: Callable[..., None]) -> None:
    """One evaluation pass with `hook` on some modules' inputs and outputs; no pass if there are none."""
    if not modules:
        return
    hooks = [module.register_forward_hook(hook) for module in modules]
    training = model.training
    model.eval()
    try:
        model.forward(input_ids)  # not a compiled call, which would pass over the hooks
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()


def _summarise(w_LBNH: Tensor, present_LN: Tensor) -> ScaleWeights:
    present = present_LN[:, None, :, None].expand_as(w_LBNH)
    share = w_LBNH / w_LBNH.sum(0).clamp(min=torch.finfo(w_LBNH.dtype).tiny)
    entropy = torch.special.entr(share).sum(0).mean()
    zeros = (w_LBNH[present] == 0).float().mean()
    return ScaleWeights(w_LBNH.mean((1, 2, 3)).tolist(), entropy.item(), zeros.item())


def flops_per_token(config: ModelConfig, context: int) -> float:
    """Floating-point operations of matrix products per token, forward and backward, counted on a shapes-only run.

    Full attention counts its whole square of scores, as torch does, span attention the pairs inside the span;
    recomputation is not counted (model FLOPs).
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ids = torch.zeros(1, context, dtype=torch.long)
        loss = CausalLM(config)(ids, targets=ids).loss
        assert loss is not None
        loss.backward()
    return counter.get_total_flops() / context
