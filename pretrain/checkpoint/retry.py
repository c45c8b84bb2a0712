"""Errors of a disk that may pass are waited out before they end a run."""

import errno
import re
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import safetensors

from pretrain.output import write_line

T = TypeVar("T")
PAUSES = (1.0, 3.0, 9.0)
"""Seconds before the second, third and fourth attempt."""
_TRANSIENT = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY)


def retried(action: Callable[[], T], place: object) -> T:
    """What `action`, which may be begun anew at any time, returns; `place` is the file or folder in the warnings.

    Raises:
        OSError: of the last attempt, or at once where waiting cannot help.
    """
    for pause in PAUSES:
        try:
            return action()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
            write_line(f"warning: {place}: {error.strerror}; tried again in {pause:g} s", sys.stderr)
            time.sleep(pause)
    return action()


def as_os_error(error: safetensors.SafetensorError, place: object) -> Exception:
    """The system's error in one of the library, which has no type for it."""
    found = re.search(r"(\w[\w ,/-]*) \(os error (\d+)\)", str(error))
    return OSError(int(found[2]), found[1], str(place)) if found else error
