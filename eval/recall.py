"""Spread associative recall: python -m eval.recall --attention maha [--length N] [--pairs K] [--steps S] [--json]

Trains a small model on sequences that show key-value pairs anywhere in their first half and query every key once in
their second, and prints the share of queries answered right after some of the updates. See eval/tasks/recall.py.
"""

import argparse
from typing import Any

import yaml

from data_pipeline import UserError, user_errors
from eval.device import best_device, device_name
from eval.tasks import RecallTask, Training, train
from eval.undefined import to_json
from maha_model import ConfigError, ModelConfig

MODEL: dict[str, Any] = {
    "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "span": 16, "init_std": 0.1, "recency": 8.0,
}  # fmt: skip
"""The model's settings where --set gives no other."""
FIXED = {"attention": "--attention", "context_length": "--length", "vocab_size": "--keys and --values"}
"""Settings that --set does not take, with the options that they follow from."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", required=True, choices=("standard", "longformer", "maha"))
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="model.KEY=VALUE", help="settings of the model"
    )
    parser.add_argument("--length", type=int, default=RecallTask.length, help="tokens of a sequence")
    parser.add_argument("--pairs", type=int, default=RecallTask.pairs, help="pairs of a sequence")
    parser.add_argument("--keys", type=int, default=RecallTask.keys, help="different keys")
    parser.add_argument("--values", type=int, default=RecallTask.values, help="different values")
    parser.add_argument("--gap", type=int, default=RecallTask.gap, help="tokens between all pairs and all queries")
    parser.add_argument("--steps", type=int, default=Training.steps, help="updates")
    parser.add_argument("--batch-size", type=int, default=Training.batch_size, help="sequences of an update")
    parser.add_argument("--lr", type=float, default=Training.lr, help="peak of the learning rate")
    parser.add_argument("--seed", type=int, default=Training.seed)
    parser.add_argument("--device", type=device_name, default=best_device())
    parser.add_argument("--json", action="store_true", help="print one JSON object, when all is done")
    args = parser.parse_args()
    with user_errors(ConfigError):
        task = RecallTask(length=args.length, pairs=args.pairs, keys=args.keys, values=args.values, gap=args.gap)
        training = Training(
            steps=args.steps, batch_size=args.batch_size, lr=args.lr, seed=args.seed, device=args.device
        )  # fmt: skip
        given = {**MODEL, "attention": args.attention, **model_settings(args.set)}
        config = ModelConfig.from_dict({**given, "vocab_size": task.vocab_size, "context_length": task.length})
        points = []
        for point in train(config, task, training):
            points.append(point)
            if not args.json:
                print(f"update {point.update:>6}: loss {point.loss:.3f}, accuracy {point.accuracy:.3f}", flush=True)
    if args.json:
        values = {"task": vars(task), "model": config.to_dict(), "training": vars(training), "chance": task.chance}
        print(to_json({**values, "points": [p._asdict() for p in points], "accuracy": points[-1].accuracy}))
    else:
        print(f"accuracy {points[-1].accuracy:.3f}, by chance {task.chance:.3f}")


def model_settings(assignments: list[str]) -> dict[str, Any]:
    """The nested settings of `model.KEY=VALUE` assignments, KEY with dots, VALUE in YAML.

    Raises:
        UserError: if one is no such assignment.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, *keys = name.split(".")
        if not equals or section != "model" or not all(keys) or not keys:
            raise UserError(f"--set {assignment} is no setting of the model; give it as model.KEY=VALUE")
        if keys[0] in FIXED:
            raise UserError(f"--set {assignment}: model.{keys[0]} follows from {FIXED[keys[0]]}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: the value is not YAML") from error
        place = settings
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {assignment} is within a setting that is given a value itself")
        place[keys[-1]] = value
    return settings


if __name__ == "__main__":
    main()
