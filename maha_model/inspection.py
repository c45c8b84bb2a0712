"""Looking into a model: how it weighs its scales, and how much arithmetic a token costs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maha_model.aggregation import present_scales
from maha_model.attention import MAHAAttention
from maha_model.config import MAHAConfig
from maha_model.transformer import MAHAForCausalLM


class ScaleWeights(NamedTuple):
    """The aggregation weights of one layer over a batch, averaged over positions and heads."""

    mean: list[float]
    """Mean weight of every scale, absent ones counting as 0; finest first."""
    entropy: float
    """Mean entropy in nats of the weights, each divided by their sum."""
    zeros: float
    """Share of exact zeros among the weights of present scales."""


@torch.no_grad()
def scale_weight_statistics(model: nn.Module, input_ids: Tensor) -> list[ScaleWeights]:
    """Run `model` on input_ids (B, N) and summarise the weights of every MAHA layer, in order; [] for the baselines."""
    found: list[ScaleWeights] = []

    def record(attention: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        weights = output[1]
        found.append(_summarise(weights, present_scales(args[3], weights.shape[2], weights.device)))

    layers = [module.aggregate for module in model.modules() if isinstance(module, MAHAAttention)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    if not hooks:
        return []
    training = model.training
    model.eval()
    try:
        model.forward(input_ids)  # not a compiled call, which would pass over the hooks
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _summarise(w_LBNH: Tensor, present_LN: Tensor) -> ScaleWeights:
    present = present_LN[:, None, :, None].expand_as(w_LBNH)
    share = w_LBNH / w_LBNH.sum(0).clamp(min=torch.finfo(w_LBNH.dtype).tiny)
    entropy = torch.special.entr(share).sum(0).mean()
    zeros = (w_LBNH[present] == 0).float().mean()
    return ScaleWeights(w_LBNH.mean((1, 2, 3)).tolist(), entropy.item(), zeros.item())


def flops_per_token(config: MAHAConfig, context: int) -> float:
    """Floating-point operations of matrix products per token, forward and backward, counted on a shapes-only run.

    Full attention counts its whole square of scores, as torch does, span attention the pairs that see each other;
    recomputation is not counted (model FLOPs).
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ids = torch.zeros(1, context, dtype=torch.long)
        loss = MAHAForCausalLM(config)(ids, targets=ids).loss
        assert loss is not None
        loss.backward()
    return counter.get_total_flops() / context
