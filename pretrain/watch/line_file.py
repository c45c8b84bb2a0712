"""A file that grows by one JSON object a line, read again and again."""

import os
from pathlib import Path
from typing import Any

from data_pipeline.json_text import step_of

_MOST_STEPS = 2**53
"""A line of a later step is damaged; such numbers are not exact as floats."""


class LineFile:
    """The objects of a file so far. What is not whole, such as a line that is being written, is left out."""

    def __init__(self, path: Path) -> None:
        """The file need not be there yet."""
        self._path = path
        self._lines: list[dict[str, Any]] = []
        self._identity, self._read, self._rest = 0, 0, b""

    def read(self) -> list[dict[str, Any]]:
        """All objects, each with its `step`, in their order; only what is new is read.

        A file that was replaced (a run that has gone back) or has become shorter is read from its begin.
        """
        try:
            with self._path.open("rb") as file:
                self._follow(file.fileno())
                file.seek(self._read)
                new = file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._lines, self._identity, self._read, self._rest = [], 0, 0, b""
            return self._lines
        self._read += len(new)
        *whole, self._rest = (self._rest + new).split(b"\n")
        found = (step_of(line.decode(errors="replace")) for line in whole)
        self._lines += [values for values in found if values is not None and abs(values["step"]) < _MOST_STEPS]
        return self._lines

    def _follow(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_ino != self._identity or status.st_size < self._read:
            self._lines, self._read, self._rest = [], 0, b""
        self._identity = status.st_ino
