"""The micro-batches of a step: a pure function of the position in the sample order."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline import Data, WindowDataset, mixture_of
from data_pipeline.windows import MOST_OPEN
from pretrain.config import RunConfig
from pretrain.distributed import Rank

Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Batch = tuple[torch.Tensor, torch.Tensor]
"""Token ids and targets, each (micro_batch_size, tokens of this process's part of the windows)."""


class Share(NamedTuple):
    """What a process has of every global batch: windows of its own, or shared with its neighbours."""

    place: int
    """Which of the `places` equal shares of the windows."""
    places: int
    own: slice
    """Its positions of these windows."""

    @classmethod
    def of(cls, config: RunConfig, rank: Rank) -> "Share":
        """Neighbouring ranks share windows: P of them are one place."""
        P = config.context_parallel
        return cls(rank.rank // P, rank.world_size // P, config.context_split(rank.rank).own)


def stack_windows(pairs: list[Pair], own: slice, device: torch.device) -> Batch:
    """The positions `own` of windows (ids, targets) as two tensors (len(pairs), tokens) on `device`."""
    ids, targets = ([window[own] for window in windows] for windows in zip(*pairs, strict=True))
    return torch.from_numpy(np.stack(ids)).to(device), torch.from_numpy(np.stack(targets)).to(device)


class TrainingBatches:
    """The training windows in the run's order, cut into global batches and those into processes and micro-batches."""

    def __init__(self, data: Data, config: RunConfig, rank: Rank) -> None:
        mixture, context = mixture_of(data), config.model.context_length
        open_each = max(1, MOST_OPEN // len(mixture.sources))
        self._windows = [WindowDataset(source, "train", context, open_each) for source in mixture.sources]
        self._order = mixture.order([len(windows) for windows in self._windows], config.seed)
        self._config, self._share = config, Share.of(config, rank)

    def __call__(self, first: int, windows: int) -> list[Batch]:
        """This process's micro-batches of the `windows` that begin at sample `first` of the order, on the CPU."""
        config, share = self._config, self._share
        size = windows // share.places
        mine = range(first + share.place * size, first + (share.place + 1) * size)
        batches = []
        for start in range(0, size, config.micro_batch_size):
            chosen = (self._order[sample] for sample in mine[start : start + config.micro_batch_size])
            pairs = [self._windows[source][window] for source, window in chosen]
            batches.append(stack_windows(pairs, share.own, torch.device("cpu")))
        return batches
