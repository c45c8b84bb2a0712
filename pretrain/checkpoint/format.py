"""What a checkpoint is: the files of its folder and the index that names and checksums them.

    RUN/checkpoints/step-00000100/
        checkpoint.json                     step, model configuration, data and tokenizer identity, where each tensor's
                                            elements are, checksums of the other files; written last
        rank-00000-of-00004.safetensors     what rank 0 held: float32 weights and the optimiser's moments, in flat
                                            ranges
        rank-00001-of-00004.safetensors     ...
        tokenizer.model                     the data set's tokenizer, or tokenizer.json

A range of the parameter NAME that begins at its element START (of the parameter as a flat row) is three tensors:
"NAME@START", "NAME.exp_avg@START" and "NAME.exp_avg_sq@START", of a matrix that Muon updates two: "NAME@START" and
"NAME.momentum_buffer@START".

Whole tensors, without the index's list of ranges, are in an export (pretrain.export), in model.safetensors or shards of
it, and in checkpoints of format 1, up to November 2026: model.safetensors and optimizer.safetensors.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from data_pipeline.tokenizer import TOKENIZERS

FORMAT = 2
INDEX = "checkpoint.json"
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
SHARDS = "model.safetensors.index.json"
"""In an export of several files: which tensor is in which, as transformers reads it."""
CONFIG = "config.json"
"""The model's configuration, in exports only (a checkpoint's index has it)."""
ADAPTER = "adapter_config.json"
"""What peft saves of an adapter, without the model that it belongs to."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, beside each weight."""
MUON_MOMENTS = ("momentum_buffer",)
"""Muon's, beside each weight that it updates."""
_NUMBERED = re.compile(r"(rank|model)-\d{5,}-of-\d{5,}\.safetensors")


def part_name(rank: int, world_size: int) -> str:
    """The file of one rank's share."""
    return f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


def stored_name(name: str, moment: str = "") -> str:
    """Of a parameter's weights, or of one of its moments."""
    return f"{name}.{moment}" if moment else name


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
    """Of the data set, or of the stages of the mixture that had begun."""
    tokenizer_sha256: str
    """Of the tokenizer's model file."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the last steps, oldest first: a loss spike is judged by them."""
    spikes: int = 0
    """Loss spikes in a row up to this step."""
    passed_over: int = 0
    """Batches among `samples` that were passed over: by --skip_batches, or by going back before a loss spike."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Of a run that was started from weights (`init_from`): the step, tokens and data fingerprint of their checkpoint,
    and the origin of that, if it has one."""
    longest_save: float = 0.0
    """Seconds that the longest save of the run before this one has taken: so long before a limit the run stops."""
    optimizer: str = "adamw"
    """The name of the optimiser whose moments it has."""
    packing: str = "stream"
    """How its windows were made of documents: `samples` counts such."""
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
        if values["format"] not in range(1, FORMAT + 1):
            raise UserError(f"{path} is of checkpoint format {values['format']}; this version reads 1 to {FORMAT}")
        if sealed(values) != values:
            raise UserError(f"{path / INDEX} is damaged: its content does not match its own checksum")
        known = {WEIGHTS, OPTIMIZER, *TOKENIZERS, CONFIG, SHARDS}
        tensors = {name for name in values["files"] if name in (WEIGHTS, OPTIMIZER) or _NUMBERED.fullmatch(name)}
        if not values["files"].keys() & set(TOKENIZERS) or not tensors or values["files"].keys() - known - tensors:
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
