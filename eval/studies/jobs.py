"""The commands of a study, run in parallel."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from data_pipeline import UserError
from data_pipeline.stopping import STOPPED

ROOT = Path(__file__).parents[2]
"""The folder of the packages and of launch/."""


class Jobs:
    """Commands run in parallel, each with its share of the cores; stopped together."""

    def __init__(self, out: Path, jobs: int) -> None:
        self.jobs = jobs
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False
        self.environment = os.environ | {
            "MAHA_PYTHON": sys.executable,  # the launcher makes no environment of its own
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
            "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve() / 'mlflow.db'}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }

    def run(self, works: list[Callable[[], str]]) -> None:
        """Call all, printing what each returns. The first that raises stops the others, which save and end."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(work) for work in works]
            try:
                for number, future in enumerate(as_completed(futures), start=1):
                    print(f"[{number}/{len(works)}] {future.result()}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise

    def stop(self) -> None:
        """Terminate the running commands; a training run saves first."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.terminate()

    def call(self, command: list[str], log: Path) -> None:
        """Run a command to its end, its output appended to `log`.

        Raises:
            UserError: if it fails, naming the log; or if all were stopped.
        """
        with log.open("ab") as output:
            with self._lock:
                if self._stopped:
                    raise UserError(STOPPED)
                child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=self.environment)
                self._children.add(child)
            status = child.wait()
            with self._lock:
                self._children.discard(child)
                if self._stopped:
                    raise UserError(STOPPED)
        if status:
            raise UserError(f"a command ended with status {status}, see {log}; mend it and run the study again")
