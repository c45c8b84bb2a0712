"""Where a run's values go: the console, metrics.jsonl (every step), MLflow and TensorBoard (every logged step)."""

import dataclasses
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maha_model import ScaleWeights
from pretrain.callbacks.base import Callback, StepResult
from pretrain.callbacks.event_files import EventFiles
from pretrain.callbacks.metrics_file import MetricsFile, read_metrics
from pretrain.callbacks.mlflow_run import MLflowRun
from pretrain.callbacks.settings import change_tags, changed_settings, described, write_settings
from pretrain.callbacks.starts import write_start
from pretrain.callbacks.throughput import StepWork, Throughput, device_peak_flops, peak_memory_bytes
from pretrain.config import RunConfig
from pretrain.distributed import Rank
from pretrain.engine import whole_shape

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

_LARGEST_EXPONENT = math.log(sys.float_info.max)


class Tracking(Callback):
    """Prints and writes down steps, evaluations, skipped batches and spikes. For the main process alone."""

    def __init__(self, config: RunConfig, rank: Rank, resumed_step: int) -> None:
        """Open the MLflow run and the metrics file, write config.yaml, print what differs from the one before.

        Raises:
            UserError: if the store cannot be used; neither file is touched then.
        """
        former, changes = list(read_metrics(config.out, resumed_step)), changed_settings(config)
        earlier = [(line["step"], line["changed"]) for line in former if "changed" in line]
        tags = change_tags([*earlier, (resumed_step, changes)] if changes else earlier)
        self._mlflow = MLflowRun(config.out, config.experiment, dataclasses.asdict(config), _history(former), tags)
        self._metrics = MetricsFile(config.out, resumed_step)
        self._events = EventFiles(config.out, resumed_step) if config.tracking.tensorboard else None
        if changes:
            rank.print(f"changed from step {resumed_step} on: {described(changes)}")
            self._metrics.log(resumed_step, changed=changes)
        write_settings(config)
        peak = device_peak_flops(rank.device) * rank.world_size
        self._throughput = Throughput(StepWork(config), peak)

    def on_start(self, trainer: "Trainer") -> None:
        """Write down the start; print what is trained on what."""
        config, engine, rank = trainer.config, trainer.engine, trainer.rank
        write_start(config.out, trainer.progress.step, rank.world_size)
        parameters = sum(whole_shape(parameter).numel() for parameter in engine.module.parameters())
        shared = f", {config.context_parallel} to a window" if config.context_parallel > 1 else ""
        upto = "up to " if config.batch_warmup.steps else ""
        rank.print(
            f"{config.model.attention}: {parameters:,} parameters | {config.steps} steps of {upto}"
            f"{config.global_batch_size * config.model.context_length:,} tokens | {rank.world_size} processes on "
            f"{rank.device.type}{shared} | ZeRO {engine.zero_optimization_stage()} | from step {trainer.progress.step}"
        )

    def on_step_start(self, trainer: "Trainer") -> None:
        """Start the step's clock."""
        self._throughput.start_step()

    def on_step_skipped(self, trainer: "Trainer", fault: str) -> None:
        """Write down why the batch was skipped."""
        self._metrics.log(trainer.progress.step + 1, skipped=fault)

    def on_step_end(self, trainer: "Trainer", result: StepResult) -> None:
        """Write down the step; print and track it every log_interval steps."""
        config, step = trainer.config, trainer.progress.step
        self._throughput.end_step(step - 1)
        values = {
            "loss": result.loss,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "tokens": trainer.progress.samples * config.model.context_length,
        }
        if step % config.log_interval and step != config.steps:
            self._metrics.log(step, **values)
            return
        speed = self._throughput.read(step)
        eta = int(speed["eta_s"])
        values |= {**speed, "peak_memory_bytes": peak_memory_bytes(trainer.rank.device)}
        self._metrics.log(step, **values)
        self._log_point(step, values)
        trainer.rank.print(
            f"step {step}/{config.steps} | loss {result.loss:.4f} | lr {result.lr:.2e} | grad {result.grad_norm:.2f} | "
            f"{speed['tokens_per_s']:,.0f} tok/s | MFU {speed['mfu']:.1%} | "
            f"mem {values['peak_memory_bytes'] / 2**30:.2f} GiB | ETA {eta // 3600}:{eta // 60 % 60:02}:{eta % 60:02}"
        )

    def on_evaluation(self, trainer: "Trainer", loss: float, layers: list[ScaleWeights]) -> None:
        """Write down, track and print the validation loss; write down and track the weights of the scales."""
        step, weights = trainer.progress.step, [layer._asdict() for layer in layers]
        self._metrics.log(step, eval_loss=loss, scale_weights=weights)
        self._log_point(step, _evaluation_points(loss, weights))
        perplexity = math.inf if loss > _LARGEST_EXPONENT else math.exp(loss)
        trainer.rank.print(
            f"step {step}/{trainer.config.steps} | validation loss {loss:.4f} (perplexity {perplexity:.1f})"
        )

    def on_spike(self, trainer: "Trainer", score: float, rolled_back_from: int | None) -> None:
        """Write down the spike; after a rollback the steps that it has undone leave the file."""
        step = trainer.progress.step
        if rolled_back_from is None:
            self._metrics.log(step, spike=score)
            return
        self._metrics = MetricsFile(trainer.config.out, step)
        if self._events:
            self._events.close()
            self._events = EventFiles(trainer.config.out, step)
        self._metrics.log(step, spike=score, rolled_back_from=rolled_back_from)

    def on_save(self, trainer: "Trainer") -> None:
        """Send the points that wait, so that a run that continues from the checkpoint has no gap."""
        self._mlflow.send()

    def on_finish(self, trainer: "Trainer") -> None:
        """Print the end; mark the MLflow run FINISHED, or KILLED before its last step."""
        step, config = trainer.progress.step, trainer.config
        trainer.rank.print(f"{'stopped' if step < config.steps else 'finished'} at step {step}: {config.out}")
        self._finish("FINISHED" if step == config.steps else "KILLED")

    def on_failure(self, trainer: "Trainer") -> None:
        """Mark the MLflow run FAILED."""
        self.mark_failed()

    def mark_failed(self) -> None:
        """Mark the MLflow run FAILED; for a process that has lost the others."""
        self._finish("FAILED")

    def _log_point(self, step: int, values: dict[str, Any]) -> None:
        self._mlflow.log(step, **values)
        if self._events:
            self._events.log(step, **values)

    def _finish(self, status: str) -> None:
        if self._events:
            self._events.close()
        self._mlflow.finish(status)


def _evaluation_points(loss: float, weights: list[dict[str, Any]]) -> dict[str, Any]:
    points: dict[str, Any] = {"eval_loss": loss}
    for number, layer in enumerate(weights):
        points |= {f"layer{number}/scale{scale}": weight for scale, weight in enumerate(layer["mean"])}
        points |= {f"layer{number}/entropy": layer["entropy"], f"layer{number}/zeros": layer["zeros"]}
    return points


def _history(lines: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    """The points that MLflow has of these lines of metrics.jsonl: of evaluations and of the steps that are tracked."""
    for line in lines:
        if "eval_loss" in line:
            yield line["step"], _finite(_evaluation_points(line["eval_loss"], line.get("scale_weights", [])))
        elif "peak_memory_bytes" in line:
            yield line["step"], _finite({name: value for name, value in line.items() if name != "step"})


def _finite(points: dict[str, Any]) -> dict[str, float]:
    """Of NaN and infinity the file has null, and MLflow no point."""
    return {name: value for name, value in points.items() if value is not None}
