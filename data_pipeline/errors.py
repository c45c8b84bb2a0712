"""One way for every command to report a mistake that its user can mend."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: what, where, how to mend it."""


class ResumableError(UserError):
    """A mistake outside the data: what was made so far is kept, and the same command continues."""


class UnreachableError(ResumableError):
    """A source that cannot be reached now and may be later."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOENT,
    errno.ELOOP,
)  # fmt: skip


def _reader_is_there() -> bool:
    """Of stdout: else the pipe that is broken is another one."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)  # errors are told always
    return not stdout.poll(0)


@contextmanager
def user_errors(
    *also: type[Exception], quiet: Callable[[Exception], bool] = lambda error: False, process: str = ""
) -> Iterator[None]:
    """Turn UserError, the types in `also`, a full disk and an unusable path into one line on stderr and status 2.

    For errors of which `quiet` is true only the status is left: another process prints them. The line begins with
    `process`, if given: the name of this one among several. Where nobody reads stdout any more, as behind `head`, the
    command ends without a word and with the status of one that SIGPIPE has ended.
    """
    caught: tuple[type[Exception], ...] = (UserError, *also)
    try:
        yield
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
        return
    except BrokenPipeError:
        if sys.stdout is None or _reader_is_there():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at its end
        sys.exit(128 + signal.SIGPIPE)
    except caught as error:
        caught_error: Exception = error
        message = " ".join(str(error).split())
    except OSError as error:
        caught_error = error
        place = error.filename or "a file"
        if error.errno in _FULL:
            message = f"no space left on the device for {place}; free some and run the same command again"
        elif error.errno in _UNUSABLE:
            message = f"cannot use {place}: {error.strerror}; check the path and its permissions"
        else:
            raise
    if not quiet(caught_error):
        print(f"error: {process}: {message}" if process else f"error: {message}", file=sys.stderr)
    sys.exit(2)
