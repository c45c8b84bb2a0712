"""The order of training samples out of several data sets: it depends on the seed and the sample's number alone."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.sample_order import SampleOrder

BLOCK = 10_000
"""Samples in which every source has exactly its share."""


class Stage(NamedTuple):
    """Shares of the sources from a sample of the run on."""

    after: int
    """Samples before it."""
    slots: Mapping[int, int]
    """Of every `BLOCK` samples, how many are of each source, by its number; together BLOCK."""


class MixedOrder:
    """Source and window of every training sample: a pure function of (seed, global sample index).

    Sample n of a stage is in block n // BLOCK, which a keyed permutation deals out to the sources. Every source gives
    its samples one after the other, over all stages, in the order of `SampleOrder`: within an epoch of a source every
    window comes once, whatever the mixture. Of a stage with one source nothing is dealt out: it is the order of that
    source, as of a run without a mixture. In memory are two blocks.
    """

    def __init__(self, stages: Sequence[Stage], num_windows: Sequence[int], seed: int) -> None:
        self._stages, self._seed = stages, seed
        self._orders = [SampleOrder(windows, seed) for windows in num_windows]
        self._block = lru_cache(2)(self._dealt)
        self._begun = [np.zeros(len(num_windows), np.int64)]
        """Of every stage, how many samples each source has given before it."""
        for number, (stage, following) in enumerate(pairwise(stages)):
            self._begun.append(self._begun[-1] + self._given(number, following.after - stage.after))

    def __getitem__(self, sample: int) -> tuple[int, int]:
        number = max(n for n, stage in enumerate(self._stages) if stage.after <= sample)
        block, n = divmod(sample - self._stages[number].after, BLOCK)
        sources, places = self._block(number, block)
        source = int(sources[n])
        before = int(self._begun[number][source]) + block * self._stages[number].slots[source]
        return source, self._orders[source][before + int(places[n])]

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
