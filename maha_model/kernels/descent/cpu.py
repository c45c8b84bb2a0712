"""A descent's compiled operators for the CPU (descent.cpp)."""

from pathlib import Path

import torch
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry, empty_results
from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.native import Extension, extension

_SOURCE = Path(__file__).with_name("descent.cpp")


def kernels(dtype: torch.dtype) -> Extension | None:
    """The operators for an element type; None where they cannot be had."""
    return extension(_SOURCE, dtype)


def forward(
    q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, parents_BGMk: Tensor | None, bias_BHMk: Tensor | None,
    geometry: Geometry, wanted_BGM: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, log-sum-exp, chosen tokens and their log shares: see `operator.attend_level`."""
    results = empty_results(q_BHMd, v_BHnd, geometry)
    _operators(q_BHMd).operator("descent_forward")(
        *_inputs(q_BHMd, k_BHnd, v_BHnd, parents_BGMk, bias_BHMk),
        None if wanted_BGM is None else wanted_BGM.contiguous(), list(geometry), torch.get_num_threads(), *results,
    )  # fmt: skip
    return results


def descend_at(
    position_1: Tensor, q_BH1d: Tensor, keys_BHnd: list[Tensor], values_BHnd: list[Tensor], raise_2L: Tensor | None,
    ratio: int, spans: list[int], top: int, groups: int, wanted_LBG1: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Outputs (L, B, H, 1, d) and log-sum-exp (L, B, H, 1) of all scales: see `newest.descend_at`."""
    wide, L = torch.promote_types(q_BH1d.dtype, torch.float32), len(keys_BHnd)
    out = q_BH1d.new_empty(L, *q_BH1d.shape[:3], values_BHnd[0].shape[3])
    log_sum = q_BH1d.new_empty(L, *q_BH1d.shape[:3], dtype=wide)
    _operators(q_BH1d).operator("descent_descend")(
        position_1, with_contiguous_rows(q_BH1d), keys_BHnd, values_BHnd,
        None if raise_2L is None else raise_2L.to(wide).contiguous(), wanted_LBG1, ratio, spans, top, groups,
        torch.get_num_threads(), out, log_sum,
    )  # fmt: skip
    return out, log_sum


def backward(
    grad_out_BHMd: Tensor, grad_log_sum_BHM: Tensor | None, grad_share_BHMk: Tensor | None, q_BHMd: Tensor,
    k_BHnd: Tensor, v_BHnd: Tensor, parents_BGMk: Tensor | None, bias_BHMk: Tensor | None, out_BHMd: Tensor,
    log_sum_BHM: Tensor, chosen_BGMk: Tensor, share_BHMk: Tensor, geometry: Geometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys, values and bias, contiguous; the bias's is empty where there is none."""
    grad_q = torch.empty_like(q_BHMd, memory_format=torch.contiguous_format)
    # sums over queries: not in bfloat16
    grad_k, grad_v = (x.new_zeros(x.shape, dtype=log_sum_BHM.dtype) for x in (k_BHnd, v_BHnd))
    grad_bias = log_sum_BHM.new_zeros((0,) if bias_BHMk is None else bias_BHMk.shape)
    _operators(q_BHMd).operator("descent_backward")(
        with_contiguous_rows(grad_out_BHMd),
        *(None if grad is None else grad.contiguous() for grad in (grad_log_sum_BHM, grad_share_BHMk)),
        *_inputs(q_BHMd, k_BHnd, v_BHnd, parents_BGMk, bias_BHMk),
        log_sum_BHM, chosen_BGMk, share_BHMk, list(geometry), torch.get_num_threads(),
        grad_q, grad_k, grad_v, grad_bias,
    )  # fmt: skip
    return grad_q, grad_k.to(k_BHnd.dtype), grad_v.to(v_BHnd.dtype), grad_bias


def scores_computed(length: int, num_scales: int, ratio: int, span: int, top: int) -> int:
    """How many scores a head that chooses alone computes in float32 on this CPU at all scales of a descent.

    Counted by the compiled loops, masked scores included and as many children as there can be.

    Args:
        length: N, queries and tokens of the finest scale.
        num_scales: L; those with a token are counted.
        ratio: r.
        span: W, of every scale.
        top: k.

    Raises:
        RuntimeError: without compiled code.
    """
    while length // ratio ** (num_scales - 1) == 0:
        num_scales -= 1
    return sum(
        scores_of_level(
            length,
            length // ratio**level,
            None if level == num_scales - 1 else top,
            Geometry(ratio**level, ratio, span, span, top if level else 0, groups=1),
        )
        for level in range(num_scales)
    )


def scores_of_level(queries: int, tokens: int, parents: int | None, geometry: Geometry) -> int:
    """The same of one scale: M queries, n tokens, k' parents of a query, None at the coarsest scale."""
    compiled = kernels(torch.float32)
    if compiled is None:
        raise RuntimeError("only the compiled attention counts its scores; install a C++ compiler (g++, or set CXX)")
    return compiled.operator("descent_scores")(queries, tokens, -1 if parents is None else parents, list(geometry))


def _operators(q_BHMd: Tensor) -> Extension:
    compiled = kernels(q_BHMd.dtype)
    assert compiled is not None, "attend_level takes the operator only where there is compiled code"
    return compiled


def _inputs(
    q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, parents_BGMk: Tensor | None, bias_BHMk: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """With contiguous rows of queries, keys and values; parents in int32, a bias in the scores' precision."""
    if not q_BHMd.dtype == k_BHnd.dtype == v_BHnd.dtype:
        raise ValueError(f"queries, keys and values are {q_BHMd.dtype}, {k_BHnd.dtype}, {v_BHnd.dtype}; give one dtype")
    q, k, v = (with_contiguous_rows(x) for x in (q_BHMd, k_BHnd, v_BHnd))
    parents = None if parents_BGMk is None else parents_BGMk.int().contiguous()
    wide = torch.promote_types(q.dtype, torch.float32)
    return q, k, v, parents, None if bias_BHMk is None else bias_BHMk.to(wide).contiguous()
