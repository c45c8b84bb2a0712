"""A run's points in an MLflow store."""

import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.callbacks.mlflow_store import (
    active_experiment,
    explained_errors,
    is_active_run,
    opened_store,
    shown,
    store_uri,
)
from pretrain.callbacks.run_marker import marker_path, read_marker, write_marker
from pretrain.callbacks.settings import flattened
from pretrain.output import write_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MOST_WAITING = 50_000
"""Points that wait for a lost store; beyond that the oldest are dropped. Days of them, at ten points a minute."""

# A request costs about as much whatever it holds, 5 to 10 ms for SQLite: steps shorter than this share one.
_SECONDS_BETWEEN_REQUESTS = 1.0
_MOST_IN_REQUEST = 500  # MLflow takes 1,000
_MOST_PARAMETERS = 100  # in a request: MLflow's limit
# The pauses between attempts on a lost store double up to the last; so that attempts which wait for a time-out cost
# little, a pause is also that many times as long as the attempt before it.
_FIRST_PAUSE, _LAST_PAUSE, _PAUSE_PER_ATTEMPT = 2.0, 300.0, 20.0


class MLflowRun:
    """One MLflow run, new or the one that RUN/run.json names; points of steps it already has are not logged twice.

    Points wait for up to a second for others. `send` before a checkpoint, and a run that continues from it has no gap.
    A store that is lost during training is tried again, after longer and longer pauses, and the points wait for it.

    The store is MLFLOW_TRACKING_URI, or a SQLite file mlflow.db in the folder that holds the run's folder.
    """

    def __init__(
        self,
        run: Path,
        experiment: str,
        parameters: dict[str, Any],
        history: Iterable[tuple[int, Mapping[str, float]]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`history`: points of earlier steps by step, sent as far as the MLflow run lacks them.

        A copy of another run's folder gets an MLflow run of its own.

        Raises:
            UserError: if the store cannot be used, or the run or experiment was deleted in it. Nothing is written then.
        """
        self._waiting: list[Metric] = []
        self._dropped = 0
        self._sent = -math.inf
        self._pause = 0.0
        """Seconds until the next attempt on a lost store; 0 while it is there."""
        marker, uri = read_marker(run), store_uri(run)
        with opened_store(uri) as self._client:
            if marker and marker.original:
                print(f"{run} is a copy of {marker.original}: it gets an MLflow run of its own", flush=True)
            elif marker and not is_active_run(self._client, marker.run_id, marker_path(run)):
                print(f"MLflow has no run {marker.run_id} of {run}: it gets a new one", flush=True)
                marker = None
            if marker and not marker.original:
                self.run_id = marker.run_id
                self._client.update_run(self.run_id, "RUNNING")
            else:
                self.run_id = _new_run(self._client, experiment, run.name, parameters)
            write_marker(run, self.run_id)
        with explained_errors(uri):
            self._logged = {
                name: max(point.step for point in self._client.get_metric_history(self.run_id, name))
                for name in self._client.get_run(self.run_id).data.metrics
            }
            for name, text in (tags or {}).items():
                self._client.set_tag(self.run_id, name, text)
            for step, values in history:
                self._add(step, values)
                if len(self._waiting) >= _MOST_IN_REQUEST:
                    self._send_all()
            self._send_all()

    def log(self, step: int, **values: float) -> None:
        """One point per name. A store lost during training is reported once; metrics.jsonl still has everything."""
        self._add(step, values)
        if time.monotonic() - self._sent >= _SECONDS_BETWEEN_REQUESTS or len(self._waiting) >= _MOST_IN_REQUEST:
            self.send()

    def send(self) -> None:
        """Send the points that wait, unless the store is lost and its pause not over."""
        if time.monotonic() - self._sent >= self._pause:
            self._attempt()

    def finish(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or KILLED, after one more attempt on a store that is lost."""
        self._attempt(status)

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [
            Metric(name, value, now, step) for name, value in values.items() if step > self._logged.get(name, -1)
        ]
        surplus = len(self._waiting) - MOST_WAITING
        if surplus > 0:
            del self._waiting[:surplus]
            self._dropped += surplus

    def _attempt(self, status: str | None = None) -> None:
        start = time.monotonic()
        try:
            self._send_all()
            if status is not None:
                self._client.set_terminated(self.run_id, status)
        except Exception as error:
            if not self._pause:
                write_line(
                    f"warning: MLflow is lost, going on without it and trying again: {shown(error)}; metrics.jsonl "
                    "has every point",
                    sys.stdout,
                )
            spent = time.monotonic() - start
            longer = min(2 * self._pause, _LAST_PAUSE) if self._pause else _FIRST_PAUSE
            self._pause = max(longer, _PAUSE_PER_ATTEMPT * spent)
        else:
            if self._pause:
                missing = f"all but {self._dropped} points, the oldest," if self._dropped else "every point"
                write_line(f"MLflow is back and has {missing} of the time without it", sys.stdout)
            self._pause, self._dropped = 0.0, 0
        self._sent = time.monotonic()

    def _send_all(self) -> None:
        while self._waiting:
            points = self._waiting[:_MOST_IN_REQUEST]
            self._client.log_batch(self.run_id, points)
            del self._waiting[: len(points)]


def _new_run(client: "MlflowClient", experiment: str, name: str, parameters: dict[str, Any]) -> str:
    from mlflow.entities import Param

    run_id = client.create_run(active_experiment(client, experiment), run_name=name).info.run_id
    values = [Param(parameter, str(value)) for parameter, value in flattened(parameters).items()]
    for start in range(0, len(values), _MOST_PARAMETERS):
        client.log_batch(run_id, params=values[start : start + _MOST_PARAMETERS])
    return run_id
