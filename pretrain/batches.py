"""The micro-batches of a step: a pure function of the position in the sample order."""

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline import Manifest, SampleOrder, WindowDataset
from pretrain.config import RunConfig
from pretrain.distributed import Rank

Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Batch = tuple[torch.Tensor, torch.Tensor]
"""Token ids and targets, each (micro_batch_size, context_length)."""


def stack_windows(pairs: list[Pair], device: torch.device) -> Batch:
    """Windows (ids, targets) of `context` tokens each to two tensors (len(pairs), context) on `device`."""
    ids, targets = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(ids)).to(device), torch.from_numpy(np.stack(targets)).to(device)


class TrainingBatches:
    """The training windows in the run's order, cut into global batches and those into processes and micro-batches."""

    def __init__(self, manifest: Manifest, config: RunConfig, rank: Rank) -> None:
        self._windows = WindowDataset(manifest, "train", config.model.context_length)
        self._order = SampleOrder(len(self._windows), config.seed)
        self._config, self._rank = config, rank

    def __call__(self, first: int) -> list[Batch]:
        """This process's micro-batches of the global batch that begins at sample `first` of the order, on the CPU."""
        config, rank = self._config, self._rank
        mine = self._order.batch(first, config.global_batch_size, rank.rank, rank.world_size)
        batches = []
        for start in range(0, len(mine), config.micro_batch_size):
            pairs = [self._windows[window] for window in mine[start : start + config.micro_batch_size]]
            batches.append(stack_windows(pairs, torch.device("cpu")))
        return batches
