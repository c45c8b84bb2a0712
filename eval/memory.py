"""Memory of MAHA and its peers beside the paper's: python eval/memory.py --config pretrain/configs/paper.yaml [--json]

Every model is the configuration's transformer with another attention: the Transformer with its scores written out
(`eager`) and through torch's fused kernel (`SDPA`); Longformer as its published chunks (`banded`, window 512) and
through our fused span attention (MAHA's span); MAHA with both aggregations. One GB is 10^9 bytes.

Estimated for a GPU by fake tensors, which allocate nothing: a training step (forward, loss, backward of --batch windows
beside weights, gradients and Adam's states, as DeepSpeed holds them) in bfloat16 with float32 master weights, under
ZeRO 0 in float32, which is what the trainer offers; inference in bfloat16, a whole context to hidden states, logits
left out. What kernels use inside themselves and fragmentation are not in it.

Measured: on a GPU what CUDA's allocator gave for the same; on a CPU the exact peak of live tensor bytes of the first
--measured-layers layers in float32. Both are what a micro-batch or a forward pass adds to the weights, beside the
estimate of the very same.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from data_pipeline import UserError, user_errors
from data_pipeline.shipped import find_shipped
from eval.bench.criteria import print_report
from eval.bench.memory import inference_row, measured_rows, training_rows
from eval.bench.memory_peers import PEERS
from eval.bench.memory_table import criteria_of, describe, paper_gb, ratios
from eval.device import best_device
from maha_model import ConfigError, ModelConfig
from pretrain.memory import DeviceKind

VOCABULARY = 32000  # what data_pipeline.prepare makes of PG-19


def read_model(path: Path, vocab_size: int | None) -> ModelConfig:
    """The model of a run's YAML file.

    Raises:
        UserError: if it cannot be read or has no model.
        ConfigError: if the model's settings cannot work.
    """
    try:
        values = yaml.safe_load(find_shipped(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path} cannot be read: {' '.join(str(error).split())}") from error
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"--config {path} has no section `model`; give a file like pretrain/configs/paper.yaml")
    config = ModelConfig.from_dict(model)
    return replace(config, vocab_size=vocab_size or config.vocab_size or VOCABULARY)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="a run's YAML file; its section `model` is used")
    parser.add_argument("--vocab-size", type=int, help=f"default: the configuration's, or {VOCABULARY}")
    parser.add_argument("--batch", type=int, default=1, help="windows of the configuration's context (default 1)")
    parser.add_argument("--world-size", type=int, nargs="+", default=[1, 8], help="numbers of GPUs (default 1 8)")
    parser.add_argument(
        "--measured-layers", type=int, default=1, help="layers measured on a CPU; 0 measures nothing (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    args = parser.parse_args()
    with user_errors(ConfigError):
        for option, least in (("vocab_size", 1), ("batch", 1), ("measured_layers", 0)):
            value = getattr(args, option)
            if value is not None and value < least:
                raise UserError(f"--{option.replace('_', '-')} is {value}; it must be at least {least}")
        if min(args.world_size) < 1:
            raise UserError(f"--world-size is {min(args.world_size)}; it must be at least 1")
        base = read_model(args.config, args.vocab_size)
        for peer in PEERS.values():
            peer.config(base)  # a setting that one of them cannot have ends the command before anything runs
    training = [row for name in PEERS for row in training_rows(name, base, args.batch, args.world_size)]
    inference = [inference_row(name, base, args.batch) for name in PEERS]
    device: DeviceKind = "cuda" if best_device() == "cuda" else "cpu"
    layers = base.num_layers if device == "cuda" else min(base.num_layers, args.measured_layers)
    measured = []
    if layers:
        part = replace(base, num_layers=layers)
        measured = [row for name in PEERS for row in measured_rows(name, part, args.batch, device)]
    found = ratios(training, inference)
    report = {
        "model": base.to_dict(), "batch": args.batch, "world_sizes": args.world_size, "paper_gb": paper_gb(),
        "training": training, "inference": inference, "ratios": found, "measured": measured,
    }  # fmt: skip
    print_report(describe(report), criteria_of(found, measured, args.world_size[0]), report, args.json)


if __name__ == "__main__":
    main()
