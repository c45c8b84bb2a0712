"""What earlier commands left in a suite's folder, read and checked: results of runs, states of interrupted ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from data_pipeline import UserError
from data_pipeline.json_text import to_json
from eval.tasks.results import rows_of, tables
from eval.tasks.suite import Run
from eval.tasks.training import Learner
from maha_model import ConfigError, ModelConfig

_DAMAGE = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, UnpicklingError, EOFError,
)  # fmt: skip


def read_result(run: Run, path: Path) -> dict[str, Any] | None:
    """The result of `run`, with all that a report of it needs; None without the file.

    Raises:
        UserError: if the file is damaged, or of another run.
    """
    if not path.exists():
        return None
    with _named_if_damaged(path):
        result: dict[str, Any] = json.loads(path.read_bytes())
        _check_same(run, result["run"], path)
        tables(rows_of([result]))
        f"{result['accuracy']:.3f} {result['updates']:d}"
    return result


def restore(learner: Learner, run: Run, path: Path) -> int:
    """Put the state that a command left of `run` into its learner; the updates that it has had.

    Raises:
        UserError: if the file is damaged, of another run, or of another kind of device, whose random numbers differ.
    """
    with _named_if_damaged(path):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        _check_same(run, json.loads(saved["run"]), path)
        if saved["learner"]["generator"].shape != learner.state_dict()["generator"].shape:
            raise UserError(
                f"{path} was begun on another kind of device, whose random numbers this one does not have; "
                f"give that as --device, or remove the file"
            )
        learner.load_state_dict(saved["learner"])
        return learner.points[-1].update


def is_out_of_memory(error: Exception) -> bool:
    """Of torch's allocators a GPU's has an error of its own, the CPU's a RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


@contextmanager
def _named_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} is damaged; remove it and run the suite again") from error


def _check_same(run: Run, kept: dict[str, Any], path: Path) -> None:
    """A setting of the model that the kept run did not have had the value that models had before.

    Settings that make no difference to the model may differ. Earlier results do not name their data.
    """
    mend = "give another --out, or remove that file"
    wanted = json.loads(to_json(run.to_dict()))
    for name, config in (("config", run.config), ("begins", run.begins)):
        if config is not None and (kept.get(name) or name == "config"):
            try:
                kept = {**kept, name: ModelConfig.from_saved(kept[name]).effective()}
            except ConfigError as error:
                raise UserError(f"{path} is of a run with another {name} ({error}); {mend}") from error
            wanted[name] = json.loads(to_json(config.effective()))
    for name, value in wanted.items():
        if kept.get(name) != value and (name != "data" or name in kept):
            raise UserError(f"{path} is of a run with another {name}; {mend}")
