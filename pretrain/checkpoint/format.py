"""What a checkpoint is: the files of its folder and the index that names and checksums them.

    RUN/checkpoints/step-00000100/
        checkpoint.json        step, model configuration, data and tokenizer identity, checksums of the other files
        model.safetensors      float32 weights by parameter name
        optimizer.safetensors  Adam's moments by parameter name
        tokenizer.model        the data set's tokenizer

An export (pretrain.export) is the same folder without the optimiser's state and with config.json.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data_pipeline import UserError

FORMAT = 1
INDEX = "checkpoint.json"
WEIGHTS, OPTIMIZER, TOKENIZER = "model.safetensors", "optimizer.safetensors", "tokenizer.model"
CONFIG = "config.json"
"""The model's configuration, in exports only (a checkpoint's index has it)."""


@dataclass
class CheckpointInfo:
    """The index of a checkpoint but for its list of files."""

    step: int
    """Optimiser steps done."""
    samples: int
    """Training windows consumed; the next one has this index in the sample order."""
    tokens: int
    """Training tokens consumed."""
    seed: int
    """Seed of the sample order and, with the step and the rank, of every step's random generators."""
    model: dict[str, Any]
    """ModelConfig as a dict."""
    data_fingerprint: str
    """Of the data set's manifest."""
    tokenizer_sha256: str
    """Of the tokenizer's model file."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the last steps, oldest first: a loss spike is judged by them."""
    spikes: int = 0
    """Loss spikes in a row up to this step."""
    passed_over: int = 0
    """Batches among `samples` that were passed over: by --skip_batches, or by going back before a loss spike."""
    kept: bool = False
    """Whether it stays for good: of a multiple of the `keep_every` of the run that saved it."""


def read_info(path: Path) -> CheckpointInfo:
    """The information in checkpoint.json. Raises UserError if it is damaged."""
    values = read_index(path)
    names = [entry.name for entry in fields(CheckpointInfo)]
    try:
        # checkpoints of this format did not always have the entries that have a default
        return CheckpointInfo(**{name: values[name] for name in names if name in values})
    except TypeError as error:
        missing = next(name for name in names if name not in values)
        raise UserError(f"{path / INDEX} is damaged: no {missing!r}") from error


def read_index(path: Path) -> dict[str, Any]:
    """The whole of checkpoint.json, its own checksum verified. Raises UserError if it is missing or damaged."""
    try:
        values = json.loads((path / INDEX).read_bytes())
        if values["format"] != FORMAT:
            raise UserError(f"{path} is of checkpoint format {values['format']}; this version reads {FORMAT}")
        if sealed(values) != values:
            raise UserError(f"{path / INDEX} is damaged: its content does not match its own checksum")
        names = values["files"].keys()
        if not {WEIGHTS, TOKENIZER} <= names <= {WEIGHTS, OPTIMIZER, TOKENIZER, CONFIG}:
            raise UserError(f"{path / INDEX} is damaged: it does not list every file")
        if any({"bytes", "sha256"} != entry.keys() for entry in values["files"].values()):
            raise UserError(f"{path / INDEX} is damaged: a file has no size or checksum")
    except OSError as error:
        raise UserError(f"{path} is not a checkpoint ({INDEX}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / INDEX} is damaged") from error
    return values


def sealed(index: dict[str, Any]) -> dict[str, Any]:
    """The index with a checksum of all else that is in it."""
    content = {name: value for name, value in index.items() if name != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
