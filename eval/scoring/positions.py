"""Where losses fall: by position in the book, by position in the window, by the length of the context."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from data_pipeline import TokenizedDocument
from data_pipeline.indexed_dataset import Tokens
from eval.scoring.perplexity import Losses, Window, window_losses
from eval.undefined import perplexity
from maha_model import CausalLM

SHORTEST_CONTEXT = 64
_FIRST_OCTAVE = 5
"""Positions up to 2^5 tokens share the first bin."""


@dataclass
class OctaveBins:
    """Losses summed over bins of positions, each bin twice as long as the one before."""

    nll: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @staticmethod
    def start(bin: int) -> int:
        """First position of a bin; positions count from 1, that of a document's first scored token."""
        return 2 ** (_FIRST_OCTAVE + bin - 1) + 1 if bin else 1

    def add(self, losses: Losses) -> None:
        """Losses of the consecutive positions from 1 on."""
        bin = 0
        while self.start(bin) <= len(losses):
            if bin == len(self.nll):
                self.nll.append(0.0)
                self.tokens.append(0)
            part = losses[self.start(bin) - 1 : self.start(bin + 1) - 1]
            self.nll[bin] += float(part.sum())
            self.tokens[bin] += len(part)
            bin += 1

    @property
    def perplexity(self) -> list[float | None]:
        """Per token, of every bin."""
        return [perplexity(nll, tokens) for nll, tokens in zip(self.nll, self.tokens, strict=True)]

    @property
    def centres(self) -> list[float]:
        """Geometric middle of every bin."""
        return [math.sqrt(self.start(bin) * (self.start(bin + 1) - 1)) for bin in range(len(self.nll))]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "from_position": [self.start(bin) for bin in range(len(self.nll))],
            "tokens": self.tokens, "nll": self.nll, "token_perplexity": self.perplexity,
        }  # fmt: skip


class Target(NamedTuple):
    """The `size` targets that end with the one of position `stop` - 1 of a document."""

    tokens: Tokens
    stop: int
    size: int


class ContextPoint(NamedTuple):
    """Loss of the chosen targets at one length of the window before them."""

    context: int
    """Tokens of the window; the targets are its last ones."""
    nll: float
    """Nats per token."""
    targets: int
    gain_error: float
    """Standard error, over the places, of the difference in `nll` to the shortest window; 0 with a single place."""

    @property
    def perplexity(self) -> float | None:
        """Per token."""
        return perplexity(self.nll)


def context_lengths(longest: int) -> list[int]:
    """64, 128, ... up to `longest`, which ends the list whatever it is."""
    lengths = [SHORTEST_CONTEXT * 2**i for i in range(32) if SHORTEST_CONTEXT * 2**i < longest]
    return [*lengths, longest]


def choose_targets(documents: Iterable[TokenizedDocument], longest: int, places: int) -> list[Target]:
    """Targets at `places` places (fewer in a short text), spread evenly where `longest` tokens stand before their end.

    At each place they are the second half of the shortest window, so that even there each has half a window before it.
    """
    size = max(1, min(SHORTEST_CONTEXT, longest) // 2)
    all_targets = [
        Target(document.tokens, stop, size)
        for document in documents
        for stop in range(longest, len(document.tokens), size)
    ]
    if len(all_targets) <= places:
        return all_targets
    return [all_targets[int(index)] for index in np.linspace(0, len(all_targets) - 1, places)]


def by_context(
    model: CausalLM, targets: Sequence[Target], lengths: Sequence[int], batch_size: int
) -> list[ContextPoint]:
    """The same targets scored at the end of windows of every length: only what stands before them differs."""
    points: list[ContextPoint] = []
    shortest = None
    for length in lengths:
        losses_PT = np.stack(list(window_losses(model, windows_ending_with(targets, length), batch_size)))
        shortest = losses_PT if shortest is None else shortest
        gains, places = (losses_PT - shortest).mean(1), len(targets)
        error = float(gains.std(ddof=1)) / math.sqrt(places) if places > 1 else 0.0
        points.append(ContextPoint(length, float(losses_PT.mean()), losses_PT.size, error))
    return points


def windows_ending_with(targets: Sequence[Target], length: int) -> Iterator[tuple[Tokens, Window]]:
    """For each target the window of `length` tokens whose last positions predict it."""
    for tokens, stop, size in targets:
        yield tokens, Window(stop - length, stop - size, stop)


def by_window_position(model: CausalLM, targets: Sequence[Target], length: int, batch_size: int) -> OctaveBins:
    """Losses by position in a window of `length`, over windows that end where the targets' do and do not overlap."""
    bins = OctaveBins()
    windows: list[tuple[Tokens, Window]] = []
    for tokens, stop, _ in targets:
        if not windows or windows[-1][0] is not tokens or windows[-1][1].stop <= stop - length:
            windows.append((tokens, Window(stop - length, stop - length, stop)))
    for losses in window_losses(model, windows, batch_size):
        bins.add(losses)
    return bins
