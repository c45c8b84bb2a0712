"""Checkpoints on disk: written whole or not at all, pruned, found, verified."""

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from data_pipeline import UserError, user_path
from data_pipeline.files import sha256_of
from pretrain.checkpoint.draft import Draft
from pretrain.checkpoint.format import ADAPTER, CONFIG, INDEX, CheckpointInfo, part_name, read_index, read_info
from pretrain.checkpoint.parts import Part, Piece, stage, write_part
from pretrain.checkpoint.saved_model import is_saved_model
from pretrain.output import write_line

_HASHED_AT_ONCE = min(32, os.cpu_count() or 1)


def save_checkpoint(
    run: Path, info: CheckpointInfo, pieces: Iterable[Piece], tokenizer: Path, keep: int, keep_every: int = 0
) -> Path:
    """Write a checkpoint of which this process holds every piece; see `begin_checkpoint` and `finish_checkpoint`.

    Raises:
        OSError: if it cannot be written, or there is one of this step; what was written is removed and the other
            checkpoints are untouched.
    """
    draft = begin_checkpoint(run, info.step)
    try:
        parts = [write_part(draft.folder, part_name(0, 1), stage(pieces))]
        return finish_checkpoint(run, draft, info, parts, tokenizer, keep, keep_every)
    except BaseException:
        draft.discard()
        raise


def begin_checkpoint(run: Path, step: int) -> Draft:
    """The folder into which every rank writes its part. What killed saves have left goes first, to make room.

    Raises:
        OSError: if it cannot be made, or there is a checkpoint of this step.
    """
    _remove_unfinished(run)
    return Draft(_folder(run) / f"step-{step:08d}")


def finish_checkpoint(
    run: Path, draft: Draft, info: CheckpointInfo, parts: list[Part], tokenizer: Path, keep: int, keep_every: int = 0
) -> Path:
    """Make a draft that has all parts a checkpoint; then drop all but the newest `keep`.

    Those of multiples of `keep_every` steps stay too (0: none), and those that were saved as such under another
    `keep_every`, and those of later steps.

    Raises:
        OSError: if that fails.
    """
    draft.add(tokenizer.name, tokenizer.read_bytes())
    final = draft.finish(replace(info, kept=_is_multiple(info.step, keep_every)), parts)
    earlier = [path for path in _steps(run) if _step(path) < info.step]
    for old in earlier[keep - 1 :]:
        if not (_is_multiple(_step(old), keep_every) or _may_be_kept(old)):
            shutil.rmtree(old)
    return final


def verify_checkpoint(path: Path, rank: int = 0, ranks: int = 1) -> None:
    """Check the sizes of all files, and checksums: of several processes, each calls it for a part of them.

    Raises:
        UserError: that names the damaged file.
    """
    check_sizes(path)
    files = list(read_index(path)["files"].items())[rank::ranks]

    def verify(item: tuple[str, dict[str, object]]) -> None:
        if sha256_of(path / item[0]) != item[1]["sha256"]:
            raise UserError(f"{path / item[0]} is damaged: its checksum is not the one in {INDEX}{_other_cause(path)}")

    with ThreadPoolExecutor(_HASHED_AT_ONCE) as threads:
        for _ in threads.map(verify, files):
            pass


def check_sizes(path: Path) -> None:
    """Check that every file is there with its size, which takes no time. Raises UserError naming one that is not."""
    for name, expected in read_index(path)["files"].items():
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing")
        if (path / name).stat().st_size != expected["bytes"]:
            raise UserError(f"{path / name} is damaged: its size is not the one in {INDEX}{_other_cause(path)}")


def _other_cause(path: Path) -> str:
    if CONFIG not in read_index(path)["files"]:
        return ""
    return (
        f" (or transformers has saved a model over this export: then remove {INDEX} and export the folder anew, "
        f"python -m pretrain.export {path} --out DIR)"
    )


def find_checkpoint(path: str | Path, verify: Callable[[Path], None] = verify_checkpoint) -> Path:
    """The newest whole checkpoint of a run, or `path` itself if it is a checkpoint; checksums are verified.

    `verify` raises UserError at a damaged one. `~` at the path's begin is the home folder.

    A damaged newest checkpoint is passed over with a warning on stderr that names the file.

    Raises:
        UserError: if there is no whole checkpoint.
    """
    path = user_path(path)
    if (path / INDEX).is_file():
        verify(path)
        return path
    if path.is_file():
        raise UserError(f"checkpoint {path} is a file; give the folder that it is in")
    if not path.is_dir():
        raise UserError(f"checkpoint {path} does not exist; give a run's folder, one of its checkpoints or an export")
    if is_saved_model(path):
        raise UserError(f"{path} was saved by transformers; give what python -m pretrain.export {path} --out DIR makes")
    if (path / ADAPTER).is_file():
        raise UserError(f"{path} is an adapter without its model; merge it (peft: merge_and_unload), save the result")
    damage = None
    for candidate in _steps(path):
        try:
            verify(candidate)
        except UserError as error:
            damage = error
            write_line(f"warning: passing over a damaged checkpoint: {error}", sys.stderr)
        else:
            return candidate
    if damage:
        raise UserError(f"{path} has no whole checkpoint left; the last one found: {damage}")
    raise UserError(f"{path} holds no checkpoint; give a run's folder, one of its checkpoints or an export")


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
