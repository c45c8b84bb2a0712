"""A benchmark by its name: python -m eval.bench NAME [options of the benchmark]"""

import argparse
import importlib
import os
import sys

from data_pipeline import UserError, user_errors
from eval.bench import BENCHMARKS


def main() -> None:
    """The command; `--help` after a name lists that benchmark's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the benchmark")
    args = parser.parse_args()
    with user_errors():
        if args.name not in BENCHMARKS:
            raise UserError(f"no benchmark is called {args.name!r}; choose one of {', '.join(BENCHMARKS)}")
    program = os.path.basename(sys.argv[0])
    sys.argv = [f"{'python -m eval.bench' if program == '__main__.py' else program} {args.name}", *args.options]
    importlib.import_module(f"eval.bench.{BENCHMARKS[args.name]}").main()


if __name__ == "__main__":
    main()
