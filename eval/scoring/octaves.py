"""Losses by what a token has as context: its position in the window, and how far back its bigram was seen before."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data_pipeline.indexed_dataset import Tokens
from eval.scoring.bigrams import bigram_distance, sum_by_octave
from eval.scoring.perplexity import sliding_windows
from eval.undefined import perplexity, quotient


@dataclass
class Octaves:
    """Losses summed over bins of a value: the first from 0 to `unit` - 1, each later one up to twice as far."""

    unit: int
    nll: list[float] = field(default_factory=list)
    """Nats, by bin."""
    tokens: list[int] = field(default_factory=list)

    def add(self, losses: Tensor, values: Tensor) -> None:
        """Losses and the values of their tokens, of equal shapes."""
        nll_K, tokens_K = sum_by_octave(losses, values // self.unit)
        missing = max(0, len(nll_K) - len(self.nll))
        self.nll += [0.0] * missing
        self.tokens += [0] * missing
        for bin, (nll, tokens) in enumerate(zip(nll_K.tolist(), tokens_K.tolist(), strict=True)):
            self.nll[bin] += nll
            self.tokens[bin] += tokens

    @property
    def starts(self) -> list[int]:
        """The smallest value of every bin."""
        return [self.unit * 2 ** (bin - 1) if bin else 0 for bin in range(len(self.nll))]

    @property
    def losses(self) -> list[float | None]:
        """Nats per token, of every bin."""
        return [quotient(nll, tokens) for nll, tokens in zip(self.nll, self.tokens, strict=True)]

    @property
    def perplexity(self) -> list[float | None]:
        """Per token, of every bin."""
        return [perplexity(nll, tokens) for nll, tokens in zip(self.nll, self.tokens, strict=True)]

    @property
    def centres(self) -> list[float]:
        """Geometric middle of every bin but the first, which has none."""
        return [math.sqrt(start * (2 * start - 1)) for start in self.starts[1:]]

    def to_dict(self, value: str) -> dict[str, Any]:
        """JSON-ready values; `value` names what the bins are of."""
        return {
            f"from_{value}": self.starts, "tokens": self.tokens, "nll": self.nll, "nll_per_token": self.losses,
        }  # fmt: skip


def contexts_of_targets(
    tokens: Tokens, context: int, stride: int, batch_size: int, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """What a sliding window shows of the context of each scored token of a document.

    Args:
        tokens: the document's, 1-D; all but the first are scored, each once.
        context: tokens of a window.
        stride: tokens between windows.
        batch_size: windows at once.
        device: where it is computed.

    Returns:
        positions_T: (T,) int64, tokens of the window before the one that predicts the target, from 0 on.
        distances_T: (T,) int64, `bigram_distance` of the target in its window.
    """
    ids = torch.from_numpy(tokens.astype("int64")).to(device)
    windows = list(sliding_windows(len(ids) - 1, context, stride))
    windows_W3 = torch.tensor(windows, dtype=torch.int64, device=device).reshape(len(windows), 3)
    place = torch.arange(context + 1, device=device)
    positions, distances = [place[:0]], [place[:0]]
    for rows in windows_W3.split(batch_size):
        start, score_from, stop = rows.T[..., None]
        index_BN = start + place
        # the last window is padded at its end, by the document's last token
        distance_BN = bigram_distance(ids[index_BN.clamp(max=len(ids) - 1)])[:, 1:]
        predictor_BN = index_BN[:, :-1]
        scored = (predictor_BN >= score_from) & (predictor_BN < stop)
        positions.append((predictor_BN - start)[scored])
        distances.append(distance_BN[scored])
    return torch.cat(positions), torch.cat(distances)
