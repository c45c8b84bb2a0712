"""DeepSpeed, imported without MLflow and without a word: all modules take `deepspeed` from here.

Its autotuner, which no run uses, imports MLflow where it is installed: most of the time that importing DeepSpeed takes,
in every process. Only the process that tracks a run needs MLflow, and imports it then.

Stdout is the command's own, so that DeepSpeed's messages go to stderr. The one of its import, about which device it has
found, would stand before a mistake of the user's, and beside the device that this project chooses by a rule of its own.
"""

import contextlib
import logging
import os
import sys

from data_pipeline import UserError

_log = logging.getLogger("DeepSpeed")
_absent = "mlflow" not in sys.modules
if _absent:
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # its import now fails, and the autotuner does without
_log.disabled = True
try:
    with contextlib.redirect_stdout(sys.stderr):  # which its logger keeps
        import deepspeed
finally:
    _log.disabled = False
    if _absent:
        del sys.modules["mlflow"]

__all__ = ["deepspeed", "set_log_level"]


def set_log_level() -> None:
    """The level of DeepSpeed's messages: MAHA_DEEPSPEED_LOG, by default WARNING.

    Raises:
        UserError: if there is no such level.
    """
    level = os.environ.get("MAHA_DEEPSPEED_LOG", "WARNING")
    try:
        _log.setLevel(level.upper())
        for handler in _log.handlers:
            handler.setLevel(level.upper())
    except ValueError as error:
        raise UserError(f"MAHA_DEEPSPEED_LOG is {level!r}; give DEBUG, INFO, WARNING, ERROR or CRITICAL") from error
