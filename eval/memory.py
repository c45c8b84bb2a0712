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
from pathlib import Path

from data_pipeline import CommandParser, at_least, user_errors
from eval.bench.criteria import print_report
from eval.bench.memory_report import VOCABULARY, memory_report, read_model
from eval.bench.memory_table import criteria_of, describe
from maha_model import ConfigError


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="a run's YAML file; its section `model` is used")
    parser.add_argument("--vocab-size", type=at_least(1), help=f"default: the configuration's, or {VOCABULARY}")
    parser.add_argument(
        "--batch", type=at_least(1), default=1, help="windows of the configuration's context (default 1)"
    )
    parser.add_argument(
        "--world-size", type=at_least(1), nargs="+", default=[1, 8], help="numbers of GPUs (default 1 8)"
    )
    parser.add_argument(
        "--measured-layers",
        type=at_least(0),
        default=1,
        help="layers measured on a CPU; 0 measures nothing (default 1)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    args = parser.parse_args()
    with user_errors(ConfigError):
        base = read_model(args.config, args.vocab_size)
    report = memory_report(base, args.batch, args.world_size, args.measured_layers)
    criteria = criteria_of(report["ratios"], report["measured"], args.world_size[0])
    print_report(describe(report), criteria, report, args.json)


if __name__ == "__main__":
    main()
