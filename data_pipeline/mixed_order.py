"""The order of training samples out of several data sets: it depends on the seed and the sample's number alone."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from data_pipeline.sample_order import SampleOrder

BLOCK = 10_000
"""Samples in which every source has exactly its share."""


class Stage(NamedTuple):
    """Shares of the sources from a sample of the run on."""

    after: int
    """Samples before it."""
    slots: Mapping[int, int]
    """Of every `BLOCK` samples, how many are of each source, by its number; together BLOCK."""


class EndOfMixtureError(UserError):
    """Of a sample after all that the sources of a mixture have in their epochs."""


class SourceOrder(NamedTuple):
    """What is a source's own in all stages."""

    seed: int | None = None
    """Of the order of its windows; None: the run's."""
    epochs: int | None = None
    """After so many it gives no more samples; None: no limit."""


class MixedOrder:
    """Source and window of every training sample: a pure function of (seed, global sample index).

    Sample n of a stage is in block n // BLOCK, which a keyed permutation deals out to the sources. Every source gives
    its samples one after the other, over all stages, in the order of `SampleOrder`: within an epoch of a source every
    window comes once, whatever the mixture. Of a stage with one source nothing is dealt out: it is the order of that
    source, as of a run without a mixture. Where a source has given all of its epochs, a stage of the others begins, in
    the proportions that they had. In memory are two blocks.
    """

    def __init__(
        self, stages: Sequence[Stage], num_windows: Sequence[int], seed: int, own: Sequence[SourceOrder] = ()
    ) -> None:
        """`own` is empty, or has one of every source, as `num_windows`."""
        own = own or [SourceOrder()] * len(num_windows)
        self._seed, self._stages = seed, list[Stage]()
        self._orders = [
            SampleOrder(windows, seed if source.seed is None else source.seed)
            for windows, source in zip(num_windows, own, strict=True)
        ]
        self._limits = {
            number: source.epochs * num_windows[number] for number, source in enumerate(own) if source.epochs
        }
        self._block = lru_cache(2)(self._dealt)
        self._begun: list[npt.NDArray[np.int64]] = []
        """Of every stage, how many samples each source has given before it."""
        self.end: int | None = None
        """Samples after which no source of a stage has any left; None: they do not end."""
        begun = np.zeros(len(num_windows), np.int64)
        for stage, following in zip(stages, [*(later.after for later in stages[1:]), None], strict=True):
            after: int | None = stage.after
            while after is not None and (following is None or after < following):
                left = {n: share for n, share in stage.slots.items() if begun[n] < self._limits.get(n, begun[n] + 1)}
                if not left:
                    self.end = after
                    return
                self._stages.append(Stage(after, dict(zip(left, slots_of(list(left.values())), strict=True))))
                self._begun.append(begun)
                until = self._first_without()
                if following is not None:
                    until = following if until is None else min(until, following)
                if until is not None:
                    begun = begun + self._given(len(self._stages) - 1, until - after)
                after = until

    def __getitem__(self, sample: int) -> tuple[int, int]:
        if self.end is not None and sample >= self.end:
            raise EndOfMixtureError(
                f"the mixture has {self.end} training windows in all its epochs; give a later stage before they end, "
                "or fewer --steps"
            )
        number = max(n for n, stage in enumerate(self._stages) if stage.after <= sample)
        block, n = divmod(sample - self._stages[number].after, BLOCK)
        sources, places = self._block(number, block)
        source = int(sources[n])
        before = int(self._begun[number][source]) + block * self._stages[number].slots[source]
        return source, self._orders[source][before + int(places[n])]

    def _first_without(self) -> int | None:
        """The first sample of the last stage that is of a source without any left; None if there is none."""
        number, (after, slots) = len(self._stages) - 1, self._stages[-1]
        found = []
        for source, share in slots.items():
            if source in self._limits:
                block, place = divmod(self._limits[source] - int(self._begun[number][source]), share)
                (mine,) = np.nonzero(self._block(number, block)[0] == source)
                found.append(after + block * BLOCK + int(mine[place]))
        return min(found, default=None)

    def _given(self, number: int, samples: int) -> npt.NDArray[np.int64]:
        """How many of a stage's first `samples` are of each source."""
        blocks, rest = divmod(samples, BLOCK)
        given = np.bincount(self._block(number, blocks)[0][:rest], minlength=len(self._orders))
        for source, share in self._stages[number].slots.items():
            given[source] += blocks * share
        return given

    def _dealt(self, number: int, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The source of every sample of a block, and how many of that source come before it in the block."""
        slots = self._stages[number].slots
        hand = np.repeat(list(slots), list(slots.values()))
        if len(slots) > 1:
            deal = SampleOrder(BLOCK, _seed_of(self._seed, number))
            hand = hand[[deal[block * BLOCK + n] for n in range(BLOCK)]]
        places = np.empty(BLOCK, np.int64)
        for source in slots:
            (mine,) = np.nonzero(hand == source)
            places[mine] = np.arange(len(mine))
        return hand, places


def slots_of(weights: Sequence[float]) -> list[int]:
    """Weights as whole numbers that add up to BLOCK, rounded by the largest remainder, of equal ones the earlier."""
    total = sum(weights)
    exact = [weight / total * BLOCK for weight in weights]
    slots = [int(share) for share in exact]
    for place in sorted(range(len(slots)), key=lambda i: slots[i] - exact[i])[: BLOCK - sum(slots)]:
        slots[place] += 1
    return slots


def _seed_of(seed: int, stage: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/mixture/{stage}".encode(), digest_size=8).digest())
