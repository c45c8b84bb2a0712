"""Writing on a thread of its own, while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Runs one job at a time on a thread; its outcome is read with `failed` and `wait`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint writer")
        self._job: Future[object] | None = None

    def start(self, job: Callable[[], object]) -> None:
        """Run `job`; call `wait` for the one before first. The interpreter does not end before it is done."""
        self._job = self._pool.submit(job)

    @property
    def failed(self) -> bool:
        """Whether the last job is over and raised; `wait` then raises it too."""
        return self._job is not None and self._job.done() and self._job.exception() is not None

    def wait(self) -> None:
        """Return when nothing is running. Raises, once, what the last job raised."""
        job, self._job = self._job, None
        if job is not None:
            job.result()
