"""A study: many training runs from one file, compared: python -m eval.study STUDY.yaml --out DIR [--source SOURCE]

The file lists models (overrides of one base configuration) and groups of runs (models x seeds x learning rates x
context lengths). Every run goes through launch/pretrain.sh in a folder of its own; what is finished is never run again,
what was interrupted continues. All runs log to one MLflow experiment. With --test the groups with `test: true` are
scored on the test split, and then only: learning rates are chosen on the validation split.
"""

from pathlib import Path

from data_pipeline import CommandParser, at_least, user_errors, user_path
from data_pipeline.claim import claimed
from data_pipeline.files import atomic_write
from data_pipeline.json_text import to_json
from data_pipeline.stopping import stoppable
from eval.bench.criteria import print_report
from eval.studies import Options, Study, conduct, criteria_of, table
from maha_model import ConfigError


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("study", type=Path, help="a study's file, see eval/studies")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs and the results")
    parser.add_argument("--source", help="what to prepare the data from, as in data_pipeline.prepare")
    parser.add_argument("--data", type=Path, help="the prepared data set (default: OUT/data)")
    parser.add_argument("--group", action="append", help="only this group of runs; may be repeated")
    parser.add_argument(
        "--jobs", type=at_least(1), default=1, help="runs in parallel; each gets its share of the cores"
    )
    parser.add_argument("--test", action="store_true", help="score tested groups on the test split at the end")
    parser.add_argument("--only-results", action="store_true", help="train nothing: the results of what is finished")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    args = parser.parse_args()
    with user_errors(ConfigError):
        args.out = user_path(args.out)
        data = user_path(args.data or args.out / "data")
        study = Study.load(args.study)
        for name in args.group or []:
            study.group(name)
        options = Options(
            out=args.out, data=data, source=args.source, groups=tuple(args.group or ()),
            jobs=args.jobs, test=args.test, only_results=args.only_results,
        )  # fmt: skip
        with stoppable(), claimed(args.out):
            rows = conduct(study, options)
            criteria = criteria_of(study, rows)
            values = {"study": str(args.study), "rows": [row.to_dict() for row in rows]}
            report = {**values, "figures": [criterion.to_dict() for criterion in criteria]}
            for name, content in (("results.json", to_json(report, indent=1)), ("results.md", table(rows) + "\n")):
                with atomic_write(args.out / name) as file:
                    file.write(content.encode())
    print_report([table(rows)], criteria, values, args.json)


if __name__ == "__main__":
    main()
