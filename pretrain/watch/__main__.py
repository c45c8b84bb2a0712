"""Live curves of runs, from their folders alone: python -m pretrain.watch RUN [RUN ...] [--once] [--html FILE]

Draws in the terminal until Ctrl-C; with --html writes a page instead, which a browser loads again by itself. The
folders may be copies, and of runs that have not begun.
"""

import argparse
import sys
import time
from pathlib import Path

from data_pipeline import CommandParser, UserError, at_least, user_errors, user_path
from data_pipeline.files import atomic_write
from pretrain.watch.run_files import RunFiles, open_runs


def main() -> None:
    """The command."""
    parser = CommandParser(
        prog="pretrain.watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a copy of one")
    parser.add_argument("--once", action="store_true", help="draw one frame, or write the page once, and end")
    parser.add_argument("--html", metavar="FILE", help="write a page into FILE instead of drawing in the terminal")
    parser.add_argument("--interval", type=at_least(1), default=5, help="seconds between two frames (default 5)")
    args = parser.parse_args()
    with user_errors():
        runs = open_runs(args.runs)
        try:
            if args.html:
                _write_pages(runs, user_path(args.html), args.once, args.interval)
            else:
                _draw(runs, args.once, args.interval)
        except KeyboardInterrupt:
            pass


def _write_pages(runs: list[RunFiles], path: Path, once: bool, interval: int) -> None:
    from pretrain.watch.page import page  # loads the plotting library, which takes a second

    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--html {path} cannot be written; give a file in a folder that is there")
    announced = False
    while True:
        text = page([run.read() for run in runs], time.time(), None if once else interval)
        with atomic_write(path) as file:
            file.write(text.encode())
        if not announced:
            print(f"page: {path}" + ("" if once else f", written every {interval} s until Ctrl-C"), flush=True)
            announced = True
        if once:
            return
        time.sleep(interval)


def _draw(runs: list[RunFiles], once: bool, interval: int) -> None:
    try:
        from rich.console import Console
        from rich.live import Live

        from pretrain.watch.terminal import frame
    except ModuleNotFoundError as error:
        raise UserError(
            f"curves in the terminal need the package {error.name}, which is not installed; install both with "
            "pip install 'rich>=13' 'plotext>=5.3,<6', or write a page with --html FILE"
        ) from error
    console = Console()
    if once:
        console.print(frame([run.read() for run in runs], time.time(), console.width))
        return
    if not sys.stdout.isatty():
        raise UserError("the output is no terminal; print one frame with --once, or write a page with --html FILE")
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            width, height = console.size
            live.update(frame([run.read() for run in runs], time.time(), width, height), refresh=True)
            time.sleep(interval)


if __name__ == "__main__":
    main()
