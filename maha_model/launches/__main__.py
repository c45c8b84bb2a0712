"""Print what a block launches: python -m maha_model.launches [--each]."""

from typing import Any

from maha_model.arguments import OneLineParser
from maha_model.config import ModelConfig
from maha_model.launches.layer import count_block

BLOCKS: dict[str, dict[str, Any]] = {
    "Transformer": {"attention": "standard"},
    "Longformer": {"attention": "longformer"},
    "MAHA": {},
    "MAHA, descent": {"num_scales": 4, "query": "fine", "positions": "token", "descent": 8, "descent_groups": 1},
    "MAHA, index": {"num_scales": 2, "query": "fine", "positions": "token", "descent": 8, "choice": "index"},
}
"""By name, what differs from `paper`."""


def main() -> None:
    """Forward, backward and total of every block of width 768 with 12 heads at 4,096 tokens."""
    parser = OneLineParser(prog="python -m maha_model.launches", description=__doc__)
    parser.add_argument("--each", action="store_true", help="every operation and Triton kernel, not only their number")
    each = parser.parse_args().each
    for name, options in BLOCKS.items():
        passes = count_block(ModelConfig.named("paper", **options))
        waits = passes.forward.waits + passes.backward.waits
        print(
            f"{name}: {passes.total} ({passes.forward.total} forward, {passes.backward.total} backward), "
            f"{waits.total()} waits"
        )
        if each:
            for direction, counted in passes._asdict().items():
                listed = ", ".join(f"{count} {operation}" for operation, count in counted.operations.most_common())
                print(f"  {direction}: {listed}")


if __name__ == "__main__":
    main()
