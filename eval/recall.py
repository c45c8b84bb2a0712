"""Recall from far away, models compared: python -m eval.recall [--suite YAML] [--out FOLDER] [--json]

Small models are trained on synthetic tasks whose answers lie at a known distance, one run for each task, length, model
and seed of the suite's file. Every run leaves one JSON file in --out: what is finished is never run again, what was
interrupted continues. At the end come tables and limits over all seeds. See eval/tasks.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from data_pipeline import CommandParser, UserError, at_least, user_errors, user_path
from eval.bench.criteria import print_report
from eval.device import add_device_option, device_title
from eval.tasks import Suite, conduct, criteria_of, report_to_stderr, rows_of, table_of_times, tables, times_of_updates
from maha_model import ConfigError


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=Path("eval/tasks/small.yaml"), help="the file, see eval/tasks")
    parser.add_argument("--only", type=_names, default=[], metavar="TASK,...", help="only these tasks of the suite")
    parser.add_argument("--models", type=_names, default=[], metavar="MODEL,...", help="only these models")
    parser.add_argument("--seeds", type=_seeds, default=[], metavar="SEED,...", help="these seeds, not the suite's")
    add_device_option(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="instead of the suite's")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/NAME of the suite's file)")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="runs side by side, with equal shares of the cores")
    parser.add_argument(
        "--time",
        type=at_least(1),
        metavar="UPDATES",
        help="train nothing: time UPDATES of each model, in turns",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, when all is done")
    args = parser.parse_args()
    with user_errors(ConfigError):
        suite = Suite.load(args.suite)
        overrides = {"precision": args.precision} if args.precision else {}
        runs = suite.runs(args.only, args.models, args.seeds, **overrides)
        if not args.device.startswith("cuda") and any(run.training.precision == "bfloat16" for run in runs):
            raise UserError(f"precision bfloat16 is for GPUs, not for {args.device}; give --precision float32")
        values = {"suite": str(args.suite), "device": device_title(args.device)}
        if args.time:
            times = times_of_updates(runs, args.device, args.time)
            print_report([table_of_times(times)], [], {**values, "times": [asdict(time) for time in times]}, args.json)
            return
        out = user_path(args.out or Path("runs") / args.suite.stem)
        results = conduct(runs, out, args.device, args.jobs, report_to_stderr)
        rows = rows_of(results)
        criteria = criteria_of(suite.limits(), rows)
        details = {**values, "rows": [row.to_dict() for row in rows]}
        print_report(tables(rows), criteria, details, args.json)


def _names(text: str) -> list[str]:
    return text.split(",")


def _seeds(text: str) -> list[int]:
    return [at_least(0)(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
