"""Which files of a folder are read, and a word on those that are not."""

from collections.abc import Iterator
from pathlib import Path

from data_pipeline.sources.readers import READERS
from data_pipeline.sources.streams import COMPRESSIONS, first_bytes, is_compressed, stem_and_kind

READABLE = f"{', '.join(READERS)} (the last three also with {', '.join(COMPRESSIONS)})"
"""The suffixes that are read, for a message."""
_NAMED = 5  # files of one reason in the line; the others are counted


def select_files(path: Path) -> tuple[list[Path], str]:
    """The readable files at or under `path`, sorted, links followed; and what is left out and why, in words, or ''."""
    files: list[Path] = []
    left_out: dict[str, list[str]] = {}
    for file in files_under(path):
        reason = _reason_against(file)
        if reason:
            left_out.setdefault(reason, []).append(str(file.relative_to(path)) if file != path else file.name)
        else:
            files.append(file)
    return files, listed_by_reason(left_out)


def files_under(path: Path) -> list[Path]:
    """The file `path`, or everything under it but folders, sorted; a link to a folder that it is in is not followed."""
    return [path] if path.is_file() else sorted(_walk(path, frozenset([path.resolve()])))


def irregular(file: Path) -> str:
    """Why one of `files_under` is no file to read, or ''."""
    if file.is_dir():
        return "a link to a folder that it is in"
    if not file.is_file():
        return "a link to nothing" if file.is_symlink() else "no regular file"
    return ""


def listed_by_reason(left_out: dict[str, list[str]]) -> str:
    """Files and why they are left out, in words; of many files of one reason the first."""
    return "; ".join(f"{_listed(names)} ({reason})" for reason, names in left_out.items())


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Everything under a folder but folders; a link to one of the folders `above` it would never end."""
    for entry in folder.iterdir():
        real = entry.resolve() if entry.is_dir() else None
        if real is None or real in above:
            yield entry
        else:
            yield from _walk(entry, above | {real})


def _reason_against(file: Path) -> str:
    if reason := irregular(file):
        return reason
    _, kind = stem_and_kind(file)
    if kind not in READERS:
        return "none of " + ", ".join(READERS)
    if kind == ".parquet" and is_compressed(file):
        return "parquet is compressed inside: unpack it"
    if kind == ".json" and b'"text"' not in first_bytes(file, 2**20):
        return "no field 'text'"  # other JSON beside the data: settings, a package's description
    return ""


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
