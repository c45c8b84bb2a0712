"""What eval/memory.py reports: a configuration's model, every peer of it estimated and measured, ratios."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from data_pipeline.shipped import find_shipped
from data_pipeline.yaml_text import read_yaml
from eval.bench.memory import inference_row, measured_rows, training_rows
from eval.bench.memory_peers import PEERS
from eval.bench.memory_table import paper_gb, ratios
from eval.device import best_device
from maha_model import ModelConfig
from pretrain.memory import DeviceKind

VOCABULARY = 32000
"""What data_pipeline.prepare makes of PG-19."""


def read_model(path: Path, vocab_size: int | None) -> ModelConfig:
    """The model of a run's YAML file, for whose settings all peers can be built.

    Raises:
        UserError: if it cannot be read or has no model.
        ConfigError: if the settings cannot work for the model or one of its peers.
    """
    values = read_yaml(find_shipped(path))
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"--config {path} has no section `model`; give a file like pretrain/configs/paper.yaml")
    config = ModelConfig.from_dict(model)
    base = replace(config, vocab_size=vocab_size or config.vocab_size or VOCABULARY)
    for peer in PEERS.values():
        peer.config(base)
    return base


def memory_report(base: ModelConfig, batch: int, world_sizes: list[int], measured_layers: int) -> dict[str, Any]:
    """JSON-ready rows of all peers, in bytes: `training` by number of GPUs, `inference`, `measured`; and `ratios`.

    A GPU is measured with the whole model, a CPU with the first `measured_layers` layers; 0 leaves `measured` empty.
    """
    training = [row for name in PEERS for row in training_rows(name, base, batch, world_sizes)]
    inference = [inference_row(name, base, batch) for name in PEERS]
    device: DeviceKind = "cuda" if best_device() == "cuda" else "cpu"
    layers = base.num_layers if device == "cuda" else min(base.num_layers, measured_layers)
    measured = []
    if layers:
        part = replace(base, num_layers=layers)
        measured = [row for name in PEERS for row in measured_rows(name, part, batch, device)]
    return {
        "model": base.to_dict(), "batch": batch, "world_sizes": world_sizes, "paper_gb": paper_gb(),
        "training": training, "inference": inference, "ratios": ratios(training, inference), "measured": measured,
    }  # fmt: skip
