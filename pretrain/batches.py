"""The micro-batches of a step: a pure function of the position in the sample order."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline import Data, PackedWindows, mixture_of, open_windows
from data_pipeline.windows import MOST_OPEN
from maha_model import Documents
from pretrain.config import RunConfig
from pretrain.deepspeed_config import read_deepspeed_config, zero_stage
from pretrain.distributed import Rank

Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
SetApart = Callable[[list[list[int]]], Documents]
"""From the lengths of the documents of every window to what the model needs to set them apart."""
_GROUPS_OF_ZERO_3 = 4


class Batch(NamedTuple):
    """A micro-batch of a process."""

    ids: torch.Tensor
    """(micro_batch_size, tokens of this process's part of the windows) int64."""
    targets: torch.Tensor
    """As the ids."""
    documents: Documents | None = None
    """With `document_mask`."""
    weight: float | None = None
    """Its share of the step's scored tokens, times the step's micro-batches on all processes; None: 1."""

    @property
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor] | tuple[torch.Tensor, torch.Tensor, Documents]:
        """What a model takes."""
        return self[:2] if self.documents is None else (self.ids, self.targets, self.documents)

    def tensors(self) -> Iterator[torch.Tensor]:
        """All that lies on a device."""
        yield from self[:2]
        if self.documents is not None:
            yield from self.documents.tensors

    def to(self, device: torch.device, pinned: bool = False) -> "Batch":
        """The same on a device, copied from page-locked memory and without waiting for it if `pinned`."""
        ids, targets = (
            (x.pin_memory() if pinned else x).to(device, non_blocking=pinned) for x in (self.ids, self.targets)
        )
        documents = None if self.documents is None else self.documents.to(device, pinned)
        return Batch(ids, targets, documents, self.weight)


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


def stack_windows(pairs: list[Pair], own: slice, documents: Documents | None = None) -> Batch:
    """The positions `own` of windows (ids, targets) as two tensors (len(pairs), tokens), on the CPU."""
    ids, targets = ([window[own] for window in windows] for windows in zip(*pairs, strict=True))
    return Batch(torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(targets)), documents)


def setting_apart(config: RunConfig) -> SetApart | None:
    """How a run sets the documents of a batch apart; None if it does not.

    Processes that add their gradients up need one for every parameter, so that every scale has a token. Those that
    gather weights for every module that runs (ZeRO 3) have to run as many as each other.
    """
    if not config.document_mask:
        return None
    least = config.model.context_unit
    if zero_stage(read_deepspeed_config(config)) == 3:
        return lambda lengths: Documents.of(lengths, least, _GROUPS_OF_ZERO_3, exactly=True)
    return lambda lengths: Documents.of(lengths, least)


class TrainingBatches:
    """The training windows in the run's order, cut into global batches and those into processes and micro-batches."""

    def __init__(self, data: Data, config: RunConfig, rank: Rank) -> None:
        mixture, context = mixture_of(data), config.model.context_length
        open_each = max(1, MOST_OPEN // len(mixture.sources))
        self._windows = [
            open_windows(source, "train", context, config.packing, open_each) for source in mixture.sources
        ]
        self._order = mixture.order([len(windows) for windows in self._windows], config.seed)
        self._config, self._share, self._set_apart = config, Share.of(config, rank), setting_apart(config)

    def __call__(self, first: int, windows: int) -> list[Batch]:
        """This process's micro-batches of the `windows` that begin at sample `first` of the order, on the CPU."""
        config, share = self._config, self._share
        size = windows // share.places
        mine = range(first + share.place * size, first + (share.place + 1) * size)
        scored = self._scored(range(first, first + windows)) if config.packing == "documents" else None
        batches = []
        for start in range(0, size, config.micro_batch_size):
            samples = mine[start : start + config.micro_batch_size]
            chosen = [(self._windows[source], window) for source, window in map(self._order.__getitem__, samples)]
            documents = self._set_apart and self._set_apart([source.documents(window) for source, window in chosen])
            batch = stack_windows([source[window] for source, window in chosen], share.own, documents)
            if scored is not None:
                # the mean loss of a batch counts as much as its tokens do, on whatever process it is
                own = sum(source.scored(window) for source, window in chosen)
                batch = batch._replace(weight=own * windows / (len(samples) * scored))
            batches.append(batch)
        return batches

    @property
    def padding(self) -> dict[str, float]:
        """With packed documents, by the name of each data set: the share of padding among its windows' tokens."""
        packed = (source for source in self._windows if isinstance(source, PackedWindows))
        return {str(source.folder): source.padding for source in packed}

    def _scored(self, samples: range) -> int:
        """Tokens of some samples that have a target."""
        return sum(self._windows[source].scored(window) for source, window in map(self._order.__getitem__, samples))
