"""A run's points in an MLflow store."""

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline import UserError
from data_pipeline.files import atomic_write
from pretrain.output import write_line

if TYPE_CHECKING:
    from mlflow.entities import Metric

# Bounded waiting for a remote store, unless the user has set these.
_MLFLOW_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# A request costs about as much whatever it holds, 5 to 10 ms for SQLite: steps shorter than this share one.
_SECONDS_BETWEEN_REQUESTS = 1.0
_MOST_WAITING = 500  # and an evaluation's points on top are still within MLflow's 1,000 of a request


class MLflowRun:
    """One MLflow run, new or the one that RUN/run.json names; points of steps it already has are not logged twice.

    Points wait for up to a second for others. `send` before a checkpoint, and a run that continues from it has no gap.

    The store is MLFLOW_TRACKING_URI, or a SQLite file mlflow.db in the folder that holds the run's folder.
    """

    def __init__(self, run: Path, experiment: str, parameters: dict[str, Any]) -> None:
        """Raises UserError if the store cannot be reached."""
        for name, value in _MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._lost = False
        self._waiting: list[Metric] = []
        self._sent = -math.inf
        marker = run / "run.json"
        run_id = json.loads(marker.read_bytes())["mlflow_run_id"] if marker.exists() else None
        try:
            if run_id is not None and self._exists(run_id):
                self.run_id = run_id
                self._client.update_run(run_id, "RUNNING")
            else:
                found = self._client.get_experiment_by_name(experiment)
                experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
                self.run_id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
                for name, value in _flatten(parameters):
                    self._client.log_param(self.run_id, name, value)
                run.mkdir(parents=True, exist_ok=True)
                with atomic_write(marker) as file:
                    file.write(json.dumps({"mlflow_run_id": self.run_id}).encode())
            self._logged = {
                name: max(point.step for point in self._client.get_metric_history(self.run_id, name))
                for name in self._client.get_run(self.run_id).data.metrics
            }
        except Exception as error:
            raise UserError(
                f"cannot reach the MLflow store {_shown(uri)}: {_shown(error)}; start it, or unset MLFLOW_TRACKING_URI"
            ) from error

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def log(self, step: int, **values: float) -> None:
        """One point per name. A store lost during training is reported once; metrics.jsonl still has everything."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [
            Metric(name, value, now, step) for name, value in values.items() if step > self._logged.get(name, -1)
        ]
        if time.monotonic() - self._sent >= _SECONDS_BETWEEN_REQUESTS or len(self._waiting) >= _MOST_WAITING:
            self.send()

    def send(self) -> None:
        """Send the points that wait."""
        points, self._waiting, self._sent = self._waiting, [], time.monotonic()
        if points:
            self._attempt(lambda: self._client.log_batch(self.run_id, points))

    def _attempt(self, send: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            send()
        except Exception as error:
            self._lost = True
            write_line(f"warning: MLflow is lost, going on without it: {_shown(error)}", sys.stdout)

    def finish(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or KILLED."""
        self.send()
        self._attempt(lambda: self._client.set_terminated(self.run_id, status))


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return flat


def _shown(value: object) -> str:
    """At most 200 characters on one line, without the user and password that an address may hold."""
    return re.sub(r"//[^/@\s]+@", "//...@", " ".join(str(value).split()))[:200]
