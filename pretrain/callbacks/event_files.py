"""RUN/tensorboard: the points that MLflow gets, as TensorBoard's event files too."""

from pathlib import Path
from typing import Any

from pretrain.callbacks.optional_files import OptionalFile


class EventFiles:
    """Event files of one start of a run; TensorBoard shows those of all starts as one curve.

    Where they cannot be written the run goes on without them, after one line of warning.
    """

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Later points than `resumed_step`, which will be repeated, are hidden by TensorBoard from now on."""
        from torch.utils.tensorboard.writer import SummaryWriter  # the package is an option

        self._folder = OptionalFile(run / "tensorboard")
        with self._folder.writing():
            purged = resumed_step + 1 if any(self._folder.path.glob("events.*")) else None
            self._writer = SummaryWriter(str(self._folder.path), purge_step=purged)

    def log(self, step: int, **values: Any) -> None:
        """One point per name; a value that is None is left out."""
        if self._folder.lost:
            return
        with self._folder.writing():
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        if not self._folder.lost:
            with self._folder.writing():
                self._writer.close()
