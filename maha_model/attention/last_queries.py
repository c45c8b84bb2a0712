"""Causal attention whose queries are the last of the sequence: those of a part of a window."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from maha_model.kernels.descent import Geometry, attend_level
from maha_model.kernels.span import span_attention


def attend_from_last(
    q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, span: int | Literal["full"], wanted_BHM: Tensor | None = None
) -> Tensor:
    """Softmax attention in which the queries stand at the last M <= n keys: (B, H, M, d).

    Args:
        q_BHMd: queries (B, H, M, dk), rotated.
        k_BHnd: keys (B, H, n, dk), rotated.
        v_BHnd: values (B, H, n, d).
        span: W, the query's own key included, or `full`.
        wanted_BHM: as of `span_attention`; for M = n only.
    """
    before = k_BHnd.shape[2] - q_BHMd.shape[2]
    if before == 0:
        return span_attention(q_BHMd, k_BHnd, v_BHnd, span, True, wanted_BHM)
    if span == "full":
        # torch's fused attention has no form on every device that begins within the keys without a mask of all pairs;
        # a descent's coarsest scale is just that, here of tokens that cover one position each.
        geometry = Geometry(1, 1, 1, 1, 0, q_BHMd.shape[1], before)
        return attend_level(q_BHMd, k_BHnd, v_BHnd, None, None, geometry)[0]
    # empty queries take the places of the keys before: at most W of them
    return span_attention(F.pad(q_BHMd, (0, 0, before, 0)), k_BHnd, v_BHnd, span)[:, :, before:]
