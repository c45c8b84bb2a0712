"""Runs side by side, with the paper's table: python eval/compare.py RUN [RUN ...] --data DATA --out DIR [--json]

Runs that differ in nothing but their seed are one row, and one curve with its spread. Writes report.html (one file that
needs no other), report.md and report.json.
"""

import argparse
from pathlib import Path

from data_pipeline import CommandParser, Manifest, UserError, at_least, check_folder, user_errors, user_path
from data_pipeline.files import atomic_write
from data_pipeline.json_text import to_json
from eval.device import add_device_option
from eval.report import PARTS, Scope, command, compare, part_commands, read_memory_tables
from eval.report.cost import SHORTEST


def main() -> None:
    """The command: measures, prints the table, writes report.json, report.md and report.html."""
    parser = _parser()
    args = parser.parse_args()
    with user_errors():
        args.out = user_path(args.out)
        check_folder(args.out)
        parts = [part for part in args.only if part not in args.without]
        if not parts:
            raise UserError("--without leaves out every part; name one that stays, of " + ", ".join(PARTS))
        scope = Scope(
            Manifest.load(args.data), args.split, parts, args.stride, args.batch_size,
            args.device, args.samples, args.windows, args.cost_up_to,
        )  # fmt: skip
        comparison = compare(args.runs, scope, read_memory_tables(args.memory))
        from eval.report.document import Report  # loads the plotting library, which takes seconds

        values, defaults = vars(args), {name: parser.get_default(name) for name in vars(args)}
        commands = part_commands(values, defaults, args.out, comparison)
        report = Report(comparison, command(values, defaults), commands)
        markdown, result = report.to_markdown(), comparison.to_dict()
        args.out.mkdir(parents=True, exist_ok=True)
        contents = {
            "report.md": markdown,
            "report.html": report.to_html(),
            "report.json": to_json(result, indent=1),
        }
        for name, content in contents.items():
            with atomic_write(args.out / name) as file:
                file.write(content.encode())
    print(markdown)
    print(f"report: {args.out / 'report.html'}")
    if args.json:
        print(to_json(result))


def _parser() -> CommandParser:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder or one of its checkpoints")
    parser.add_argument("--data", required=True, help="a prepared data set")
    parser.add_argument("--out", required=True, type=Path, help="folder for report.json, report.md and report.html")
    parser.add_argument("--split", default="test")
    parser.add_argument("--stride", type=at_least(1), help="tokens between windows (default: half the context)")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="windows per forward pass")
    add_device_option(parser)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--without", nargs="+", choices=PARTS, default=(), metavar="PART", help="parts to leave out")
    parser.add_argument(
        "--samples",
        type=at_least(1),
        default=Scope.samples,
        help="places of the text at which context lengths are tried",
    )
    parser.add_argument(
        "--windows", type=at_least(1), default=Scope.windows, help="whole contexts that scale weights are averaged over"
    )
    parser.add_argument(
        "--cost-up-to", type=at_least(SHORTEST), default=Scope.longest, help="longest N of the cost plot"
    )
    parser.add_argument("--memory", type=Path, metavar="FILE", help="what python eval/memory.py --json printed")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


if __name__ == "__main__":
    main()
