"""Perplexity of a model over whole documents by a sliding window, every token scored exactly once."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from data_pipeline import DocumentInfo, TokenizedDocument, UserError
from data_pipeline.indexed_dataset import Tokens
from eval.ranks import Ranks
from eval.undefined import perplexity, quotient
from maha_model import CausalLM

_IGNORED = -100
Losses = npt.NDArray[np.float64]
"""Negative log-likelihoods of consecutive tokens, in nats."""


@dataclass(frozen=True)
class Score:
    """Negative log-likelihood of some text and the units it can be expressed in; an undefined one is None."""

    nll: float
    """Nats, summed over the scored tokens in float64."""
    tokens: int
    """Scored tokens: all but each document's beginning-of-sequence token."""
    words: int
    """Whitespace-separated words of the raw text."""
    characters: int
    bytes: int
    """UTF-8 bytes of the raw text."""

    @property
    def token_perplexity(self) -> float | None:
        """exp(nll / tokens): depends on the tokenizer."""
        return perplexity(self.nll, self.tokens)

    @property
    def word_perplexity(self) -> float | None:
        """exp(nll / words): comparable across tokenizers, the literature's measure on PG-19."""
        return perplexity(self.nll, self.words)

    @property
    def bits_per_byte(self) -> float | None:
        """nll in bits per UTF-8 byte."""
        return quotient(self.nll / math.log(2), self.bytes)

    @property
    def bits_per_character(self) -> float | None:
        """nll in bits per Unicode character."""
        return quotient(self.nll / math.log(2), self.characters)

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready: every unit by name."""
        return {
            "nll": self.nll, "nll_per_token": quotient(self.nll, self.tokens),
            "token_perplexity": self.token_perplexity, "word_perplexity": self.word_perplexity,
            "bits_per_byte": self.bits_per_byte, "bits_per_character": self.bits_per_character,
            "tokens": self.tokens, "words": self.words, "characters": self.characters, "bytes": self.bytes,
        }  # fmt: skip

    @classmethod
    def of(cls, nll: float, info: DocumentInfo) -> "Score":
        """The score of one document."""
        return cls(nll, info.tokens - 1, info.words, info.characters, info.bytes)

    @classmethod
    def total(cls, scores: Iterable["Score"]) -> "Score":
        """The score of several documents together."""
        parts = list(scores)
        return cls(
            math.fsum(part.nll for part in parts),
            *(sum(getattr(part, name) for part in parts) for name in ("tokens", "words", "characters", "bytes")),
        )


class Window(NamedTuple):
    """Positions [start, stop) of a document are the input; the targets of [score_from, stop) are scored."""

    start: int
    score_from: int
    stop: int


def sliding_windows(positions: int, context: int, stride: int) -> Iterator[Window]:
    """Windows over `positions` predictions: the first scores all of its own, each later one what is new in it.

    Every window but the last begins `stride` after the one before, so that every scored token, once the first window is
    over, has at least context - stride tokens before it. This is the usual strided evaluation of a fixed-length model.
    """
    scored = start = 0
    while scored < positions:
        stop = min(start + context, positions)
        yield Window(start, scored, stop)
        scored, start = stop, start + stride


def score_documents(
    model: CausalLM, documents: Iterable[TokenizedDocument], context: int, stride: int, batch_size: int
) -> list[Score]:
    """One score per document, in order; log-probabilities in float32, sums in float64.

    Raises:
        UserError: if context or stride cannot work with the model.
    """
    losses = document_losses(model, documents, context, stride, batch_size)
    return [Score.of(float(nll.sum()), document.info) for document, nll in losses]


def document_losses(
    model: CausalLM, documents: Iterable[TokenizedDocument], context: int, stride: int, batch_size: int,
    ranks: Ranks | None = None,
) -> Iterator[tuple[TokenizedDocument, Losses]]:  # fmt: skip
    """Every document with the losses of its tokens but the first, scored by a sliding window.

    Several `ranks` score together; every one calls this alike, and gets all losses.

    Raises:
        UserError: if context or stride cannot work with the model.
    """
    longest = model.config.context_length
    if not 1 <= context <= longest:
        raise UserError(f"--context {context} is not between 1 and the model's {longest}")
    if not 1 <= stride <= context:
        raise UserError(f"--stride {stride} is not between 1 and the context of {context}; larger would skip tokens")
    ahead, behind = tee(documents)  # windows of several documents share a batch
    stream = (
        (document.tokens, window)
        for document in ahead
        for window in sliding_windows(len(document.tokens) - 1, context, stride)
    )
    losses = window_losses(model, stream, batch_size, ranks)
    for document in behind:
        positions = len(document.tokens) - 1
        count = sum(1 for _ in sliding_windows(positions, context, stride))
        yield document, np.concatenate([np.empty(0), *islice(losses, count)])


def window_losses(
    model: CausalLM, windows: Iterable[tuple[Tokens, Window]], batch_size: int, ranks: Ranks | None = None
) -> Iterator[Losses]:
    """The losses of every window's scored targets: nats in float64, from log-probabilities in float32."""
    stream, ranks = iter(windows), ranks or Ranks()
    while batches := [batch for _ in range(ranks.places) if (batch := list(islice(stream, batch_size)))]:
        own = batches[ranks.place] if ranks.place < len(batches) else []
        found = ranks.gather(_batch_losses(model, own, ranks) if own else [])
        for first in range(0, len(batches) * ranks.parts, ranks.parts):  # the processes of one batch, in order
            for pieces in zip(*found[first : first + ranks.parts], strict=True):
                yield np.concatenate(pieces)


@torch.no_grad()
def _batch_losses(model: CausalLM, batch: list[tuple[Tokens, Window]], ranks: Ranks) -> list[Losses]:
    """Of the scored targets of each window that are in this process's part of it."""
    device = next(model.parameters()).device
    # shorter windows are padded at the end: in a causal model no earlier position depends on the padding
    width = ranks.padded(max(window.stop - window.start for _, window in batch), model.config)
    ids = np.zeros((len(batch), width), dtype=np.int64)
    targets = np.full_like(ids, _IGNORED)
    for row, (tokens, (start, score_from, stop)) in enumerate(batch):
        ids[row, : stop - start] = tokens[start:stop]
        targets[row, score_from - start : stop - start] = tokens[score_from + 1 : stop + 1]
    split = model.context_parallel = ranks.split(width, model.config)
    own = slice(None) if split is None else split.own
    targets_BN = torch.from_numpy(targets[:, own]).to(device)
    scored = targets_BN != _IGNORED
    hidden, _ = model.transformer(torch.from_numpy(ids[:, own]).to(device))
    logits = model.lm_head(hidden[scored]).float()  # logits of the scored positions alone
    losses = F.cross_entropy(logits, targets_BN[scored], reduction="none").double()
    return [row.cpu().numpy() for row in losses.split(scored.sum(1).tolist())]
