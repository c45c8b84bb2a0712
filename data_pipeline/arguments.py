"""What all commands share: one line for a mistake in the options, the type of a count, numbers in the environment."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from data_pipeline.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """A parser that reports a mistake like `user_errors`: one line on stderr, without the usage, and status 2.

    An empty path, which to pathlib is the current folder, is a mistake: a variable of the shell that is not set.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit."""
        line = " ".join(message.removeprefix("argument ").split())
        print(f"error: {line}; see --help", file=sys.stderr)
        sys.exit(2)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; give one, or leave the option out")
    return Path(text)


def at_least(least: int) -> Callable[[str], int]:
    """The `type` of an option that takes whole numbers from `least` up."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return number


def number_in_environment(*names: str, default: int, least: int = 0, most: int | None = None) -> int:
    """The whole number that the first of these variables has of those that are set; `default` if none is.

    Raises:
        UserError: for another text, or a number that is not from `least` to `most`.
    """
    name = next((name for name in names if name in os.environ), None)
    if name is None:
        return default
    text = os.environ[name]
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(
            f"{name} is {text!r} in the environment, not a whole number {allowed}; a launcher sets it: correct or "
            "unset it"
        )
    return value
