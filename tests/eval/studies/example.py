"""A small study, and runs of it finished without training."""

import json
import math
from pathlib import Path

import yaml

from eval.studies.plan import CONFIG, METRICS, PlannedRun, planned_runs
from eval.studies.study import Study

DATA = Path("data")
VALUES = {
    "experiment": "test",
    "vocab_size": 300,
    "tokens": 1024,
    "tokens_per_step": 128,
    "micro_batch_tokens": 64,
    "eval_tokens": 256,
    "base": {"model": {"d_model": 32, "num_heads": 4, "aggregation": {"ridge": 2.0}}, "optimizer": {"warmup_steps": 3}},
    "models": {
        "plain": {"attention": "standard"},
        "convex": {"aggregation": {"domain": "budget"}},
        "gate": {"aggregation": {"strategy": "gate"}},
    },
    "groups": {
        "sweep": {
            "models": ["plain", "convex"], "context_lengths": [32], "tokens": 256, "learning_rates": [0.01, 0.02, 0.04],
        },
        "headline": {
            "models": ["plain", "convex", "gate"], "context_lengths": [32, 128], "seeds": [0, 1, 2],
            "best_of": "sweep", "tuned_as": "convex",
        },
        "timed": {"models": ["plain", "convex"], "context_lengths": [64], "best_of": "sweep", "time_of": "convex"},
    },
    "figures": [
        {"kind": "ratio", "group": "headline", "context_length": 32, "model": "convex", "over": "plain", "limit": 0.9},
        {"kind": "margin", "group": "headline", "context_length": 32, "model": "convex", "over": "gate", "limit": 1},
    ],
}  # fmt: skip


def finish(run: PlannedRun, out: Path, loss: float | None) -> None:
    """Write what the trainer writes of a whole run."""
    run.folder(out).mkdir(parents=True, exist_ok=True)
    (run.folder(out) / CONFIG).write_text(yaml.safe_dump(run.config))
    lines = [{"step": run.config["steps"], "tokens": 1024, "tokens_per_s": 512.0},
             {"step": run.config["steps"], "eval_loss": loss}]  # fmt: skip
    (run.folder(out) / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def finish_sweep(study: Study, out: Path, best: dict[str, float]) -> None:
    for run in planned_runs(study, study.group("sweep"), DATA, out):
        finish(run, out, 3 + abs(math.log(run.learning_rate / best[run.model])))
