"""The training loop: python -m pretrain.train [options], by itself or under deepspeed, torchrun or srun."""

import dataclasses
import hashlib
import logging
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from data_pipeline import Manifest, SampleOrder, WindowDataset, user_errors
from data_pipeline.files import atomic_write
from maha_model import ConfigError, flops_per_token, scale_weight_statistics
from pretrain import checkpoint as checkpoints
from pretrain.callbacks.evaluation import Validation, stack_windows
from pretrain.callbacks.spikes import NonFiniteError, SpikeDetector
from pretrain.callbacks.throughput import Throughput, device_peak_flops, peak_memory_bytes
from pretrain.callbacks.tracking import MetricsFile, MLflowRun
from pretrain.callbacks.watchdog import Watchdog, own_connection
from pretrain.checkpoint.background import BackgroundWriter
from pretrain.checkpoint.engine_state import gather_state, restore_state
from pretrain.config import RunConfig, parse_config
from pretrain.distributed import (
    Rank,
    is_communication_error,
    join_process_group,
    rank_from_environment,
    world_size_from_environment,
)
from pretrain.engine import build_engine, whole_shape
from pretrain.memory import keep_freed_memory
from pretrain.preflight import check_resume, check_run, find_resume
from pretrain.schedule import learning_rate


class Trainer:
    """One run on one process. Every process calls the same methods in the same order."""

    def __init__(self, config: RunConfig, manifest: Manifest, rank: Rank) -> None:
        self.config, self.manifest, self.rank = config, manifest, rank
        context = config.model.context_length
        self.windows = WindowDataset(manifest, "train", context)
        self.order = SampleOrder(len(self.windows), config.seed)
        self.validation = Validation(
            WindowDataset(manifest, "validation", context), config.eval_windows, config.micro_batch_size, rank
        )
        self.step = self.samples = 0
        self.skipped = 0  # steps in a row without an update
        self.spikes = SpikeDetector(config.spike_window, config.spike_threshold)
        self.signalled = False  # this process was asked to stop
        self.stopping = False  # all processes agreed to
        self.writer = BackgroundWriter()
        self.watchdog = Watchdog(
            own_connection(rank.store, config.peer_timeout),
            rank.rank,
            rank.world_size,
            config.step_timeout,
            config.peer_timeout,
            before_exit=self._close_lost_run,
        )
        self._build_engine()
        self.saved_step = self.step
        rank.on_main(self._open_run)

    def _build_engine(self) -> None:
        """Build model and engine, from a checkpoint if there is one to resume."""
        config, rank = self.config, self.rank
        torch.manual_seed(config.seed)
        path = rank.on_main(lambda: find_resume(config))
        if path is None:
            self.engine = build_engine(config, rank.world_size)
            return
        check_resume(path, config, self.manifest)
        self.engine = build_engine(config, rank.world_size)
        self._restore(path)
        self._say(f"resumed {path}")

    def _restore(self, path: Path) -> None:
        """Go to the state that a checkpoint of this run's model holds."""
        info = checkpoints.read_info(path)
        restore_state(self.engine, checkpoints.read_weights(path), checkpoints.read_moments(path), info.step)
        self.step, self.samples = info.step, info.samples
        self.spikes = SpikeDetector(self.config.spike_window, self.config.spike_threshold, info.recent_losses)

    def _open_run(self) -> None:
        """What the main process writes to and measures with."""
        config, context = self.config, self.config.model.context_length
        config.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(config.out / "config.yaml") as file:
            file.write(config.to_yaml().encode())
        self.metrics = MetricsFile(config.out, self.step)
        self.mlflow = MLflowRun(config.out, config.experiment, dataclasses.asdict(config))
        peak = device_peak_flops(self.rank.device) * self.rank.world_size
        flops = flops_per_token(config.model, context)
        self.throughput = Throughput(config.global_batch_size * context, flops, peak, config.steps)

    def run(self) -> None:
        """Train to the last step, or until a signal asks to stop. Raises NonFiniteError."""
        self._announce()
        config = self.config
        while self.step < config.steps and not self.stopping:
            self.watchdog.progress(f"step {self.step + 1}")
            self._start_step()
            loss, norm, rate = self._optimize()
            if not self._updated(loss, norm):
                continue
            spike = self.spikes.spike(loss)
            if spike is not None and self._rolled_back(loss, spike):
                continue
            self._end_step(loss, norm, rate)
            last = self.step == config.steps or self.stopping
            if self.step % config.eval_interval == 0 or self.step == config.steps:
                self.watchdog.progress(f"the evaluation after step {self.step}")
                self._evaluate()
            if self.step % config.checkpoint_interval == 0 or last:
                self._save()
        self._save()
        self._finish_writing()
        self._say(f"{'stopped' if self.step < config.steps else 'finished'} at step {self.step}: {config.out}")
        if self.rank.is_main:
            self.mlflow.finish("FINISHED" if self.step == config.steps else "KILLED")

    def _optimize(self) -> tuple[float, float, float]:
        """One optimiser step over the next global batch: its mean loss, gradient norm and learning rate.

        Nothing is updated, on any process, if the loss or the gradient of any is NaN or infinite.
        """
        config, engine = self.config, self.engine
        rate = learning_rate(config.optimizer, self.step, config.steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), dtype=torch.float64, device=self.rank.device)
        micro_batches = self._micro_batches()
        for number, (ids, targets) in enumerate(micro_batches, start=1):
            loss = engine(ids, targets).loss
            # Times 1, or NaN where the loss is not finite: then so is every gradient, and the optimisers skip the step.
            engine.backward(loss * (1 + 0 * loss.detach()))
            total += loss.detach()
            if number == len(micro_batches):
                mean = self._agree(float(total) / number)
            engine.step()  # updates after the last micro-batch only
        return mean, float(engine.get_global_grad_norm()), rate

    def _updated(self, loss: float, norm: float) -> bool:
        """Count the step if it was done; the same answer on every process, as loss and norm are global.

        Raises:
            NonFiniteError: if more than max_skipped_steps in a row were not.
        """
        config = self.config
        if math.isfinite(loss) and math.isfinite(norm):
            self.step += 1
            self.samples += (self.skipped + 1) * config.global_batch_size
            self.skipped = 0
            return True
        reason = f"the gradient norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        self.skipped += 1
        if self.skipped > config.max_skipped_steps:
            raise NonFiniteError(reason)
        self._say(f"warning: {reason} at step {self.step + 1}; skipped its batch, nothing was updated")
        if self.rank.is_main:
            self.metrics.log(self.step + 1, skipped=reason)
        return False

    def _rolled_back(self, loss: float, score: float) -> bool:
        """Report a loss spike; if that is wanted, go back to the last checkpoint and on with the data after the spike.

        As PaLM was trained (arXiv 2204.02311, 5.1): the batches between the checkpoint and the spike are passed over.
        """
        config = self.config
        spike = f"loss {loss:.4f} at step {self.step} is {score:.1f} standard deviations above the last ones"
        self._finish_writing()
        if config.on_spike == "log" or not self.rank.on_main(lambda: checkpoints.has_checkpoint(config.out)):
            self._say(f"warning: {spike}")
            if self.rank.is_main:
                self.metrics.log(self.step, spike=score)
            return False
        path = self.rank.on_main(lambda: checkpoints.find_checkpoint(config.out))
        after, spiked = self.samples, self.step
        self._restore(path)
        self.samples, self.saved_step = after, self.step
        self._say(f"warning: {spike}; back to step {self.step}, on with the data after it")
        if self.rank.is_main:
            self.metrics = MetricsFile(config.out, self.step)
            self.metrics.log(self.step, spike=score, rolled_back_from=spiked)
        return True

    def _micro_batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """This process's windows of the step: (ids, targets), each (micro_batch_size, context)."""
        config, rank = self.config, self.rank
        first = self.samples + self.skipped * config.global_batch_size
        mine = self.order.batch(first, config.global_batch_size, rank.rank, rank.world_size)
        batches = []
        for start in range(0, len(mine), config.micro_batch_size):
            pairs = [self.windows[window] for window in mine[start : start + config.micro_batch_size]]
            batches.append(stack_windows(pairs, rank.device))
        return batches

    def _agree(self, loss: float) -> float:
        """The mean loss over all processes; also spreads a request to stop and a checkpoint that could not be written.

        Raises:
            UserError, OSError: on every process alike, what the checkpoint's writing raised.
        """
        total, signalled, broken = self.rank.sum(loss, self.signalled, self.writer.failed)
        self.stopping = signalled > 0
        if broken:
            self._finish_writing()
        return total / self.rank.world_size

    def _start_step(self) -> None:
        # Dropout is a function of seed, step and rank, so that a checkpoint needs no random generator's state.
        key = f"{self.config.seed}/{self.step}/{self.rank.rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()))
        if self.rank.is_main:
            self.throughput.start_step()

    def _end_step(self, loss: float, norm: float, rate: float) -> None:
        """Write down the step; print and track every log_interval steps."""
        if not self.rank.is_main:
            return
        self.throughput.end_step()
        config = self.config
        values = {"loss": loss, "lr": rate, "grad_norm": norm, "tokens": self.samples * config.model.context_length}
        if self.step % config.log_interval and self.step != config.steps:
            self.metrics.log(self.step, **values)
            return
        speed = self.throughput.read(self.step)
        eta = int(speed.pop("eta_s"))
        values |= {**speed, "peak_memory_bytes": peak_memory_bytes(self.rank.device)}
        self.metrics.log(self.step, **values)
        self.mlflow.log(self.step, **values)
        self._say(
            f"step {self.step}/{config.steps} | loss {loss:.4f} | lr {rate:.2e} | grad {norm:.2f} | "
            f"{speed['tokens_per_s']:,.0f} tok/s | MFU {speed['mfu']:.1%} | "
            f"mem {values['peak_memory_bytes'] / 2**30:.2f} GiB | ETA {eta // 3600}:{eta // 60 % 60:02}:{eta % 60:02}"
        )

    def _evaluate(self) -> None:
        """Validation loss, and how every MAHA layer weighs its scales on one validation batch."""
        loss = self.validation.loss(self.engine)
        layers = scale_weight_statistics(self.engine.module, self.validation.batch()[0])
        if not self.rank.is_main:
            return
        self.metrics.log(self.step, eval_loss=loss, scale_weights=[layer._asdict() for layer in layers])
        points = {"eval_loss": loss}
        for number, layer in enumerate(layers):
            points |= {f"layer{number}/scale{scale}": weight for scale, weight in enumerate(layer.mean)}
            points |= {f"layer{number}/entropy": layer.entropy, f"layer{number}/zeros": layer.zeros}
        self.mlflow.log(self.step, **points)
        self._say(
            f"step {self.step}/{self.config.steps} | validation loss {loss:.4f} (perplexity {math.exp(loss):.1f})"
        )

    def _save(self) -> None:
        """Start to write a checkpoint of the state after `self.step` steps, unless there is one; training goes on."""
        if self.step == self.saved_step:
            return
        self.watchdog.progress(f"the checkpoint of step {self.step}")
        self._finish_writing()
        weights, moments = gather_state(self.engine, keep=self.rank.is_main)
        if self.rank.is_main:
            self.mlflow.send()
            info = checkpoints.CheckpointInfo(
                step=self.step,
                samples=self.samples,
                tokens=self.samples * self.config.model.context_length,
                seed=self.config.seed,
                model=self.config.model.to_dict(),
                data_fingerprint=self.manifest.fingerprint,
                tokenizer_sha256=self.manifest.tokenizer_sha256,
                recent_losses=self.spikes.recent,
            )
            config, tokenizer = self.config, self.manifest.tokenizer_path
            self.writer.start(
                lambda: checkpoints.save_checkpoint(
                    config.out, info, weights, moments, tokenizer, config.keep_checkpoints, config.keep_every
                )
            )
        self.saved_step = self.step

    def _finish_writing(self) -> None:
        """Wait until the last checkpoint is whole. Raises on every process what its writing raised."""
        self.rank.on_main(self.writer.wait)

    def fail(self, reason: str) -> str:
        """Save the last good step after a failure that touched nothing; returns what to tell the user."""
        if self.step > 0:
            self._save()
            self._finish_writing()
        if self.rank.is_main:
            self.mlflow.finish("FAILED")
        saved = f"; step {self.step}, the last good one, is saved in {self.config.out}" if self.step else ""
        mend = "lower optimizer.lr or look at the data, then continue with --resume auto"
        times = f" {self.skipped} times in a row" if self.skipped > 1 else ""
        return f"{reason} at step {self.step + 1}{times}{saved}; {mend}"

    def _close_lost_run(self) -> None:
        """What can still be done without the other processes."""
        if self.rank.is_main and hasattr(self, "mlflow"):
            self.mlflow.finish("FAILED")

    def request_stop(self, number: int, *_: Any) -> None:
        """Signal handler: finish the step, save, end; a second SIGINT ends at once, with what is saved already."""
        if number == signal.SIGINT and self.signalled:
            self._say("stopped at once; the last checkpoint stays")
            os._exit(128 + number)
        self.signalled = True

    def _announce(self) -> None:
        config = self.config
        parameters = sum(whole_shape(parameter).numel() for parameter in self.engine.module.parameters())
        self._say(
            f"{config.model.attention}: {parameters:,} parameters | {config.steps} steps of "
            f"{config.global_batch_size * config.model.context_length:,} tokens | {self.rank.world_size} processes on "
            f"{self.rank.device.type} | ZeRO {self.engine.zero_optimization_stage()} | from step {self.step}"
        )

    def _say(self, line: str) -> None:
        if self.rank.is_main:
            print(line, flush=True)


def train(config: RunConfig) -> None:
    """Run `config` on this process. Raises UserError, ConfigError, or SystemExit after a non-finite loss."""
    config, manifest = check_run(config, world_size_from_environment())
    rank = join_process_group(config.step_timeout)
    if rank.device.type == "cpu":
        keep_freed_memory()
    rank.on_main(lambda: manifest.verify(["train", "validation"]))
    trainer = Trainer(config, manifest, rank)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # SIGUSR1 is what Slurm's srun passes on
        signal.signal(number, trainer.request_stop)
    failed = True
    try:
        trainer.run()
        failed = False
    except NonFiniteError as error:
        message, failed = trainer.fail(str(error)), False
        sys.exit(f"error: {message}" if rank.is_main else 1)
    except RuntimeError as error:
        reason = trainer.watchdog.explain() if is_communication_error(error) else None
        if reason is None:
            raise
        trainer.watchdog.end(reason)
    finally:
        trainer.watchdog.close(failed)
        torch.distributed.destroy_process_group()


def main() -> None:
    """The command; only the main process reports a user's mistake."""
    logging.getLogger("DeepSpeed").setLevel(os.environ.get("MAHA_DEEPSPEED_LOG", "WARNING"))
    # the deepspeed launcher adds --local_rank, which we read from the environment
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    with user_errors(ConfigError, quiet=rank_from_environment() != 0):
        train(parse_config(arguments))
    # All is written and closed. Finalising the interpreter while threads of gloo still hold tensors aborts the process
    # now and then (pytorch pull request 179291), and a launcher would take a finished run for a failed one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
