"""Files that show a run and are not needed to continue it: where one cannot be written, training goes on without it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.output import write_line


class OptionalFile:
    """A file, or a folder of files, that is given up at the first error of writing it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = False
        """Whether it was given up; then nothing more is to be written."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """An OSError inside the block becomes one line of warning on stderr."""
        try:
            yield
        except OSError as error:
            self.lost = True
            write_line(
                f"warning: cannot write {self.path} ({error.strerror or error}), going on without it; check the path, "
                "its permissions and the free space",
                sys.stderr,
            )
