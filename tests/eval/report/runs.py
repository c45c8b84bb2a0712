"""Runs that exist in memory alone, for the tests of what is made of runs."""

from pathlib import Path
from typing import Any

from eval.report.runs import Run
from maha_model import ModelConfig
from pretrain.checkpoint import CheckpointInfo


def make_run_in_memory(seed: int = 0, history: list[dict[str, Any]] | None = None, **config: Any) -> Run:
    built = ModelConfig(vocab_size=8, **config)
    settings = {key: value for key, value in built.to_dict().items() if key != "aggregation"}
    settings |= {f"aggregation.{key}": value for key, value in built.to_dict()["aggregation"].items()}
    info = CheckpointInfo(1, 1, 1, seed, built.to_dict(), "data", "tokenizer")
    return Run(f"runs/{seed}", Path("checkpoint"), info, built, settings, history or [])
