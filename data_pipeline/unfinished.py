"""A data set while it is made: in OUT/.partial, moved into OUT when it is whole, its manifest last."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.document_table import table_path
from data_pipeline.errors import ResumableError, UserError
from data_pipeline.files import atomic_write, check_folder, sync
from data_pipeline.indexed_dataset import bin_path, idx_path
from data_pipeline.manifest import MANIFEST, Manifest
from data_pipeline.request import ELSEWHERE, PARTIAL, REQUEST, Request, difference, earlier_request
from data_pipeline.tokenizer import TOKENIZERS


def finished(out: Path, request: Request) -> Manifest | None:
    """The data set in `out`, if there is one. Raises UserError if it is that of another request."""
    if not (out / MANIFEST).exists():
        return None
    manifest = Manifest.load(out, part=True)
    different = difference(manifest.request, request)
    if different:
        raise UserError(f"--out {out} holds another data set ({different}); {ELSEWHERE}")
    shutil.rmtree(out / PARTIAL, ignore_errors=True)  # of a start that was killed just before its end
    return manifest


def made(out: Path, request: Request, make: Callable[[Path], None]) -> Manifest:
    """The data set that `make` makes in the folder it is given, in `out` when it is whole.

    `make` takes up what an interrupted start has left, and writes the manifest last. After a ResumableError, any error
    that is no UserError, or a kill, a second start continues; after another UserError nothing is left.

    Raises:
        UserError: if `out` holds something else, or another process makes it; and what `make` raises.
    """
    check_folder(out)
    existed = out.exists()
    partial = out / PARTIAL
    with _claim(partial, request):
        if not (partial / MANIFEST).exists():
            try:
                make(partial)
            except ResumableError:
                raise
            except UserError:
                shutil.rmtree(partial)
                if not existed:
                    out.rmdir()
                raise
        _publish(partial, out)
    shutil.rmtree(partial)
    return Manifest.load(out, part=True)


def _publish(partial: Path, out: Path) -> None:
    """Move the whole data set into place, its manifest last; a killed move is continued by the next start."""
    kinds = [path(Path("shard")).suffix for path in (bin_path, idx_path, table_path)]
    for path in partial.iterdir():
        if path.name in TOKENIZERS or path.suffix in kinds:
            path.rename(out / path.name)
    sync(out)
    (partial / MANIFEST).rename(out / MANIFEST)
    sync(out)


@contextmanager
def _claim(partial: Path, request: Request) -> Iterator[None]:
    """Start `partial`, or take up an interrupted one of the same request; no other process can meanwhile."""
    out, state = partial.parent, partial / REQUEST
    if state.exists():
        different = difference(earlier_request(out), request)
        if different:
            raise UserError(f"--out {out} holds an unfinished data set ({different}); {ELSEWHERE}")
    elif out.exists() and (not out.is_dir() or any(path != partial for path in out.iterdir())):
        raise UserError(f"--out {out} exists and is not a data set; {ELSEWHERE}")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out} is being prepared by another process; wait for it") from error
        if not state.exists():
            with atomic_write(state) as file:
                file.write(json.dumps(request).encode())
        yield
