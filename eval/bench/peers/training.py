"""The same Transformer trained by this package, by transformers' Trainer and by litgpt, in turns."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_pipeline import UserError, load_data
from eval.bench.criteria import Criterion
from eval.bench.peers.job import check_comparable, make_job
from eval.bench.peers.turns import take_turns
from pretrain.session import parse_config

CONFIG = Path(__file__).parent.parent.parent.parent / "pretrain" / "configs" / "sample_transformer.yaml"
SAME = ["--optimizer.schedule=constant", "--optimizer.warmup_steps=0", "--optimizer.weight_decay=0",
        "--precision=float32", "--spike_threshold=0"]  # fmt: skip
WARM_UP = 3
OURS, OURS_COMPILED = "ours", "ours, compiled"
TRANSFORMERS, TRANSFORMERS_COMPILED, LITGPT = "transformers", "transformers, compiled", "litgpt (compiled)"
PEERS = {TRANSFORMERS: OURS, TRANSFORMERS_COMPILED: OURS_COMPILED, LITGPT: OURS_COMPILED}
"""Each peer, and what of ours it is compared with."""


def trainers(folder: Path, litgpt_python: Path | None) -> dict[str, list[object]]:
    """The command of each trainer for the job in `folder`.

    Args:
        folder: of the job.
        litgpt_python: the Python that has litgpt; None: this one if it does, else there is no command of litgpt.

    Raises:
        UserError: if a given Python cannot be run or has no litgpt that loads.
    """
    module, here = "eval.bench.peers.train_", Path(__file__).parent
    commands: dict[str, list[object]] = {
        OURS: [sys.executable, "-m", f"{module}ours"],
        TRANSFORMERS: [sys.executable, "-m", f"{module}transformers"],
        OURS_COMPILED: [sys.executable, "-m", f"{module}ours"],
        TRANSFORMERS_COMPILED: [sys.executable, "-m", f"{module}transformers"],
    }
    has_it = has_litgpt(litgpt_python or Path(sys.executable))
    if litgpt_python and not has_it:
        raise UserError(
            f"--litgpt-python {litgpt_python} has no litgpt; install it there ({litgpt_python} -m pip install litgpt "
            "requests), or leave the option out to do without that peer"
        )
    if has_it:
        commands[LITGPT] = [litgpt_python or sys.executable, "-P", here / "train_litgpt.py"]
    compiled = {OURS_COMPILED, TRANSFORMERS_COMPILED}
    return {
        name: [*command, folder, folder / f"{name}.json", *(["--compile"] if name in compiled else [])]
        for name, command in commands.items()
    }


def has_litgpt(python: Path) -> bool:
    """Whether this Python has litgpt. Raises UserError if there is no such Python, or litgpt lacks something there."""
    try:  # (litgpt saves through requests, which it does not require)
        result = subprocess.run(
            [python, "-P", "-c", "import litgpt.pretrain, requests"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UserError(
            f"--litgpt-python {python} cannot be run ({error.strerror}); give the path of a Python"
        ) from error
    message = (result.stderr.splitlines() or [""])[-1]
    if result.returncode and message != "ModuleNotFoundError: No module named 'litgpt'":
        raise UserError(
            f"litgpt does not load in --litgpt-python {python} ({message}); install it anew, with what it needs"
        )
    return result.returncode == 0


def check_options(options: list[str], vocab_size: int) -> None:
    """Raises UserError or ConfigError unless `pretrain.train` takes these options and the peers have the model.

    `vocab_size` is that of the text's tokenizer.
    """
    config = parse_config([f"--config={CONFIG}", *SAME, *options])
    check_comparable(config)
    if 0 < config.model.vocab_size < vocab_size:
        raise UserError(
            f"model.vocab_size {config.model.vocab_size} is less than the {vocab_size} tokens of the text's tokenizer; "
            "leave it out"
        )


def bench_training(
    folder: Path, data: Path, options: list[str], turn: int, turns: int, threads: int, commands: dict[str, list[object]]
) -> dict[str, Any]:
    """Let some `trainers` of `folder` train in turns of `turn` steps; `options` are those of pretrain.train.

    Returns:
        Tokens of a turn; of each trainer parameters, losses in nats before and after, and of each turn the seconds and
        the seconds of processors.
    """
    steps = str(2 * (WARM_UP + turn * turns))  # more than are made: none is the last, with its evaluation and its save
    rarely = [f"--{each}={steps}" for each in ("steps", "eval_interval", "checkpoint_interval", "log_interval")]
    vocabulary = f"--model.vocab_size={load_data(data).vocab_size}"
    options = [f"--config={CONFIG}", f"--data={data}", vocabulary, *SAME, *rarely, *options]
    job = make_job(folder, parse_config(options), options, WARM_UP, turn, turns)
    taken = take_turns(commands, turns, threads, folder)
    rows = {}
    for name, each in taken.items():
        seconds, processor = map(list, zip(*each, strict=True))
        result = json.loads((folder / f"{name}.json").read_text())
        rows[name] = {**result, "seconds": seconds, "processor_seconds": processor}
    return {"tokens": job.tokens, "trainers": rows}


def criteria_of(measured: dict[str, Any]) -> list[Criterion]:
    """Our tokens/s over each peer's, at the fastest turns (None of a peer that is missing); whether all train alike."""
    rows = measured["trainers"]
    best = {name: min(row["seconds"]) for name, row in rows.items()}
    speeds = [
        Criterion(
            f"tokens/s of training, {ours} over {peer}",
            best[peer] / best[ours] if {peer, ours} <= set(best) else None, 1.0, at_least=True,
        )
        for peer, ours in PEERS.items()
    ]  # fmt: skip
    parameters = [row["parameters"] for row in rows.values()]
    before, after = zip(*(row["losses"] for row in rows.values()), strict=True)
    return [
        *speeds,
        Criterion("parameters, most over fewest", max(parameters) / min(parameters), 1),
        Criterion("losses of the same weights, greatest over least, less 1", max(before) / min(before) - 1, 1e-5),
        Criterion("the same after training", max(after) / min(after) - 1, 1e-3),
    ]


def lines_of(measured: dict[str, Any]) -> list[str]:
    """A table: parameters, tokens/s at the fastest turn, the same for a second of a processor, losses."""
    columns = f"{'parameters':>12}{'tokens/s':>10}{'a processor':>13}{'loss before':>13}{'after':>10}"
    lines = [f"{'trainer':24}{columns}"]
    for name, values in measured["trainers"].items():
        before, after = values["losses"]
        rate, each = (measured["tokens"] / min(values[clock]) for clock in ("seconds", "processor_seconds"))
        lines.append(f"{name:24}{values['parameters']:>12,}{rate:>10,.0f}{each:>13,.0f}{before:>13.6f}{after:>10.6f}")
    return lines
