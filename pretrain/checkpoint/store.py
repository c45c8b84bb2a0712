"""Checkpoints on disk: written whole or not at all, pruned, found, verified."""

import errno
import itertools
import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from data_pipeline import UserError, user_path
from data_pipeline.files import atomic_write, sha256_of, sync
from pretrain.checkpoint.format import (
    FORMAT,
    INDEX,
    OPTIMIZER,
    TOKENIZER,
    WEIGHTS,
    CheckpointInfo,
    read_index,
    read_info,
    sealed,
)
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

    Those of multiples of `keep_every` steps stay too (0: none), and those that were saved as such under another
    `keep_every`, and those of later steps. What killed saves have left goes first, to make room.

    Raises:
        OSError: if it cannot be written, or there is one of this step; what was written is removed and the other
            checkpoints are untouched.
    """
    final = _folder(run) / f"step-{info.step:08d}"
    info = replace(info, kept=_is_multiple(info.step, keep_every))
    _remove_unfinished(run)
    write_checkpoint(final, info, {WEIGHTS: weights, OPTIMIZER: moments}, {TOKENIZER: tokenizer.read_bytes()})
    earlier = [path for path in _steps(run) if _step(path) < info.step]
    for old in earlier[keep - 1 :]:
        if not (_is_multiple(_step(old), keep_every) or _may_be_kept(old)):
            shutil.rmtree(old)
    return final


def write_checkpoint(
    final: Path, info: CheckpointInfo, tensors: dict[str, dict[str, Tensor]], others: dict[str, bytes]
) -> None:
    """Write the folder `final` with these files and their index: under another name, made durable, then renamed.

    Raises:
        OSError: if it cannot be written, nothing is left of it; or if `final` exists, which stays as it is.
    """
    if final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
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


def whole_later(run: Path, step: int) -> list[Path]:
    """The whole checkpoints of a run of later steps than `step`, newest first; checksums are verified."""
    return [path for path in _later(run, step) if _is_whole(path)]


def prepare_to_continue(run: Path, step: int) -> None:
    """Tidy the checkpoints of a run that is about to continue from that of `step` (0: to start).

    What killed saves have left is removed. Damaged checkpoints of later steps stay, renamed to step-N.damaged, which is
    no checkpoint's name: their steps will be saved again, and pruning counts whole ones only. Call it while nothing is
    being saved.
    """
    _remove_unfinished(run)
    for path in _later(run, step):
        if not _is_whole(path):
            names = (f"{path.name}.damaged{number or ''}" for number in itertools.count())
            aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
            path.rename(aside)
            print(f"warning: kept the damaged {path} as {aside.name}; remove it when it is of no use", file=sys.stderr)


def verify_checkpoint(path: Path) -> None:
    """Check sizes and checksums. Raises UserError naming the damaged file."""
    for name, expected in read_index(path)["files"].items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing")
        if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
            raise UserError(f"{file} is damaged: its size or checksum is not the one in {INDEX}")


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify_checkpoint(checkpoint)
    except UserError:
        return False
    return True


def _is_multiple(step: int, keep_every: int) -> bool:
    return keep_every > 0 and step % keep_every == 0


def _may_be_kept(checkpoint: Path) -> bool:
    """Whether it was saved to stay for good; also if that can no longer be read."""
    try:
        return read_info(checkpoint).kept
    except UserError:
        return True


def _remove_unfinished(run: Path) -> None:
    for left in _folder(run).glob(".step-" + 8 * "[0-9]" + ".tmp"):
        shutil.rmtree(left)


def _folder(run: Path) -> Path:
    return run / "checkpoints"


def _steps(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first."""
    return sorted(_folder(run).glob("step-" + 8 * "[0-9]"), reverse=True)


def _later(run: Path, step: int) -> list[Path]:
    return [path for path in _steps(run) if _step(path) > step]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
