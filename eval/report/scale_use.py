"""Weights of the scales in a MAHA model: by layer and head, by kind of token, and along a passage of real text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline import Tokenizer
from eval.report.token_kinds import KINDS, kinds_of
from eval.scoring.positions import Target
from maha_model import CausalLM, scale_weights

PASSAGE_TOKENS = 220
_RARE = 20
"""Tokens that occur less often than this are not listed by themselves."""
_EXTREMES = 12
_RANKS = (10, 100, 1000)

Floats = npt.NDArray[np.float64]


class Lean(NamedTuple):
    """How much some tokens lean on coarse scales."""

    name: str
    tokens: int
    lean: float
    """Their weights on the scales coarser than the first as a share of all their weights, over layers and heads."""


@dataclass(frozen=True)
class Passage:
    """Consecutive tokens of a document, each with its lean."""

    pieces: list[str]
    lean: list[float]


@dataclass(frozen=True)
class ScaleUse:
    """Use of the scales by one model, from its aggregation weights."""

    tokens: int
    by_head: list[list[list[float]]]
    """Mean weight by layer, head and scale; absent scales count as 0."""
    classes: list[Lean]
    """By kind of token."""
    ranks: list[Lean]
    """By how frequent the token is in the training split."""
    most: list[Lean]
    """The frequent enough tokens that lean most on coarse scales."""
    least: list[Lean]
    passage: Passage

    @property
    def by_layer(self) -> list[list[float]]:
        """Mean weight by layer and scale."""
        return [np.mean(heads, axis=0).tolist() for heads in self.by_head]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        named = {name: [lean._asdict() for lean in getattr(self, name)] for name in _LEANS}
        return {"tokens": self.tokens, "by_head": self.by_head, **named, "passage": vars(self.passage)}


_LEANS = ("classes", "ranks", "most", "least")


def scale_use(
    model: CausalLM,
    targets: Sequence[Target],
    context: int,
    tokenizer: Tokenizer,
    counts: npt.NDArray[np.int64],
) -> ScaleUse:
    """Measure the weights over the windows of `context` tokens that end where the targets do.

    Args:
        model: a MAHA model.
        targets: at least one; the passage is the end of the middle one's window.
        context: tokens of a window.
        tokenizer: the data's.
        counts: (V,) occurrences of every token id in the training split.
    """
    device = next(model.parameters()).device
    ids_WN = np.stack([target.tokens[target.stop - context : target.stop] for target in targets]).astype(np.int64)
    weights, coarse_WN, all_WN = [], np.zeros(ids_WN.shape), np.zeros(ids_WN.shape)
    for row, ids in enumerate(ids_WN):
        layers = [w_LBNH[:, 0] for w_LBNH, _ in scale_weights(model, torch.from_numpy(ids)[None].to(device))]
        weights.append(np.array([w_LNH.mean(1).T.tolist() for w_LNH in layers]))
        total_LN = torch.stack([w_LNH.sum(-1) for w_LNH in layers]).sum(0).double().cpu().numpy()
        coarse_WN[row], all_WN[row] = total_LN[1:].sum(0), total_LN.sum(0)
    kinds_WN = np.array([kinds_of(tokenizer.pieces(ids.tolist())) for ids in ids_WN])
    rank_V = np.empty(len(counts), dtype=np.int64)
    rank_V[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    band_WN = np.searchsorted(_RANKS, rank_V[ids_WN], side="right")
    by_token = _leans(ids_WN, coarse_WN, all_WN, tokenizer.pieces(list(range(len(counts)))))
    ordered = sorted((lean for lean in by_token if lean.tokens >= _RARE), key=lambda lean: -lean.lean)
    extremes = min(_EXTREMES, len(ordered) // 2)
    middle = len(targets) // 2
    shown = slice(max(0, context - PASSAGE_TOKENS), context)
    lean = coarse_WN[middle, shown] / np.maximum(all_WN[middle, shown], 1e-12)
    return ScaleUse(
        tokens=ids_WN.size,
        by_head=np.mean(weights, axis=0).tolist(),
        classes=_leans(kinds_WN, coarse_WN, all_WN, KINDS),
        ranks=_leans(band_WN, coarse_WN, all_WN, _BANDS),
        most=ordered[:extremes],
        least=ordered[: -extremes - 1 : -1],
        passage=Passage(tokenizer.pieces(ids_WN[middle, shown].tolist()), lean.tolist()),
    )


def _leans(classes: npt.NDArray[np.int64], coarse: Floats, total: Floats, names: Sequence[str]) -> list[Lean]:
    """Per class that occurs: sums over its tokens."""
    flat, size = classes.ravel(), len(names)
    tokens = np.bincount(flat, minlength=size)
    coarse_sum, total_sum = (np.bincount(flat, x.ravel(), minlength=size) for x in (coarse, total))
    return [
        Lean(name, int(tokens[i]), float(coarse_sum[i] / total_sum[i])) for i, name in enumerate(names) if total_sum[i]
    ]


_BANDS = [f"rank {low + 1:,} to {high:,}" for low, high in zip((0, *_RANKS), _RANKS, strict=False)]
_BANDS.append(f"rank above {_RANKS[-1]:,}")
