"""What the trainer and its checkpoints cost, and what torch.compile brings: python eval/bench_training.py --data DATA.

One process on this machine, the model and batch of pretrain/configs/sample.yaml. A trainer's step (DeepSpeed, the loss
reduced over processes, clipping, metrics, MLflow) and a bare loop's (the same model, micro-batches, AdamW, clipping)
take turns; so do steps beside which a checkpoint is written and steps without one.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_pipeline import CommandParser, user_errors
from eval.bench.criteria import Criterion, best_times, print_report
from maha_model import CausalLM, ConfigError
from pretrain.memory import keep_freed_memory
from pretrain.session import Batch, Checkpointing, RunConfig, Trainer, build_optimizer, parse_config, training_session

STEPS = 30
SAVES, STEPS_BESIDE_A_SAVE, STEPS_PER_SAVE = 8, 8, 100
EVERY_STEP_LOGGED = ["--log_interval", "1"]
ONLY_STEPS = ["--steps", "1000", "--eval_interval", "1000", "--checkpoint_interval", "1000", "--spike_threshold", "0"]
CONFIG = Path(__file__).parent.parent.parent / "pretrain" / "configs" / "sample.yaml"


class Stopwatch:
    """Seconds spent in the calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.spent = function, 0.0

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        start = time.perf_counter()
        result = self.function(*args)
        self.spent += time.perf_counter() - start
        return result


def bare_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch],
    clip: float,
) -> None:  # fmt: skip
    """One step as one would write it without a trainer."""
    for batch in batches:
        (model(*batch.inputs).loss / len(batches)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


def bench_trainer(trainer: Trainer) -> dict[str, float]:
    """Seconds per step of trainer and bare loop, and of the trainer's waiting for data."""
    config = trainer.config
    data = Stopwatch(trainer.batches)
    trainer.batches = data
    model = CausalLM(config.model)
    optimizer = build_optimizer(model, config.optimizer, clips=False, width_ratio=config.model.width_ratio)
    bare = functools.partial(bare_step, model, optimizer, data(0, config.global_batch_size), config.optimizer.grad_clip)
    watches = {"trainer": Stopwatch(trainer.train_step), "bare loop": Stopwatch(bare)}
    for step in range(STEPS + 2):
        if step == 2:  # warm
            data.spent = 0.0
            for watch in watches.values():
                watch.spent = 0.0
        for watch in watches.values():
            watch()
    return {name: watch.spent / STEPS for name, watch in watches.items()} | {"data": data.spent / STEPS}


def bench_saving(trainer: Trainer) -> dict[str, float]:
    """Seconds that a checkpoint adds to the steps beside it until it is whole, and those that training waits for it."""
    checkpointing = trainer.callback(Checkpointing)
    spent: dict[bool, list[float]] = {True: [], False: []}
    waits = []
    for number in range(2 * SAVES):
        start = time.perf_counter()
        if saves := number % 2 == 0:
            checkpointing.save(trainer)
            waits.append(time.perf_counter() - start)
        for _ in range(STEPS_BESIDE_A_SAVE):
            trainer.train_step()
        checkpointing.wait(trainer)
        spent[saves].append(time.perf_counter() - start)
    cost = statistics.median(spent[True]) - statistics.median(spent[False])
    return {"cost": cost, "waiting": statistics.median(waits)}


def bench_compiled(config: RunConfig) -> dict[str, float]:
    """Seconds of forward + backward of one micro-batch, eager and compiled whole, and of the compilation."""
    torch.manual_seed(0)
    model = CausalLM(config.model)
    tokens = torch.randint(config.model.vocab_size, (config.micro_batch_size, config.model.context_length + 1))
    compiled = torch.compile(model, fullgraph=True)

    def step(model: Callable[..., Any]) -> None:
        model(tokens[:, :-1], tokens[:, 1:]).loss.backward()

    start = time.perf_counter()
    step(compiled)
    spent = time.perf_counter() - start
    times = best_times({"eager": lambda: step(model), "compiled": lambda: step(compiled)}, seconds=4.0)
    return {**times, "compilation": spent}


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set made by data_pipeline.prepare")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    keep_freed_memory()
    with user_errors(ConfigError), tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/runs/bench"
        options = ["--config", str(CONFIG), "--data", arguments.data, "--out", out, *EVERY_STEP_LOGGED, *ONLY_STEPS]
        with training_session(parse_config(options)) as subject:
            config = subject.config
            trainer = bench_trainer(subject)
            saving = bench_saving(subject)
            subject.finish()
    model = bench_compiled(config)
    criteria = [
        Criterion("a trainer's step over a bare loop's", trainer["trainer"] / trainer["bare loop"], 1.05),
        Criterion("waiting for data, share of the step", trainer["data"] / trainer["trainer"], 0.01),
        Criterion(
            "a save every 100 steps, share of the run", saving["cost"] / (STEPS_PER_SAVE * trainer["trainer"]), 0.02
        ),
        Criterion("a compiled model's step over the eager one's", model["compiled"] / model["eager"], 1),
    ]
    lines = [f"{name:12}{1e3 * seconds:>10.2f} ms a step" for name, seconds in trainer.items()]
    lines += [f"{name:12}{1e3 * model[name]:>10.2f} ms a micro-batch" for name in ("eager", "compiled")]
    lines += [f"a checkpoint{1e3 * saving['cost']:>10.2f} ms in all, {1e3 * saving['waiting']:.2f} of them waiting"]
    lines += [f"compilation {model['compilation']:>10.1f} s"]
    details = {
        "threads": torch.get_num_threads(),
        "trainer_seconds": trainer,
        "saving_seconds": saving,
        "model_seconds": model,
    }
    print_report(lines, criteria, details, arguments.json)


if __name__ == "__main__":
    main()
