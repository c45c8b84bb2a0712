"""Checkpoints on disk: written whole or not at all, pruned, found, verified."""

import errno
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from data_pipeline import UserError, user_path
from data_pipeline.files import atomic_write, sha256_of, sync
from pretrain.checkpoint.format import FORMAT, INDEX, OPTIMIZER, TOKENIZER, WEIGHTS, CheckpointInfo, read_index, sealed
from pretrain.output import write_line


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
        with atomic_write(temporary / INDEX) as file:
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

    `~` at the path's begin is the home folder.

    A damaged newest checkpoint is passed over with a warning on stderr that names the file.

    Raises:
        UserError: if there is no whole checkpoint.
    """
    path = user_path(path)
    if (path / INDEX).is_file():
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
            write_line(f"warning: passing over a damaged checkpoint: {error}", sys.stderr)
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
    for name, expected in read_index(path)["files"].items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing")
        if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
            raise UserError(f"{file} is damaged: its size or checksum is not the one in {INDEX}")


def _folder(run: Path) -> Path:
    return run / "checkpoints"


def _steps(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first."""
    return sorted(_folder(run).glob("step-" + 8 * "[0-9]"), reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
