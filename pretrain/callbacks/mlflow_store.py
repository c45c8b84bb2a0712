"""Opening an MLflow store: one process at a time, and one message for each way in which a store cannot be used."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Bounded waiting for a remote store, unless the user has set these.
_MLFLOW_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def store_uri(run: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file mlflow.db in the folder that holds the run's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


@contextmanager
def opened_store(uri: str) -> Iterator["MlflowClient"]:
    """A client of the store. Inside the block no other process opens the same SQLite file.

    Two that make the tables of a new file at once, or the same experiment, would fail.

    Raises:
        UserError: if the store cannot be used, here or inside the block, or MLflow cannot be imported.
    """
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    with explained_errors(uri):
        mlflow = _import_mlflow()
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it logs the stack of every error that it raises
        with _alone(uri):
            yield mlflow.MlflowClient(tracking_uri=uri)


def _import_mlflow() -> Any:
    """Raises UserError where it is not installed, or a broken one raises what it will."""
    try:
        import mlflow
    except Exception as error:
        raise UserError(
            f"cannot import MLflow ({type(error).__name__}: {shown(error)}); install it, again if it is there: "
            "pip install --force-reinstall 'mlflow>=3.10'"
        ) from error
    return mlflow


@contextmanager
def explained_errors(uri: str) -> Iterator[None]:
    """Turn every failure of the store into a UserError: what is wrong and how to mend it."""
    try:
        yield
    except Exception as error:
        raise _user_error_in(error) or UserError(_explained(uri, error)) from error


def active_experiment(client: "MlflowClient", name: str) -> str:
    """The identifier of the experiment, made if there is none. Raises UserError if it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another run has made it meanwhile
    if found.lifecycle_stage == "deleted":
        raise UserError(_deleted_experiment(name, found.experiment_id))
    return found.experiment_id


def make_experiment(uri: str, name: str) -> None:
    """Make the store and the experiment, unless they are there. Raises UserError if either cannot be used."""
    with opened_store(uri) as client:
        active_experiment(client, name)


def is_active_run(client: "MlflowClient", run_id: str, marker: Path) -> bool:
    """Whether the store has the run. Raises UserError if it or its experiment was deleted (and can be restored).

    `marker` is the file that names the run.
    """
    from mlflow.exceptions import MlflowException

    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    experiment = client.get_experiment(info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        raise UserError(_deleted_experiment(experiment.name, experiment.experiment_id))
    if info.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow run {run_id} of this folder was deleted in MLflow; restore it (mlflow runs restore --run-id "
            f"{run_id}), or delete {marker} to report into a new one"
        )
    return True


def shown(value: object) -> str:
    """At most 200 characters on one line, without the user and password that an address may hold."""
    line = " ".join(str(value).split()).partition(" [SQL: ")[0]  # SQLAlchemy adds the statement and a link
    return re.sub(r"//[^/@\s]+@", "//...@", line)[:200]


def _user_error_in(error: BaseException | None) -> UserError | None:
    """MLflow's client wraps whatever is raised during a request, a stop signal's error too."""
    while error is not None and not isinstance(error, UserError):
        error = error.__context__
    return error


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    from sqlalchemy.engine import make_url

    database = None
    if uri.startswith("sqlite"):
        database = make_url(uri).database
    if not database or database == ":memory:":
        yield
        return
    path = Path(database)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _deleted_experiment(name: str, number: str) -> str:
    return (
        f"the MLflow experiment {name} was deleted in MLflow; restore it (mlflow experiments restore --experiment-id "
        f"{number}), or give another name as experiment"
    )


def _explained(uri: str, error: Exception) -> str:
    store, fault, scheme = shown(uri), shown(error), uri.partition(":")[0] if ":" in uri else "file"
    code = getattr(error, "error_code", None)
    if scheme == "file" and code == "INVALID_PARAMETER_VALUE" and "MLFLOW_ALLOW_FILE_STORE" not in os.environ:
        return (
            f"MLFLOW_TRACKING_URI {store} is a folder, to which MLflow no longer writes; give a database (sqlite:///"
            "mlflow.db), to which mlflow migrate-filestore moves the runs, or set MLFLOW_ALLOW_FILE_STORE=true"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            f"the MLflow store {store} refuses access: {fault}; check MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if "out-of-date database schema" in fault:
        return f"the MLflow store {store} was made by another version of MLflow; run mlflow db upgrade {store}"
    if scheme.startswith("sqlite") and "disk is full" in fault:
        return f"cannot use the MLflow store {store}: {fault}; free some space there"
    if scheme.startswith("sqlite"):
        return f"cannot use the MLflow store {store}: {fault}; check the file, its folder and their permissions"
    if scheme in ("http", "https"):
        return f"cannot reach the MLflow store {store}: {fault}; start it, or unset MLFLOW_TRACKING_URI"
    return f"cannot use the MLflow store {store}: {fault}; correct MLFLOW_TRACKING_URI, or unset it"
