"""A benchmark by its name: python -m eval.bench NAME [options of the benchmark]"""

import importlib
import os
import sys

from data_pipeline import CommandParser, UserError, user_errors
from eval.bench import BENCHMARKS


def main() -> None:
    """The command; `--help` after a name lists that benchmark's options."""
    script = os.path.basename(sys.argv[0])
    program = "python -m eval.bench" if script == "__main__.py" else script
    parser = CommandParser(
        prog=program, usage="%(prog)s NAME [options of the benchmark]", description="A benchmark by its name."
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; NAME --help lists its options")
    name, options = parser.parse_args(sys.argv[1:2]).name, sys.argv[2:]
    with user_errors():
        if name not in BENCHMARKS:
            raise UserError(f"no benchmark is called {name!r}; choose one of {', '.join(BENCHMARKS)}")
    sys.argv = [f"{program} {name}", *options]
    importlib.import_module(f"eval.bench.{BENCHMARKS[name]}").main()


if __name__ == "__main__":
    main()
