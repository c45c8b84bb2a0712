"""Checksums of a data set's files, not computed again while the files stay as they were found whole."""

import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write, sha256_of

RECORD = ".verified.json"
"""Beside the data: for every file found whole its size, times of modification and change (ns) and inode."""
_SETTLED = 2 * 10**9  # ns; a younger file can change once more without another modification time
_READERS = 8  # files that are read at a time, on as many cores: beyond that the disk is the limit


def check_files(expected: dict[Path, str], folder: Path, key: str, again: bool) -> None:
    """Compare files with their SHA-256; those that RECORD holds unchanged, under this key, only if `again`.

    Raises:
        UserError: naming the first file that is missing or damaged.
    """
    record = _read_record(folder, key)
    whole, states = dict(record), {}
    for path in expected:
        if not path.is_file():
            raise UserError(f"{path} is missing; prepare the data again")
        now, state = time.time_ns(), _state(path)
        if again or record.get(path.name) != state:
            states[path] = now, state
    with ThreadPoolExecutor(min(_READERS, len(os.sched_getaffinity(0)))) as pool:
        try:
            for (path, (now, state)), sha256 in zip(states.items(), pool.map(sha256_of, states), strict=True):
                if sha256 != expected[path]:
                    with contextlib.suppress(OSError):
                        (folder / RECORD).unlink(missing_ok=True)
                    raise UserError(
                        f"{path} is damaged: its checksum is not the one in its manifest; prepare the data again"
                    )
                if state[1] < now - _SETTLED and state == _state(path):
                    whole[path.name] = state
        finally:
            pool.shutdown(cancel_futures=True)
    if whole != record and not again:
        # Data can lie where nothing can be written, and several runs can start at once: a record that is lost costs
        # one more verification.
        with contextlib.suppress(OSError), atomic_write(folder / RECORD) as file:
            file.write(json.dumps({"fingerprint": key, "files": whole}).encode())


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]  # the last cannot be set back


def _read_record(folder: Path, key: str) -> dict[str, list[int]]:
    try:
        record = json.loads((folder / RECORD).read_bytes())
        return dict(record["files"]) if record["fingerprint"] == key else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
