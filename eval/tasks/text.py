"""Text as a task: the next token everywhere, from a data set; scored by position and by the distance of bigrams.

How much far context pays is the gap between the losses of full attention and of a window at late positions, and on
tokens that complete a bigram of the context (Arora et al. 2023, arXiv 2312.04927).
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_pipeline import Manifest, UserError
from eval.tasks.scoring import scored_logits
from eval.tasks.task import Batch, check_least
from maha_model import CausalLM


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """Windows of a data set, made by `python -m data_pipeline.prepare`, at random places of the training split.

    Scores are of the validation split, its windows one after the other.

    Raises:
        UserError: if the data cannot be read or are shorter than a window.
    """

    data: str
    """The data set's folder."""
    length: int = 2048
    """Tokens N of a window."""

    def __post_init__(self) -> None:
        check_least(self, length=2)
        for split in ("train", "validation"):
            if len(_tokens(self.data, split, "cpu")) <= self.length:
                raise UserError(f"length {self.length} is longer than the {split} split of {self.data}; give a shorter")

    @property
    def vocab_size(self) -> int:
        """That of the data's tokenizer."""
        return Manifest.load(Path(self.data)).vocab_size

    @property
    def fingerprint(self) -> str:
        """That of the data set."""
        return Manifest.load(Path(self.data)).fingerprint

    @property
    def chance(self) -> float:
        """One among all tokens."""
        return 1 / self.vocab_size

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random windows of the training split, every token of which is scored."""
        tokens = _tokens(self.data, "train", str(generator.device))
        last = len(tokens) - self.length
        start_B1 = torch.randint(last, (size, 1), generator=generator, device=generator.device)
        return self._windows(tokens, start_B1)

    @torch.no_grad()
    def score(self, model: CausalLM, sequences: int, batch_size: int) -> "TextScores":
        """Losses of a model, in its present mode and precision, on the first windows of the validation split."""
        device = str(model.lm_head.weight.device)
        tokens = _tokens(self.data, "validation", device)
        sequences = min(sequences, (len(tokens) - 1) // self.length)
        starts_B1 = self.length * torch.arange(sequences, device=device)[:, None]
        losses, right, distances = [], 0, []
        for some_B1 in starts_B1.split(batch_size):
            batch = self._windows(tokens, some_B1)
            logits_BNV = scored_logits(model, batch)
            losses.append(F.cross_entropy(logits_BNV.float().mT, batch.targets, reduction="none"))
            right += int((logits_BNV.argmax(-1) == batch.targets).sum())
            distances.append(batch.distances)
        loss_BN = torch.cat(losses)
        position_BN = torch.arange(1, self.length + 1, device=device).expand_as(loss_BN)
        return TextScores(
            right / loss_BN.numel(), float(loss_BN.double().mean()), _octaves(loss_BN, position_BN),
            _octaves(loss_BN, torch.cat(distances)),
        )  # fmt: skip

    def _windows(self, tokens: Tensor, start_B1: Tensor) -> Batch:
        from eval.scoring import bigram_distance  # reads checkpoints too: not for the other tasks

        window_BM = tokens[start_B1 + torch.arange(self.length + 1, device=tokens.device)].long()
        ids_BN, positions_N = window_BM[:, :-1], torch.arange(self.length, device=tokens.device)
        return Batch(ids_BN, positions_N.expand_as(ids_BN), window_BM[:, 1:], bigram_distance(window_BM)[:, 1:])


@dataclass(frozen=True)
class TextScores:
    """What a model loses on text, in nats a token."""

    accuracy: float
    loss: float
    by_position: list[dict[str, Any]]
    """Octaves of the tokens up to the predicted one: `from`, `to`, `tokens`, `nll`."""
    by_bigram: list[dict[str, Any]]
    """The same of the distance to the last occurrence of the bigram that the token completes; 0: none."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "accuracy": self.accuracy, "loss": self.loss, "by_position": self.by_position, "by_bigram": self.by_bigram,
            "by_distance": [],
        }  # fmt: skip


def _octaves(loss_BN: Tensor, value_BN: Tensor) -> list[dict[str, Any]]:
    from eval.scoring import sum_by_octave

    nll_K, tokens_K = sum_by_octave(loss_BN, value_BN)
    return [
        {"from": (1 << octave) // 2, "to": max(0, (1 << octave) - 1), "tokens": tokens, "nll": nll}
        for octave, (nll, tokens) in enumerate(zip(nll_K.tolist(), tokens_K.tolist(), strict=True))
        if tokens
    ]


@functools.cache
def _tokens(data: str, split: str, device: str) -> Tensor:
    """All tokens of a split, int32, on a device."""
    shards = [shard.tokens for shard in Manifest.load(Path(data)).open_shards(split)]
    return torch.from_numpy(np.concatenate(shards).astype(np.int32)).to(device)
