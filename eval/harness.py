"""lm-eval's tasks on an export: python -m eval.harness --checkpoint EXPORT --tasks NAME[,NAME] [options of lm-eval]

Those of `eval/lm_tasks` are among them: maha_needle, maha_induction, maha_variables, maha_copying, maha_multiquery
(together maha_recall) and maha_perplexity, on the text that --metadata data=PATH names.

It is `lm_eval --model hf --model_args pretrained=EXPORT,add_bos_token=False` once `maha_model.huggingface` is imported.
lm-eval itself puts the beginning-of-sequence token before a text whose perplexity it takes and before an empty context;
a tokenizer that did it too would have that token predicted as if it were the text's. `--model_args add_bos_token=True`
puts it before every context instead, for tasks of choice or generation.
"""

import fnmatch
import json
import sys
from pathlib import Path

from safetensors import SafetensorError

from data_pipeline import CommandParser, UserError, user_errors, user_path
from eval.device import add_device_option
from eval.lm_tasks import FOLDER
from pretrain.checkpoint import CONFIG, WEIGHTS


def main() -> None:
    """The command."""
    parser = CommandParser(
        description=__doc__.splitlines()[0],
        epilog="All other options are those of `lm_eval run`, which `lm_eval run --help` lists.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="an export, made by python -m pretrain.export")
    parser.add_argument("--tasks", required=True, help="names of tasks, or YAML files that define them; by commas")
    add_device_option(parser)
    args, others = parser.parse_known_args()
    with user_errors(ValueError, ConnectionError, FileNotFoundError):  # lm-eval has no such task, or not its data
        args.checkpoint = user_path(args.checkpoint)
        if not (args.checkpoint / CONFIG).is_file():
            raise UserError(
                f"{args.checkpoint} is no export; make one of a run: python -m pretrain.export RUN --out DIR"
            )
        try:
            from lm_eval.__main__ import cli_evaluate

            import maha_model.huggingface  # noqa: F401  # registers the model
        except ImportError as error:
            raise UserError(
                f"{error.name} is not installed; pip install 'maha-pretraining[hub]', or in a checkout "
                "bash launch/setup.sh hub"
            ) from error
        model = json.dumps({"pretrained": str(args.checkpoint), "backend": "causal", "add_bos_token": False})
        sys.argv = ["lm_eval", "run", "--model", "hf", "--tasks", _with_ours(args.tasks), "--device", args.device]
        sys.argv += ["--model_args", model, *others]  # ours first: a user's --model_args are merged into them
        try:
            cli_evaluate()
        except SafetensorError as error:
            raise UserError(f"{args.checkpoint / WEIGHTS} is damaged: {error}; export the run again") from error


def _with_ours(tasks: str) -> str:
    """The names of tasks, those of this package (`maha_...`) as their files: --include_path is left to the user."""
    from lm_eval.tasks import TaskManager

    index = TaskManager(include_path=FOLDER, include_defaults=False).task_index
    found: list[str] = []
    for name in tasks.split(","):
        matches = [index[match] for match in fnmatch.filter(index, name) if name.startswith("maha_")]
        names = {each for match in matches for each in ([match.name] if match.yaml_path else match.tags)}
        found += [str(index[each].yaml_path) for each in sorted(names)] or [name]
    return ",".join(found)


if __name__ == "__main__":
    main()
