"""What the checks run on, and at which sizes."""

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

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
            try:
                self._open.enter_context(_alone())
                self._open.callback(_leave_group)
                self._rank = join_process_group(60.0)
            except BaseException:
                self.close()
                raise
        return self._rank

    def close(self) -> None:
        """Leave that group."""
        self._rank = None
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
