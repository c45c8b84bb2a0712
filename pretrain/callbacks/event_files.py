"""RUN/tensorboard: the points that MLflow gets, as TensorBoard's event files too."""

import importlib.util
from pathlib import Path
from typing import Any

from data_pipeline import UserError


def check_tensorboard() -> None:
    """Raises UserError without the package that writes event files."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard needs the package tensorboard, which is not installed; pip install "
            "'tensorboard>=2.18', or leave the option out"
        )


class EventFiles:
    """Event files of one start of a run; TensorBoard shows those of all starts as one curve."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Later points than `resumed_step`, which will be repeated, are hidden by TensorBoard from now on."""
        from torch.utils.tensorboard.writer import SummaryWriter  # the package is an option

        purged = resumed_step + 1 if resumed_step else None
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purged)

    def log(self, step: int, **values: Any) -> None:
        """One point per name; a value that is None is left out."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()
