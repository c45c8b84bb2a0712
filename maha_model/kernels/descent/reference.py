"""One scale of a descent in dense masks: the definition."""

import torch
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry


def attend_level_reference(
    q_BHMd: Tensor,
    k_BHnd: Tensor,
    v_BHnd: Tensor,
    parents_BGMk: Tensor | None,
    bias_BHMk: Tensor | None,
    geometry: Geometry,
    wanted_BGM: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`operator.attend_level` by (M, n) masks, in float32 at least."""
    factor, ratio, span, _, _, groups, start, shares = geometry
    (_, H, M, dk), n = q_BHMd.shape, k_BHnd.shape[2]
    scale, q_BHMd = dk**-0.5, beside_bounds(q_BHMd, k_BHnd.shape[3])
    wide = torch.promote_types(q_BHMd.dtype, torch.float32)
    position_M1 = start + torch.arange(M, device=q_BHMd.device)[:, None]
    token_n = torch.arange(n, device=q_BHMd.device)
    newest_M1 = (position_M1 + 1) // factor - 1
    finished_Mn = token_n <= newest_M1
    scores_BHMn = q_BHMd.to(wide) @ k_BHnd.to(wide).mT * scale
    visible = finished_Mn.expand_as(scores_BHMn)
    if parents_BGMk is not None:
        near_Mn = finished_Mn & (token_n > newest_M1 - span)
        parents_BHMk = parents_BGMk.long().repeat_interleave(H // groups, 1)
        bias_BHMk = scores_BHMn.new_zeros(parents_BHMk.shape) if bias_BHMk is None else bias_BHMk.to(wide)
        child, added = _children(parents_BHMk, bias_BHMk, -(-n // ratio), ratio)
        child, added = (x[..., :n] for x in (child, added))
        far = child & finished_Mn & ~near_Mn
        scores_BHMn = scores_BHMn + torch.where(far, added, 0.0)
        visible = far | near_Mn
    there_BHM = (newest_M1[:, 0] >= 0).expand(*q_BHMd.shape[:3])
    if wanted_BGM is not None:
        there_BHM = there_BHM & wanted_BGM.repeat_interleave(H // groups, 1)
    visible = visible & there_BHM[..., None]
    logits = scores_BHMn.masked_fill(~visible, -torch.inf)
    log_sum = torch.where(there_BHM[..., None], logits, 0.0).logsumexp(-1).masked_fill(~there_BHM, -torch.inf)
    weights = torch.where(
        there_BHM[..., None], (logits - log_sum[..., None]).exp(), 0.0
    )  # absent rows are zero, not NaN
    out = (weights @ v_BHnd.to(wide)).to(v_BHnd.dtype)
    candidates = visible & _leads_beyond_near(token_n, position_M1, geometry)
    chosen = _choose(logits.detach(), log_sum.detach(), candidates, geometry)
    if not shares:
        return out, log_sum, chosen, log_sum.new_empty(*log_sum.shape, 0)
    index_BHMk = chosen.repeat_interleave(H // groups, 1).long()
    picked = logits.gather(3, index_BHMk.clamp_min(0)).masked_fill(index_BHMk < 0, -torch.inf)
    some = (index_BHMk >= 0).any(-1, keepdim=True)
    share = torch.where(some, picked, 0.0).log_softmax(-1)
    return out, log_sum, chosen, torch.where(index_BHMk >= 0, share, 0.0)


def beside_bounds(q_BHMd: Tensor, width: int) -> Tensor:
    """Queries for products with keys of a width: as they are, or their positive and negative parts (B, H, M, 2 dk)."""
    if q_BHMd.shape[3] == width:
        return q_BHMd
    return torch.cat((q_BHMd.clamp_min(0), q_BHMd.clamp_max(0)), -1)


def _children(parents_BHMk: Tensor, bias_BHMk: Tensor, blocks: int, ratio: int) -> tuple[Tensor, Tensor]:
    """Whether a token's parent is chosen, and that parent's bias: both (B, H, M, blocks * ratio)."""
    shape = *parents_BHMk.shape[:3], blocks + 1  # the last block takes what is not chosen
    index = torch.where(parents_BHMk >= 0, parents_BHMk, blocks)
    chosen = torch.zeros(shape, dtype=torch.bool, device=index.device).scatter(3, index, True)
    added = bias_BHMk.new_zeros(shape).scatter(3, index, bias_BHMk)
    return tuple(x[..., :blocks].repeat_interleave(ratio, 3) for x in (chosen, added))  # type: ignore[return-value]


def _leads_beyond_near(token_n: Tensor, position_M1: Tensor, geometry: Geometry) -> Tensor:
    """Whether a token covers one of the finer scale that is older than the near ones there: (M, n)."""
    if not geometry.choose:
        return torch.zeros_like(token_n <= position_M1)
    newest_finer_M1 = (position_M1 + 1) // (geometry.factor // geometry.ratio) - 1
    return token_n * geometry.ratio <= newest_finer_M1 - geometry.finer_span


def _choose(logits_BHMn: Tensor, log_sum_BHM: Tensor, candidates_BHMn: Tensor, geometry: Geometry) -> Tensor:
    """The `choose` best candidates of every group, best first, ties to the lower index; -1 where there are fewer."""
    k, together = geometry.choose, logits_BHMn.shape[1] // geometry.groups
    # Heads with one choice are compared by their attention weights, a single head by its scores.
    merit = logits_BHMn if together == 1 else logits_BHMn - log_sum_BHM[..., None]
    merit = merit.masked_fill(~candidates_BHMn, -torch.inf).unflatten(1, (geometry.groups, together)).amax(2)
    order = merit.sort(stable=True, dim=-1, descending=True)
    chosen = torch.where(order.values > -torch.inf, order.indices, -1)[..., :k].int()
    return torch.nn.functional.pad(chosen, (0, k - chosen.shape[-1]), value=-1)
