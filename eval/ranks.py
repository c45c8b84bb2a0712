"""The processes of a launch that evaluate together: torchrun's variables RANK, WORLD_SIZE, LOCAL_RANK, or none.

Alone, nothing is opened. Together they take turns with batches of windows, or share each window in groups, and every
one gets all results; the first prints them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from data_pipeline import UserError
from maha_model import ModelConfig
from maha_model.parallel import ContextSplit, part_sizes, register_group

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the launch."""

    rank: int = 0
    count: int = 1
    parts: int = 1
    """P neighbouring processes share each window."""
    group: str = ""
    """Those of this process's windows."""

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def places(self) -> int:
        """Groups that take turns with batches."""
        return self.count // self.parts

    @property
    def place(self) -> int:
        """This process's group among them."""
        return self.rank // self.parts

    def padded(self, length: int, config: ModelConfig) -> int:
        """The tokens of a window of at least `length` of which every process of a group has one."""
        return max(length, (self.parts - 1) * config.context_unit + 1)

    def split(self, length: int, config: ModelConfig) -> ContextSplit | None:
        """The part of windows of `length` tokens that this process has; None: the whole."""
        if self.parts == 1:
            return None
        return ContextSplit(part_sizes(length, self.parts, config.context_unit), self.rank % self.parts, self.group)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks. Collective."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


@contextmanager
def launched_ranks(parts: int, device: str) -> Iterator[tuple[Ranks, str]]:
    """The processes of the launch, and this one's device of the kind `device`; their group is closed at the end.

    Raises:
        UserError: if `parts` does not divide their number, or a process has no GPU of its own.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count % parts:
        raise UserError(
            f"--context-parallel {parts} does not divide the {count} processes of the launch; start a multiple of "
            f"{parts}, for example torchrun --nproc-per-node {parts}"
        )
    if count == 1:
        yield Ranks(), device
        return
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own; start at most {torch.cuda.device_count()}, or "
                "give --device cpu"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        group = "" if parts == 1 else register_group(dist.new_subgroups(parts)[0])
        yield Ranks(rank, count, parts, group), device
    finally:
        dist.destroy_process_group()
