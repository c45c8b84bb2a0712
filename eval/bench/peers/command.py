"""Ours beside its peers: python -m eval.bench peers [--litgpt-python PATH] [--json].

The same text is prepared by data_pipeline.prepare, `datasets.map` and datatrove; and the same Transformer, that of
pretrain/configs/sample_transformer.yaml, is trained on it by this package, by transformers' Trainer and by litgpt, from
the same weights on the same windows with the same optimiser, in float32 on the CPU. All take turns.
Options of pretrain.train after `--` change the model and the batch of all, such as -- --model.d_model 256.
"""

import argparse
import os
import tempfile
from pathlib import Path

from data_pipeline import CommandParser, UserError, at_least, user_errors, user_path
from data_pipeline.stopping import stoppable
from eval.bench.criteria import print_report
from maha_model import ConfigError

VOCABULARY = 8192


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--megabytes", type=at_least(1), default=64, help="size of the text")
    parser.add_argument("--workers", type=at_least(1), default=cores, help="processes that prepare it")
    parser.add_argument("--threads", type=at_least(1), default=cores, help="threads of each trainer")
    parser.add_argument("--steps", type=at_least(1), default=5, help="optimiser steps of a turn")
    parser.add_argument("--turns", type=at_least(1), default=8, help="turns of each trainer")
    parser.add_argument(
        "--litgpt-python", type=user_path, metavar="PATH",
        help="the Python of an environment that has litgpt (default: this one, and no row of litgpt if it has none)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of pretrain.train")
    args = parser.parse_args()
    with user_errors(ConfigError), stoppable(), tempfile.TemporaryDirectory(prefix="peers-") as name:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        try:
            from eval.bench.peers import text, training
        except ImportError as error:
            raise UserError(f"the peers are not installed ({error}); run: launch/setup.sh peers") from error
        folder = Path(name)
        training.check_options(args.options, VOCABULARY)
        trainers = training.trainers(folder, args.litgpt_python)
        source, tokenizer = folder / "source", folder / "tokenizer.json"
        text.write_text(source, args.megabytes * 10**6, args.workers)
        text.train_tokenizer(source / "train-00000.jsonl", VOCABULARY, tokenizer)
        prepared = text.bench_text(source, tokenizer, folder, args.workers)
        data = folder / text.OURS
        trained = training.bench_training(folder, data, args.options, args.steps, args.turns, args.threads, trainers)
    missing = [name for name, peer in (("datatrove", prepared["text"]), ("litgpt", trained["trainers"]))
               if not any(name in each for each in peer)]  # fmt: skip
    lines = [*text.lines_of(prepared), *training.lines_of(trained), *(f"not installed: {name}" for name in missing)]
    criteria = [*text.criteria_of(prepared), *training.criteria_of(trained)]
    print_report(lines, criteria, {"threads": args.threads, **prepared, **trained}, args.json)


if __name__ == "__main__":
    main()
