"""Running checks one by one: each by itself, all of them within a time limit."""

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from data_pipeline import UserError
from pretrain.doctor.report import Finding, Result
from pretrain.doctor.setting import Setting

_PAUSE = 0.05
_MOMENT = 10 * _PAUSE
"""Seconds, in which the main thread has surely seen a signal."""


@dataclass(frozen=True)
class Check:
    """A check and the keys of the values that it gives."""

    name: str
    keys: tuple[str, ...]
    run: Callable[[Setting], Finding]


def run_check(check: Check, setting: Setting) -> Result:
    """The check's result; whatever it raises is a failure with its message."""
    start = time.perf_counter()
    try:
        setting.enter_thread()
        finding = check.run(setting)
        setting.release()
    except Exception as error:
        message = _explained(error, setting)
        return Result.without_values(check.name, check.keys, "fail", message, time.perf_counter() - start)
    return Result.of(check.name, check.keys, finding, time.perf_counter() - start)


def _explained(error: Exception, setting: Setting) -> str:
    """What is wrong, in one line, and how to mend it where that is known."""
    line = " ".join(str(error).split())[:400]
    if isinstance(error, UserError):
        return line
    if any(os.strerror(number) in line for number in (errno.ENOSPC, errno.EDQUOT)):  # libraries wrap the system's error
        place = getattr(error, "filename", None) or setting.folder.parent
        return f"no space left on the device for {place}; free some, or give another folder as --out"
    return f"{type(error).__name__}: {line}"


def run_checks(
    checks: list[Check],
    setting: Setting,
    limit: float,
    began: Callable[[str], None] = lambda name: None,
    ended: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run all checks in a thread, for `limit` seconds at most.

    The one that runs when the time is up has failed and stays behind in its thread (a kernel or a collective that
    hangs cannot be stopped); those after it do not run. `began` and `ended` are called around each check. A signal's
    exception passes through here at once, and leaves the thread likewise.
    """
    results: list[Result] = []
    left = threading.Event()

    def work() -> None:
        for check in checks:
            began(check.name)
            result = run_check(check, setting)
            # What fails after the thread was left, as without the folder of its files, is no verdict; nor is what fails
            # a moment before: the signal may have reached a compiler first.
            if left.wait(_MOMENT if result.status == "fail" else 0):
                return
            results.append(result)
            ended(result)
        setting.close()

    thread = threading.Thread(target=work, daemon=True)
    until = time.monotonic() + limit
    try:
        thread.start()
        while thread.is_alive() and time.monotonic() < until:
            thread.join(_PAUSE)  # again and again: a signal that another thread gets does not end a wait
    finally:
        left.set()
    done = list(results)
    if len(done) < len(checks):
        hung, *rest = checks[len(done) :]
        late = f"did not end before the time limit of {limit:.0f} s"
        lacking = [replace(Result.without_values(hung.name, hung.keys, "fail", late, limit), hangs=True)]
        lacking += [Result.without_values(each.name, each.keys, "skip", f"{hung.name} {late}") for each in rest]
        for result in lacking:
            ended(result)
        done += lacking
    return done
