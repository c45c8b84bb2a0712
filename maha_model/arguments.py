"""The parser of this room's commands, `maha_model.launches` and `maha_model.kernels.fuse.registers`."""

import argparse
import sys
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake as all commands do: one line on stderr, without the usage, and status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit."""
        print(f"error: {' '.join(message.removeprefix('argument ').split())}; see --help", file=sys.stderr)
        sys.exit(2)
