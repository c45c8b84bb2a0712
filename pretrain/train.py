"""The training loop: python -m pretrain.train [options], by itself or under deepspeed, torchrun or srun."""

import dataclasses
import hashlib
import logging
import math
import os
import signal
import sys
from typing import Any

import torch

from data_pipeline import Manifest, SampleOrder, WindowDataset, user_errors
from data_pipeline.files import atomic_write
from maha_model import ConfigError, MAHAForCausalLM, flops_per_token, scale_weight_statistics
from maha_model.native import keep_freed_memory
from pretrain import checkpoint as checkpoints
from pretrain.config import RunConfig, parse_config
from pretrain.distributed import Rank, join_process_group, rank_from_environment, world_size_from_environment
from pretrain.engine import NonFiniteError, build_engine
from pretrain.evaluation import Validation, stack_windows
from pretrain.preflight import check_resume, check_run, find_resume
from pretrain.schedule import learning_rate
from pretrain.throughput import Throughput, device_peak_flops, peak_memory_bytes
from pretrain.tracking import MetricsFile, MLflowRun
from pretrain.training_state import gather_state, restore_state


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
        self.signalled = False  # this process was asked to stop
        self.stopping = False  # all processes agreed to
        self._build_engine()
        self.saved_step = self.step
        rank.on_main(self._open_run)

    def _build_engine(self) -> None:
        """Build model and engine, from a checkpoint if there is one to resume."""
        config, rank = self.config, self.rank
        torch.manual_seed(config.seed)
        model = MAHAForCausalLM(config.model)
        path = rank.on_main(lambda: find_resume(config))
        if path is None:
            self.engine = build_engine(model, config, rank.world_size)
            return
        check_resume(path, config, self.manifest)
        info = checkpoints.read_info(path)
        weights = checkpoints.load_weights(model, path)
        self.engine = build_engine(model, config, rank.world_size)
        restore_state(self.engine, weights, checkpoints.read_moments(path), info.step)
        self.step, self.samples = info.step, info.samples
        self._say(f"resumed {path}")

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
            self._start_step()
            loss, norm, rate = self._optimize()
            self._end_step(loss, norm, rate)
            last = self.step == config.steps or self.stopping
            if self.step % config.eval_interval == 0 or self.step == config.steps:
                self._evaluate()
            if self.step % config.checkpoint_interval == 0 or last:
                self._save()
        self._say(f"{'stopped' if self.step < config.steps else 'finished'} at step {self.step}: {config.out}")
        if self.rank.is_main:
            self.mlflow.finish("FINISHED" if self.step == config.steps else "KILLED")

    def _optimize(self) -> tuple[float, float, float]:
        """One optimiser step over the global batch: its mean loss, gradient norm and learning rate."""
        config, engine = self.config, self.engine
        rate = learning_rate(config.optimizer, self.step, config.steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), dtype=torch.float64, device=self.rank.device)
        micro_batches = self._micro_batches()
        for number, (ids, targets) in enumerate(micro_batches, start=1):
            loss = engine(ids, targets).loss
            engine.backward(loss)
            total += loss.detach()
            if number == len(micro_batches):
                mean = self._agree_on_loss(float(total) / number)
            engine.step()  # updates after the last micro-batch only
        norm = float(engine.get_global_grad_norm())
        if not math.isfinite(norm):  # ZeRO has skipped the update
            raise NonFiniteError(f"the gradient norm is {norm}")
        self.step += 1
        self.samples += config.global_batch_size
        return mean, norm, rate

    def _micro_batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """This process's windows of the step: (ids, targets), each (micro_batch_size, context)."""
        config, rank = self.config, self.rank
        mine = self.order.batch(self.samples, config.global_batch_size, rank.rank, rank.world_size)
        batches = []
        for start in range(0, len(mine), config.micro_batch_size):
            pairs = [self.windows[window] for window in mine[start : start + config.micro_batch_size]]
            batches.append(stack_windows(pairs, rank.device))
        return batches

    def _agree_on_loss(self, loss: float) -> float:
        """The mean loss over all processes, before anything is updated; also spreads a request to stop.

        Raises:
            NonFiniteError: on every process alike, if the loss of any is NaN or infinite.
        """
        total, signalled = self.rank.sum(loss, self.signalled)
        self.stopping = signalled > 0
        mean = total / self.rank.world_size
        if not math.isfinite(mean):
            raise NonFiniteError(f"the loss is {mean}")
        return mean

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
        """Write a checkpoint of the state after `self.step` steps, unless there is one."""
        if self.step == self.saved_step:
            return
        weights, moments = gather_state(self.engine, keep=self.rank.is_main)

        def write() -> None:
            info = checkpoints.CheckpointInfo(
                step=self.step,
                samples=self.samples,
                tokens=self.samples * self.config.model.context_length,
                seed=self.config.seed,
                model=self.config.model.to_dict(),
                data_fingerprint=self.manifest.fingerprint,
                tokenizer_sha256=self.manifest.tokenizer_sha256,
            )
            checkpoints.save_checkpoint(
                self.config.out, info, weights, moments, self.manifest.tokenizer_path, self.config.keep_checkpoints
            )

        self.rank.on_main(write)
        self.saved_step = self.step

    def fail(self, reason: str) -> str:
        """Save the last good step after a failure that touched nothing; returns what to tell the user."""
        if self.step > 0:
            self._save()
        if self.rank.is_main:
            self.mlflow.finish("FAILED")
        saved = f"; step {self.step}, the last good one, is saved in {self.config.out}" if self.step else ""
        mend = "lower optimizer.lr or look at the data, then continue with --resume auto"
        return f"{reason} at step {self.step + 1}{saved}; {mend}"

    def request_stop(self, *_: Any) -> None:
        """Signal handler: finish the step, save, end."""
        self.signalled = True

    def _announce(self) -> None:
        config, model = self.config, self.engine.module
        self._say(
            f"{config.model.attention}: {model.num_parameters():,} parameters | {config.steps} steps of "
            f"{config.global_batch_size * config.model.context_length:,} tokens | {self.rank.world_size} processes on "
            f"{self.rank.device.type} | ZeRO {self.engine.zero_optimization_stage()} | from step {self.step}"
        )

    def _say(self, line: str) -> None:
        if self.rank.is_main:
            print(line, flush=True)


def train(config: RunConfig) -> None:
    """Run `config` on this process. Raises UserError, ConfigError, or SystemExit after a non-finite loss."""
    config, manifest = check_run(config, world_size_from_environment())
    rank = join_process_group()
    if rank.device.type == "cpu":
        keep_freed_memory()
    rank.on_main(lambda: manifest.verify(["train", "validation"]))
    trainer = Trainer(config, manifest, rank)
    for number in (signal.SIGTERM, signal.SIGUSR1):  # SIGUSR1 is what Slurm's srun passes on
        signal.signal(number, trainer.request_stop)
    try:
        trainer.run()
    except NonFiniteError as error:
        message = trainer.fail(str(error))
        sys.exit(f"error: {message}" if rank.is_main else 1)
    finally:
        torch.distributed.destroy_process_group()


def main() -> None:
    """The command; only the main process reports a user's mistake."""
    logging.getLogger("DeepSpeed").setLevel(os.environ.get("MAHA_DEEPSPEED_LOG", "WARNING"))
    # the deepspeed launcher adds --local_rank, which we read from the environment
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    with user_errors(ConfigError, quiet=rank_from_environment() != 0):
        train(parse_config(arguments))


if __name__ == "__main__":
    main()
