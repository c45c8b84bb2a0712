"""The processes of a launch that evaluate together: torchrun's variables RANK, WORLD_SIZE, LOCAL_RANK, or none.

Alone, nothing is opened. Together they take turns with batches of windows, or share each window in groups, and every
one gets all results; the first prints them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from data_pipeline import UserError, number_in_environment
from maha_model import ConfigError, ModelConfig
from maha_model.parallel import ContextSplit, part_sizes, register_group

T = TypeVar("T")


class OwnError(UserError):
    """A mistake about one process, which no other can report."""


def is_printed_by_rank_0(error: Exception) -> bool:
    """Whether this process leaves the line of a mistake to the first one, which makes it too."""
    rank = os.environ.get("RANK", "0")
    return rank.isdecimal() and int(rank) > 0 and not isinstance(error, OwnError)


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

    def each(self, function: Callable[[], T]) -> T:
        """This process's result of a function that every process runs. Collective.

        Raises:
            UserError: on all processes alike, what the first process raised for which it failed; so none waits.
        """
        result: T | None = None
        failure = ""
        try:
            result = function()
        except (UserError, ConfigError, OSError) as error:
            if self.count == 1:
                raise
            failure = str(error)
        for rank, message in enumerate(self.gather(failure)):
            if message:
                raise UserError(f"rank {rank}: {message}" if rank else message)
        return result  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks. Collective."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


@contextmanager
def launched_ranks(parts: int | None, device: str) -> Iterator[tuple[Ranks, str]]:
    """The processes of the launch, and this one's device of the kind `device`; their group is closed at the end.

    `parts` of them share each window; None: all.

    Raises:
        UserError: if `parts` does not divide their number, their rendezvous is not known, a variable is not what a
            launcher sets, or (`OwnError`) a process is none of them, or has no GPU of its own.
    """
    count = number_in_environment("WORLD_SIZE", default=1, least=1)
    rank = number_in_environment("RANK", default=0)
    if rank >= count:
        raise OwnError(
            f"RANK is {rank} (counted from 0) and WORLD_SIZE {count}; start all processes with torchrun, or unset both"
        )
    parts = parts or count
    if count % parts:
        raise UserError(
            f"--context-parallel {parts} does not divide the {count} processes of the launch; start a multiple of "
            f"{parts}, for example torchrun --nproc-per-node {parts}"
        )
    if count == 1:
        yield Ranks(), device
        return
    if lacking := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {count}, but {', '.join(lacking)} are not set; start all processes with torchrun, or unset "
            "WORLD_SIZE"
        )
    number_in_environment("MASTER_PORT", default=0, least=1, most=65535)  # torch reads it, and raises what it may
    if device == "cuda":
        local = number_in_environment("LOCAL_RANK", default=0)
        if local >= torch.cuda.device_count():
            raise OwnError(
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
