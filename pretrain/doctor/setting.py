"""What the checks run on, and at which sizes."""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from data_pipeline.stopping import end_with_parent
from pretrain.distributed import Rank, join_process_group

T = TypeVar("T")
MODELS: dict[str, dict[str, Any]] = {
    "Transformer": {"attention": "standard"},
    "Longformer": {"attention": "longformer"},
    "MAHA": {"attention": "maha"},
    "MAHA with descent": {
        "attention": "maha", "descent": 8, "query": "fine", "positions": "token", "num_scales": 4, "span": 64,
    },
}  # fmt: skip
"""The models that are measured, and the fields of `ModelConfig` in which they differ."""
PROCESSES = 8
"""That `Setting.side_by_side` starts at most."""
BYTES_OF_A_PROCESS = 5 * 2**30
"""That each may take of a GPU: definitions in float64 of a few thousand tokens, and what CUDA itself takes."""
TINY: dict[str, Any] = {
    "vocab_size": 256, "context_length": 128, "d_model": 64, "num_layers": 1, "num_heads": 2, "d_ff": 128, "span": 16,
}  # fmt: skip
"""A model that shows whether everything works, and not how fast it is."""


@dataclass
class Setting:
    """The device of this process, and how much is measured."""

    device: torch.device
    quick: bool
    """The smallest sizes, on any device: whether everything works, not how fast it is."""
    folder: Path
    """Of this process alone, for the files of checks, whose file system is measured; removed in the end."""
    _open: ExitStack = field(default_factory=ExitStack)
    _rank: Rank | None = None
    _workers: Executor | None = None

    @property
    def kind(self) -> str:
        """`cuda` or `cpu`."""
        return self.device.type

    def choose(self, quick: T, cpu: T, gpu: T) -> T:
        """The value of this device and size."""
        return quick if self.quick else gpu if self.kind == "cuda" else cpu

    @property
    def dtype(self) -> torch.dtype:
        """What a model computes in here: bfloat16 on a GPU that has it."""
        return torch.bfloat16 if self.kind == "cuda" and torch.cuda.is_bf16_supported() else torch.float32

    def group_of_one(self) -> Rank:
        """A process group of this process alone, whatever the launcher: DeepSpeed needs one. Made at the first call."""
        if self._rank is None:
            if self._workers is not None:
                self._workers.shutdown()  # each holds memory of a GPU
                self._workers = None
            try:
                self._open.enter_context(_alone())
                self._open.callback(_leave_group)
                self._rank = join_process_group(60.0)
            except BaseException:
                self.close()
                raise
        return self._rank

    def side_by_side(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        """What picklable functions return: on a GPU, whose kernels take long to compile, in several processes.

        Those use this rank's share of the processor's cores, and end before the first group.
        """
        if self.kind != "cuda" or self.quick:
            return [function() for function in functions]
        if self._workers is None:
            cores = len(os.sched_getaffinity(0)) // max(torch.cuda.device_count(), 1)
            room = torch.cuda.mem_get_info(self.device)[0] // BYTES_OF_A_PROCESS
            count = max(1, min(PROCESSES, cores, room))
            context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
            pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker, initargs=(self.device,))
            self._workers = self._open.enter_context(pool)
        return [future.result() for future in [self._workers.submit(function) for function in functions]]

    def close(self) -> None:
        """Leave that group, and end those processes."""
        self._rank = self._workers = None
        self._open.close()

    def enter_thread(self) -> None:
        """Make the device that of the calling thread, on which Triton launches."""
        if self.kind == "cuda":
            torch.cuda.set_device(self.device)

    def release(self) -> None:
        """Give what earlier checks held back to a GPU."""
        if self.kind == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _begin_worker(device: torch.device) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    torch.cuda.set_device(device)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _alone() -> Iterator[None]:
    """Inside, the environment is that of the only process of a run."""
    before = dict(os.environ)
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
