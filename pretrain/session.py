"""A training session: everything from a configuration to a trainer that can step, and its orderly end.

The one entry to the training loop: `pretrain.train` and the benchmarks train through it. It exports what a caller
needs besides: the configuration's parser, the optimiser of a bare loop and its rate, the callback that saves, MLflow's
experiment.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from data_pipeline import Data, UserError, mixture_of, open_windows
from maha_model import ConfigError
from pretrain.batches import Batch, Share, TrainingBatches, setting_apart
from pretrain.callbacks.base import Callback, DataEndError, TrainingError
from pretrain.callbacks.checkpointing import Checkpointing, find_together
from pretrain.callbacks.evaluation import Evaluation, Validation
from pretrain.callbacks.heartbeats import own_connection
from pretrain.callbacks.mlflow_store import make_experiment
from pretrain.callbacks.nonfinite import NonFiniteGuard
from pretrain.callbacks.profiling import Profiling
from pretrain.callbacks.settings import write_mixture
from pretrain.callbacks.spikes import SpikeGuard
from pretrain.callbacks.step_times import StepTimes
from pretrain.callbacks.stop_signals import StopBeforeLimit, StopSignals, job_end
from pretrain.callbacks.tracking import Tracking
from pretrain.callbacks.watchdog import TimeLimits, Watchdog
from pretrain.check_init import check_init
from pretrain.check_windows import check_windows, pass_over
from pretrain.checkpoint import find_checkpoint, prepare_to_continue, read_info
from pretrain.checkpoint.engine_state import load_weights, restore_checkpoint
from pretrain.claim import claimed
from pretrain.config import RunConfig, parse_config
from pretrain.diagnostics import Fault, FlightRecorder, new_folder
from pretrain.distributed import Rank, is_communication_error, join_process_group, world_size_from_environment
from pretrain.engine import build_engine, build_optimizer, set_rate
from pretrain.lean_deepspeed import deepspeed
from pretrain.memory import keep_freed_memory
from pretrain.output import try_line
from pretrain.prefetch import GPUBatches
from pretrain.preflight import check_out, check_resume, check_run, find_resume, warnings_of_warmups
from pretrain.progress import Progress
from pretrain.trainer import Trainer

__all__ = [
    "Batch",
    "Checkpointing",
    "RunConfig",
    "Trainer",
    "build_optimizer",
    "make_experiment",
    "parse_config",
    "set_rate",
    "training_session",
]

DIVERGED_STATUS = 4
"""Of a run that a new start would not help: too many non-finite steps or loss spikes in a row."""


@contextmanager
def training_session(config: RunConfig) -> Iterator[Trainer]:
    """Check the run, join the process group, build the trainer; at the end close the watchdog and the group.

    Inside, `Trainer.run` trains to the end; or call `Trainer.train_step` as often as you like, then `Trainer.finish`.

    Raises:
        UserError: for what the user can mend; on every process alike.
        ConfigError: for a model that cannot be built.
        SystemExit: with `DIVERGED_STATUS` after too many non-finite steps or loss spikes in a row; the last good step
            is saved then.
    """
    config, data = check_run(config, world_size_from_environment())
    rank = join_process_group(config.step_timeout)
    with ExitStack() as claim:

        def claim_folder() -> None:
            claim.enter_context(claimed(config.out))
            check_out(config)  # again: another run may have begun and ended since

        rank.on_main(claim_folder)
        with _claimed_session(config, data, rank) as trainer:
            yield trainer


@contextmanager
def _claimed_session(config: RunConfig, data: Data, rank: Rank) -> Iterator[Trainer]:
    """`training_session` after its folder is this run's alone."""
    if rank.device.type == "cpu":
        keep_freed_memory()
    rank.on_main(lambda: data.verify(["train", "validation"]))
    trackers: list[Tracking] = []  # one, on the main process, and only after the watchdog

    def close_lost_run() -> None:
        for tracker in trackers:
            tracker.mark_failed()

    def open_run() -> None:
        trackers.append(Tracking(config, rank, progress.step))
        write_mixture(config.out, data)

    watchdog = Watchdog(
        lambda: own_connection(rank.store, config.peer_timeout),
        rank.rank,
        rank.world_size,
        config.step_timeout,
        config.peer_timeout,
        before_exit=close_lost_run,
        record=FlightRecorder(rank.on_main(lambda: new_folder(config.out)), rank).write,
    )
    engine, progress = _build_engine(config, data, rank)
    rank.on_main(open_run)
    callbacks = _standard_callbacks(config, data, rank, progress, watchdog, trackers)
    read = TrainingBatches(data, config, rank)
    for folder, padding in read.padding.items():
        rank.print(f"packing documents: {padding:.1%} of the tokens in the training windows of {folder} are padding")
    if config.document_mask:
        rank.print("document_mask: MFU and time left are counted as if windows were computed without it")
    batches: Callable[[int, int], list[Batch]] = read
    if rank.device.type == "cuda":
        batches = GPUBatches(batches, rank.device)
    trainer = Trainer(config, rank, engine, batches, progress, callbacks)
    failed = True
    try:
        yield trainer
        failed = False
    except TrainingError as error:
        watchdog.record(Fault("mistake", str(error), error=error))
        for callback in reversed(trainer.callbacks):
            callback.on_failure(trainer)
        failed = False
        if rank.is_main:
            try_line(f"error: {_advice(trainer, error)}", sys.stderr)
        sys.exit(DIVERGED_STATUS)
    except (UserError, ConfigError) as error:
        # srun hands on no status 2 where it has ended the other ranks meanwhile
        watchdog.record(Fault("mistake", " ".join(str(error).split())[:500], error=error))
        raise
    except Exception as error:
        # at once: where a rank is lost, the launcher may end this process at any moment
        lost = is_communication_error(error)
        watchdog.record(Fault("collective" if lost else "error", _line(error), error=error))
        fault = watchdog.explain() if lost else None
        if fault is None:
            raise
        watchdog.end(replace(fault, error=error))
    finally:
        watchdog.close(failed)
        torch.distributed.destroy_process_group()


def _line(error: Exception) -> str:
    """Type and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _build_engine(config: RunConfig, data: Data, rank: Rank) -> tuple[deepspeed.DeepSpeedEngine, Progress]:
    """Model and engine, from a checkpoint if there is one to resume, and the counters at that point."""
    torch.manual_seed(config.seed)
    path = find_together(rank, lambda verify: find_resume(config, verify))
    progress, weights = Progress(), None
    if path is not None:
        check_resume(path, config, data)
        progress = Progress.from_checkpoint(read_info(path))
    elif config.init_from != "none":
        weights = find_together(rank, lambda verify: find_checkpoint(config.init_from, verify))
        check_init(weights, config, data)
        progress = Progress.from_weights(read_info(weights))
    if config.skip_batches:
        before, now = progress.passed_over, pass_over(config, progress)
        rank.print(f"--skip_batches: passed over {now} batches now, {before} before")
    check_windows(config, data, progress)
    for line in warnings_of_warmups(config):
        rank.print(line)
    rank.on_main(lambda: prepare_to_continue(config.out, progress.step))
    engine = build_engine(config, rank.world_size)
    if path is not None:
        restore_checkpoint(engine, path)
        rank.print(f"resumed {path}")
    if weights is not None:
        load_weights(engine, weights, config.model)
        rank.print(f"started a new run from the weights of {weights}")
    return engine, progress


def _standard_callbacks(
    config: RunConfig, data: Data, rank: Rank, progress: Progress, watchdog: Watchdog, trackers: list[Tracking]
) -> list[Callback]:
    """In the order in which they act on a step: guards first, then tracking, evaluation, saving."""
    windows = open_windows(mixture_of(data).validation, "validation", config.model.context_length, config.packing)
    share, set_apart = Share.of(config, rank), setting_apart(config)
    checkpointing = Checkpointing(data, progress.step, progress.longest_save)
    return [
        StopSignals(),
        StopBeforeLimit(job_end(), lambda: checkpointing.seconds),
        TimeLimits(watchdog),
        NonFiniteGuard(config.max_skipped_steps),
        SpikeGuard(config, progress, checkpointing),
        *([Profiling(*config.profiled_steps)] if config.profiled_steps else []),
        StepTimes(watchdog.heartbeats),
        *trackers,
        Evaluation(Validation(windows, config.eval_windows, config.micro_batch_size, rank, share, set_apart)),
        checkpointing,
    ]


def _advice(trainer: Trainer, error: TrainingError) -> str:
    """What has ended the run, what is saved, what to do."""
    progress = trainer.progress
    saved = f"; step {progress.step}, the last good one, is saved in {trainer.config.out}" if progress.step else ""
    if isinstance(error, DataEndError):
        return f"{error}{saved}"
    mend = "lower optimizer.lr or look at the data, then continue with --resume auto; with --skip_batches"
    return f"{error}{saved}; {mend} {progress.passed_over + progress.skipped} it passes over the batches at fault"
