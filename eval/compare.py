"""Runs side by side, with the paper's table: python eval/compare.py RUN [RUN ...] --data DATA --out DIR [--json]

Runs that differ in nothing but their seed are one row, and one curve with its spread. Writes report.html (one file that
needs no other), report.md and report.json.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from data_pipeline import Manifest, UserError, user_errors
from data_pipeline.files import atomic_write
from eval.ppl import best_device
from eval.report.comparison import PARTS, Comparison, Scope, compare


def main() -> None:
    """The command: measures, prints the table, writes report.json, report.md and report.html."""
    parser = _parser()
    args = parser.parse_args()
    with user_errors():
        for name in ("batch_size", "samples", "windows"):
            if getattr(args, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
        scope = Scope(
            Manifest.load(args.data), args.split, [part for part in args.only if part not in args.without], args.stride,
            args.batch_size, args.device, args.samples, args.windows, args.cost_up_to,
        )  # fmt: skip
        comparison = compare(args.runs, scope, _read_memory(args.memory))
        from eval.report.exhibits import Report  # plotting is loaded when there is something to plot

        report = Report(comparison, _command(parser, args), _part_commands(parser, args, comparison))
        markdown, values = report.to_markdown(), comparison.to_dict()
        args.out.mkdir(parents=True, exist_ok=True)
        contents = {
            "report.md": markdown,
            "report.html": report.to_html(),
            "report.json": json.dumps(values, indent=1),
        }
        for name, content in contents.items():
            with atomic_write(args.out / name) as file:
                file.write(content.encode())
    print(markdown)
    print(f"report: {args.out / 'report.html'}")
    if args.json:
        print(json.dumps(values))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python eval/compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder or one of its checkpoints")
    parser.add_argument("--data", required=True, help="a prepared data set")
    parser.add_argument("--out", required=True, type=Path, help="folder for report.json, report.md and report.html")
    parser.add_argument("--split", default="test")
    parser.add_argument("--stride", type=int, help="tokens between windows (default: half the context)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--device", default=best_device())
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--without", nargs="+", choices=PARTS, default=(), metavar="PART", help="parts to leave out")
    parser.add_argument(
        "--samples", type=int, default=Scope.samples, help="places of the text at which context lengths are tried"
    )
    parser.add_argument(
        "--windows", type=int, default=Scope.windows, help="whole contexts that scale weights are averaged over"
    )
    parser.add_argument("--cost-up-to", type=int, default=Scope.longest, help="longest N of the cost figure")
    parser.add_argument("--memory", type=Path, metavar="FILE", help="what python eval/memory.py --json printed")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


_OPTIONS = {
    "table": ("stride", "batch_size"), "losses": (), "context": ("samples", "batch_size"), "scales": ("windows",),
    "attention": ("windows",), "cost": ("cost_up_to",),
}  # fmt: skip
"""What each part depends on, besides runs, data, split and device."""


def _part_commands(parser: argparse.ArgumentParser, args: argparse.Namespace, comparison: Comparison) -> dict[str, str]:
    """For each part the command that makes it alone, from no more runs than it needs, in a folder of its own."""
    commands = {}
    for part, options in _OPTIONS.items():
        values = {name: getattr(args, name) for name in ("runs", "data", "split", "device", *options)}
        if part not in ("table", "losses"):
            values["runs"] = [group.first.folder for group in comparison.headlines]
        commands[part] = _command(parser, argparse.Namespace(**values, out=args.out / part, only=[part]))
    return commands


def _command(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """What to type for these arguments; options of their default values are left out."""
    words = ["python", "eval/compare.py", *args.runs]
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if not action.option_strings or value in (action.default, None, False):
            continue
        values: list[Any] = [] if value is True else list(value) if isinstance(value, list | tuple) else [value]
        words += [action.option_strings[0], *map(str, values)]
    return shlex.join(words)


def _read_memory(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    """The tables of eval/memory.py's report: whatever in it is a list of records."""
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read --memory {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--memory {path} is not JSON; give what python eval/memory.py --json printed") from error
    tables = {
        name: rows
        for name, rows in (values.items() if isinstance(values, dict) else ())
        if name != "figures" and rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    }
    if not tables:
        raise UserError(f"--memory {path} has no tables; give what python eval/memory.py --json printed")
    return tables


if __name__ == "__main__":
    main()
