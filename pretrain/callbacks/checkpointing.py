"""Checkpoints during training: every rank's share is copied between two steps and written beside those that follow."""

import functools
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_pipeline import Data, UserError
from pretrain.callbacks.base import Callback, StepResult
from pretrain.callbacks.heartbeats import own_connection
from pretrain.checkpoint import (
    BackgroundWriter,
    CheckpointInfo,
    Part,
    PartExchange,
    begin_checkpoint,
    check_sizes,
    find_checkpoint,
    finish_checkpoint,
    has_checkpoint,
    part_name,
    prepare_to_continue,
    stage,
    verify_checkpoint,
    write_part,
)
from pretrain.checkpoint.engine_state import own_pieces, restore_checkpoint
from pretrain.config import RunConfig
from pretrain.distributed import Rank
from pretrain.progress import Progress
from pretrain.warmup import batch_size

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

Found = TypeVar("Found", bound=Path | None)


def find_together(rank: Rank, find: Callable[[Callable[[Path], None]], Found]) -> Found:
    """The checkpoint that `find` finds on the main process; every process verifies a part of its files. Collective.

    `find` gets the check of a checkpoint, which raises UserError at a damaged one. Raises what `find` raises.
    """
    path = rank.on_main(lambda: find(check_sizes))
    damaged = False
    if path is not None:
        try:
            verify_checkpoint(path, rank.rank, rank.world_size)
        except (UserError, OSError):
            damaged = True
    if rank.sum(damaged)[0]:
        return rank.on_main(lambda: find(verify_checkpoint))  # one process, all files: seldom
    return path


class Checkpointing(Callback):
    """Saves every `checkpoint_interval` steps and at the end. Collective: call its methods on every process."""

    def __init__(self, data: Data, saved_step: int, longest_save: float = 0.0) -> None:
        """`saved_step` is the step that needs no checkpoint: the one that the run starts from."""
        self._data, self._saved_step = data, saved_step
        self._writer = BackgroundWriter()
        self.seconds = longest_save
        """What the longest save has taken so far, from its begin to the last byte: of this start, or of those before
        it if that is longer."""

    def failed(self) -> bool:
        """Whether the last checkpoint could not be written."""
        return self._writer.failed

    def raise_failure(self, trainer: "Trainer") -> None:
        """Raise what the writing raised."""
        self.wait(trainer)

    def on_step_end(self, trainer: "Trainer", result: StepResult) -> None:
        """Save if it is due."""
        step, config = trainer.progress.step, trainer.config
        if step % config.checkpoint_interval == 0 or step == config.steps or trainer.stopping:
            self.save(trainer)

    def on_finish(self, trainer: "Trainer") -> None:
        """Save, and return when it is written."""
        self.save(trainer)
        self.wait(trainer)

    def on_failure(self, trainer: "Trainer") -> None:
        """Save the last counted step."""
        if trainer.progress.step > 0:
            self.on_finish(trainer)

    def save(self, trainer: "Trainer") -> None:
        """Start to write a checkpoint of the current step, unless there is one; training goes on meanwhile."""
        progress, config, rank = trainer.progress, trainer.config, trainer.rank
        if progress.step == self._saved_step:
            return
        trainer.begin(f"the checkpoint of step {progress.step}")
        self.wait(trainer)
        start = time.monotonic()
        folder, name = rank.on_main(lambda: self._begin(config.out, progress.step))
        pieces = stage(own_pieces(trainer.engine), pinned=rank.device.type == "cuda")
        for callback in trainer.callbacks:
            callback.on_save(trainer)
        exchange = PartExchange(
            lambda: own_connection(rank.store, config.peer_timeout), name, rank.rank, rank.world_size
        )
        write = functools.partial(write_part, folder, part_name(rank.rank, rank.world_size), pieces)
        if rank.is_main:
            info = CheckpointInfo(
                step=progress.step,
                samples=progress.samples,
                tokens=progress.samples * config.model.context_length,
                seed=config.seed,
                model=config.model.to_dict(),
                data_fingerprint=self._data.fingerprint_at(progress.samples),
                tokenizer_sha256=self._data.tokenizer_sha256,
                recent_losses=list(progress.recent_losses),
                spikes=progress.spikes,
                passed_over=progress.passed_over,
                origin=progress.origin,
                longest_save=self.seconds,
                optimizer=config.optimizer.name,
                packing=config.packing,
            )
            job: Callable[[], object] = functools.partial(self._finish, config, info, write, exchange)
        else:
            job = functools.partial(exchange.report, folder, write)
        self._writer.start(functools.partial(self._timed, job, start))
        self._saved_step = progress.step

    def wait(self, trainer: "Trainer") -> None:
        """Return when the last checkpoint is whole. Raises UserError or OSError on every process if it is not."""
        if not trainer.rank.is_main:
            self._writer.wait()
        trainer.rank.on_main(self._writer.wait)

    def _timed(self, job: Callable[[], object], start: float) -> None:
        job()
        self.seconds = max(self.seconds, time.monotonic() - start)

    def _begin(self, run: Path, step: int) -> tuple[Path, str]:
        """On the main process: the folder for the ranks' parts, and a name for the save's messages."""
        self._draft = begin_checkpoint(run, step)
        return self._draft.folder, uuid.uuid4().hex

    def _finish(
        self, config: RunConfig, info: CheckpointInfo, write: Callable[[], Part], exchange: PartExchange
    ) -> None:
        """On a thread of the main process: its part, then those of the others, then the index."""
        try:
            parts = [write(), *exchange.collect(self._draft.folder, config.step_timeout)]
            tokenizer = self._data.tokenizer_path
            finish_checkpoint(
                config.out, self._draft, info, parts, tokenizer, config.keep_checkpoints, config.keep_every
            )
        except BaseException:
            self._draft.discard()
            raise

    def exists(self, trainer: "Trainer") -> bool:
        """Whether the run has any checkpoint, once what is being written is there."""
        self.wait(trainer)
        return trainer.rank.on_main(lambda: has_checkpoint(trainer.config.out))

    def roll_back(self, trainer: "Trainer") -> None:
        """Restore the newest whole checkpoint, when none is being written; the batches since then are passed over."""
        path = find_together(trainer.rank, lambda verify: find_checkpoint(trainer.config.out, verify))
        samples = trainer.progress.samples
        trainer.progress = Progress.from_checkpoint(restore_checkpoint(trainer.engine, path))
        trainer.rank.on_main(lambda: prepare_to_continue(trainer.config.out, trainer.progress.step))
        # Batches may have grown since (batch_warmup): as many of the size of now as cover them. A start that passes
        # over so many (--skip_batches) counts in batches of this size, too.
        size = batch_size(trainer.config, trainer.progress.step)
        trainer.progress.pass_over(-(-(samples - trainer.progress.samples) // size), size)
        self._saved_step = trainer.progress.step
