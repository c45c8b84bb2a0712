"""RUN/run.json: the MLflow run of a folder, and the folder that it belongs to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from data_pipeline.files import atomic_write


@dataclass(frozen=True)
class RunMarker:
    """The content of run.json."""

    run_id: str
    """Of the MLflow run."""
    original: str | None
    """The folder that the file was written for, if this one is a copy of it."""


def marker_path(run: Path) -> Path:
    """Where the file is."""
    return run / "run.json"


def read_marker(run: Path) -> RunMarker | None:
    """None in a folder without one. Raises UserError if the file is damaged.

    A folder is the one that the file was written for if it has its path, or its inode: then it was renamed, or is
    mounted elsewhere. A file of an earlier version names no folder and belongs to the one in which it lies.
    """
    path = marker_path(run)
    try:
        values = json.loads(path.read_bytes())
        run_id, folder, inode = values["mlflow_run_id"], values.get("folder"), values.get("inode")
        if not isinstance(run_id, str):
            raise TypeError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it to report into a new MLflow run") from error
    own = _identity(run)
    copied = folder is not None and folder != own["folder"] and inode != own["inode"]
    return RunMarker(run_id, folder if copied else None)


def write_marker(run: Path, run_id: str) -> None:
    """Name the MLflow run of this folder, unless the file does so already."""
    run.mkdir(parents=True, exist_ok=True)
    path, content = marker_path(run), json.dumps({"mlflow_run_id": run_id, **_identity(run)}).encode()
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path) as file:
            file.write(content)


def _identity(run: Path) -> dict[str, Any]:
    return {"folder": str(run.resolve()), "inode": run.stat().st_ino}
