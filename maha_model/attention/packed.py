"""MAHA's attention with all scales in one tensor: half of the launches, which bound small models on a GPU.

The same numbers as `MAHAAttention.project` and `attend_and_aggregate`, the form for the CPU, which keeps the scales
apart and needs no copy of the finest one. See `kernels.packing` for the order of rows.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maha_model.attention.scales import placements_of, rotary_lines
from maha_model.kernels.dispatch import device_kind
from maha_model.kernels.packing import unpacked
from maha_model.kernels.rotary import rotate_scales
from maha_model.kernels.span import span_attention_of_scales

if TYPE_CHECKING:
    from maha_model.attention.maha import MAHAAttention


def packs(attention: "MAHAAttention", x_BND: Tensor) -> bool:
    """Whether this form serves: on a GPU, for coarse queries over spans, shared projections and every scale present.

    Not under autocast, which changes dtypes between operations, and not for a part of a window.
    """
    config = attention.config
    if device_kind(x_BND) != "cuda" or torch.is_autocast_enabled("cuda") or attention.split is not None:
        return False
    shared = config.projections == config.values == "shared" and config.scale_qk_dim == config.head_dim
    spans = config.query == "coarse" and config.span != "full" and not config.gating
    deep = config.num_scales > 1 and x_BND.shape[1] >= config.ratio ** (config.num_scales - 1)
    return shared and spans and deep and config.decomposition == "conv"


def attend_packed(attention: "MAHAAttention", x_BND: Tensor) -> tuple[Tensor, Tensor | None]:
    """(B, N, D) -> the scales' mixture (B, N, D) before the output projection, aux."""
    context_BND = attention.local(x_BND)
    scales = attention.decompose.packed(context_BND, attention.value[0](context_BND))
    rows = scales.contexts, context_BND.detach(), scales.coarse
    queries_TD, query_gains = attention.query.packed(*rows)
    keys_TD, key_gains = attention.key.packed(*rows)
    return attention.maybe_recompute(
        _attend_and_aggregate, attention, x_BND, queries_TD, keys_TD, scales.values, query_gains, key_gains
    )


def _attend_and_aggregate(
    attention: "MAHAAttention", x_BND: Tensor, queries_TD: Tensor, keys_TD: Tensor, values_TD: Tensor,
    query_gains: Tensor, key_gains: Tensor,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    config, (B, N, _) = attention.config, x_BND.shape
    L, H = config.num_scales, config.num_heads
    lengths = [N // config.ratio**level for level in range(L)]
    queries_TD, keys_TD = rotate_scales(
        [queries_TD, keys_TD], [query_gains, key_gains], B, H, lengths, rotary_lines(L, config), config.rope_base
    )
    q_THd, k_THd, v_THd = (x.unflatten(-1, (H, -1)) for x in (queries_TD, keys_TD, values_TD))
    assert config.span != "full"
    out_THd = span_attention_of_scales(q_THd, k_THd, v_THd, B, lengths, config.span, config.causal)
    outputs = [x.transpose(1, 2) for x in unpacked(out_THd, B, lengths)]
    value_BNHd = v_THd[: B * N].unflatten(0, (B, N))
    mixed_BNHd, _, aux = attention.aggregate(x_BND, outputs, value_BNHd, placements_of(L, config))
    return mixed_BNHd.flatten(2), aux
