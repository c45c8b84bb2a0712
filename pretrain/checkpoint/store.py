"""Checkpoints on disk: whole or absent, checksummed, free of pickle, readable without DeepSpeed.

    RUN/checkpoints/step-00000100/
        checkpoint.json        step, model configuration, data and tokenizer identity, checksums of the other files
        model.safetensors      float32 weights by parameter name
        optimizer.safetensors  Adam's moments by parameter name
        tokenizer.model        the data set's tokenizer

An export (pretrain.export) is the same folder without the optimiser's state and with config.json.
This is the module that evaluation imports; it knows neither DeepSpeed nor MLflow.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from data_pipeline import UserError
from data_pipeline.files import atomic_write, sha256_of, sync
from maha_model import CausalLM, ConfigError, ModelConfig

FORMAT = 1
_INDEX = "checkpoint.json"
WEIGHTS, OPTIMIZER, TOKENIZER = "model.safetensors", "optimizer.safetensors", "tokenizer.model"
CONFIG = "config.json"
"""The model's configuration, in exports only (a checkpoint's index has it)."""


@dataclass
class CheckpointInfo:
    """What a checkpoint says of itself."""

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
    """Of the last steps, oldest first: what a loss spike is told by."""


def save_checkpoint(
    run: Path,
    info: CheckpointInfo,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    tokenizer: Path,
    keep: int,
    keep_every: int = 0,
) -> Path:
    """Write a checkpoint under a temporary name, make it durable, rename it; then drop all but the newest `keep`.

    Those of multiples of `keep_every` steps stay too (0: none). Later checkpoints, damaged or of a branch that the run
    has left by resuming an earlier one, are dropped.

    Raises:
        OSError: if it cannot be written; what was written is removed and earlier checkpoints are untouched.
    """
    final = _folder(run) / f"step-{info.step:08d}"
    write_checkpoint(final, info, {WEIGHTS: weights, OPTIMIZER: moments}, {TOKENIZER: tokenizer.read_bytes()})
    newest_first = _steps(run)
    at = newest_first.index(final)
    old = [path for path in newest_first[at + keep :] if not (keep_every and _step(path) % keep_every == 0)]
    for other in newest_first[:at] + old:
        shutil.rmtree(other)
    return final


def write_checkpoint(
    final: Path, info: CheckpointInfo, tensors: dict[str, dict[str, Tensor]], others: dict[str, bytes]
) -> None:
    """Write the folder `final` with these files and their index: under another name, made durable, then renamed.

    Raises:
        OSError: if it cannot be written; nothing is left of it.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, content in tensors.items():
            safetensors.torch.save_file(content, temporary / name)
            (temporary / name).chmod(temporary.stat().st_mode & 0o666)  # the library's is its owner's alone
        for name, data in others.items():
            (temporary / name).write_bytes(data)
        files = {}
        for path in (temporary / name for name in (*tensors, *others)):
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        with atomic_write(temporary / _INDEX) as file:
            file.write(json.dumps(sealed({"format": FORMAT, **asdict(info), "files": files}), indent=1).encode())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync(final.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, safetensors.SafetensorError) and "No space left" in str(error):  # the library's ENOSPC
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary)) from error
        raise


def find_checkpoint(path: str | Path) -> Path:
    """The newest whole checkpoint of a run, or `path` itself if it is a checkpoint; checksums are verified.

    A damaged newest checkpoint is passed over with a warning on stderr that names the file.

    Raises:
        UserError: if there is no whole checkpoint.
    """
    path = Path(path)
    if (path / _INDEX).is_file():
        verify_checkpoint(path)
        return path
    if not path.is_dir():
        raise UserError(f"checkpoint {path} does not exist; give a run's folder or one of its checkpoints")
    damage = None
    for candidate in _steps(path):
        try:
            verify_checkpoint(candidate)
        except UserError as error:
            damage = error
            print(f"warning: passing over a damaged checkpoint: {error}", file=sys.stderr)
        else:
            return candidate
    if damage:
        raise UserError(f"{path} has no whole checkpoint left; the last one found: {damage}")
    raise UserError(f"{path} holds no checkpoint; give a run's folder or one of its checkpoints")


def has_checkpoint(run: Path) -> bool:
    """Whether the run has any checkpoint, whole or damaged."""
    return bool(_steps(run))


def verify_checkpoint(path: Path) -> None:
    """Check sizes and checksums. Raises UserError naming the damaged file."""
    for name, expected in _index(path)["files"].items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing")
        if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
            raise UserError(f"{file} is damaged: its size or checksum is not the one in {_INDEX}")


def read_info(path: Path) -> CheckpointInfo:
    """What checkpoint.json says. Raises UserError if it is damaged."""
    values = _index(path)
    try:
        older: dict[str, Any] = {"recent_losses": []}  # what checkpoints of this format did not always have
        return CheckpointInfo(**{name: {**older, **values}[name] for name in CheckpointInfo.__dataclass_fields__})
    except KeyError as error:
        raise UserError(f"{path / _INDEX} is damaged: no {error}") from error


def load_model(path: Path, device: str | torch.device = "cpu") -> CausalLM:
    """The model of a checkpoint, in evaluation mode. Raises UserError if it is damaged or of an unknown model."""
    info, weights = read_info(path), read_weights(path)
    layers = info.model.get("num_layers") if isinstance(info.model, dict) else None
    if not isinstance(layers, int) or layers > len(weights):  # before anything is made from the number
        raise UserError(f"{path / WEIGHTS} is of another model than its configuration says")
    with torch.device("meta"):
        _check_shapes(model_from(info), weights, path)
    model = model_from(info)
    load_weights(model, path)
    return model.to(device).eval()


def model_from(info: CheckpointInfo) -> CausalLM:
    """A fresh model of the checkpoint's configuration. Raises UserError if this version does not know it."""
    try:
        return CausalLM(ModelConfig.from_dict(info.model))
    except (ConfigError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise UserError(f"the checkpoint is of a model that this version does not know: {error}") from error


def load_weights(model: CausalLM, path: Path) -> dict[str, Tensor]:
    """Copy a checkpoint's weights into `model` and return them. Raises UserError if they belong to another model."""
    weights = read_weights(path)
    _check_shapes(model, weights, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return weights


def _check_shapes(model: CausalLM, weights: dict[str, Tensor], path: Path) -> None:
    own = dict(model.named_parameters())
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        raise UserError(f"{path / WEIGHTS} is of another model than its configuration says")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Float32 weights by parameter name. Raises UserError if the file is damaged."""
    return _read_tensors(path / WEIGHTS)


def read_moments(path: Path) -> dict[str, Tensor]:
    """Adam's moments by "name.exp_avg" and "name.exp_avg_sq". Raises UserError if `path` has none or damaged ones."""
    if not (path / OPTIMIZER).exists():
        raise UserError(f"{path} is an export, without the optimiser's state; continue from the run it was made of")
    return _read_tensors(path / OPTIMIZER)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _index(path: Path) -> dict[str, Any]:
    try:
        values = json.loads((path / _INDEX).read_bytes())
        if values["format"] != FORMAT:
            raise UserError(f"{path} is of checkpoint format {values['format']}; this version reads {FORMAT}")
        if sealed(values) != values:
            raise UserError(f"{path / _INDEX} is damaged: its content does not match its own checksum")
        names = values["files"].keys()
        if not {WEIGHTS, TOKENIZER} <= names <= {WEIGHTS, OPTIMIZER, TOKENIZER, CONFIG}:
            raise UserError(f"{path / _INDEX} is damaged: it does not list every file")
        if any({"bytes", "sha256"} != entry.keys() for entry in values["files"].values()):
            raise UserError(f"{path / _INDEX} is damaged: a file has no size or checksum")
    except OSError as error:
        raise UserError(f"{path} is not a checkpoint ({_INDEX}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / _INDEX} is damaged") from error
    return values


def sealed(index: dict[str, Any]) -> dict[str, Any]:
    """The index with a checksum of all else that is in it."""
    content = {name: value for name, value in index.items() if name != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _folder(run: Path) -> Path:
    return run / "checkpoints"


def _steps(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first."""
    return sorted(_folder(run).glob("step-" + 8 * "[0-9]"), reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
