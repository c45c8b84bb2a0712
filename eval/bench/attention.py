"""Time, memory and score arithmetic of MAHA and its peers: python eval/bench_attention.py [--json].

One block of width 256 with 4 heads, forward + backward on the CPU in float32, N from 1k to 32k; standard attention both
through torch's fused kernel (`sdpa`) and as written in textbooks (`eager`), with its N x N scores.
"""

import argparse
import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701

from data_pipeline import CommandParser
from eval.bench.criteria import Criterion, best_times, print_report
from eval.bench.eager_attention import EagerAttention
from maha_model import ModelConfig
from maha_model.initialization import initialize
from maha_model.kernels.descent import Geometry, scores_of_level
from maha_model.kernels.index import pairs_compared
from maha_model.kernels.span import scores_computed
from maha_model.transformer import Block
from pretrain.memory import LiveBytes, keep_freed_memory

LENGTHS = [1024 * 2**i for i in range(6)]
FITTED_FROM = 4096
EAGER_UP_TO = 4096  # beyond, its score tensors alone are gigabytes
NAMES = {
    "maha": "MAHA",
    "descent": "MAHA, descent",
    "index": "MAHA, index",
    "sdpa": "standard, fused",
    "eager": "standard, eager",
    "longformer": "Longformer",
}


DESCENT: dict[str, Any] = {"descent": 4, "query": "fine", "positions": "token", "span": 64, "coarse_span": 16}
"""What a descent has besides; its scales are as many as leave the coarsest, which is seen whole, at most 128 tokens."""
COARSEST = 128
INDEX: dict[str, Any] = {
    "descent": 16, "choice": "index", "query": "fine", "positions": "token", "num_scales": 2, "ratio": 8,
}  # fmt: skip
"""What a choice by an index has besides."""


class ScoreCounter(TorchDispatchMode):
    """Multiply-adds of the query-key products of a forward pass, from the shapes that reach the attention operators."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation and run it."""
        if func is torch.ops.maha.span_attention.default:
            (B, H, N, dk), (span, causal) = args[0].shape, args[3:]
            self.multiply_adds += B * H * dk * scores_computed(N, span, causal)
        elif func is torch.ops.maha.attend_level.default:
            (B, H, M, _), (n, dk), parents = args[0].shape, args[1].shape[2:], args[3]
            geometry = Geometry(*args[5])
            seen = None if parents is None else parents.shape[3]
            self.multiply_adds += B * H * dk * scores_of_level(M, n, seen, geometry)
        elif func is torch.ops.maha.choose_blocks.default:
            self.multiply_adds += pairs_compared(*args) * args[0].shape[3]
        elif func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:  # noqa: SLF001
            B, H, N, d = args[0].shape
            assert args[4], "causal"
            # what its blocks compute is not visible: counted as full causal attention by our compiled loops
            self.multiply_adds += B * H * d * scores_computed(N, N)
        elif func is torch.ops.aten.bmm.default and args[0].shape[1] == args[1].shape[2] > args[0].shape[2]:
            self.multiply_adds += math.prod(args[0].shape) * args[1].shape[2]
        return func(*args, **(kwargs or {}))


def build(name: str, length: int) -> Block:
    """A block of width 256 with 4 heads; MAHA has 3 scales, ratio 4, span 128, Longformer the same span."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {"attention": "longformer" if name == "longformer" else "standard"}
    if name == "index":
        fields = INDEX
    elif name in ("maha", "descent"):
        scales = next(L for L in range(1, 9) if length // 4 ** (L - 1) <= COARSEST)
        fields = {**DESCENT, "num_scales": scales} if name == "descent" else {}
    config = ModelConfig(
        vocab_size=1, context_length=LENGTHS[-1], d_model=256, num_heads=4, num_layers=1, d_ff=688,
        **{"span": 128, **fields},
    )  # fmt: skip
    block = Block(config)
    if name == "eager":
        block.attention = EagerAttention(config)
    initialize(block, config)
    return block


def step(block: Block, x: Tensor, direction: Tensor) -> None:
    """Forward and backward."""
    torch.autograd.grad(block(x)[0], [x, *block.parameters()], direction)


def measure(length: int) -> list[dict[str, Any]]:
    """A row for each model that runs at this length."""
    blocks = {name: build(name, length) for name in NAMES if name != "eager" or length <= EAGER_UP_TO}
    x = torch.randn(1, length, 256, requires_grad=True)
    direction = torch.randn(1, length, 256)
    steps = {name: functools.partial(step, block, x, direction) for name, block in blocks.items()}
    times = best_times(steps, seconds=1.5, most=8)
    rows = []
    for name, block in blocks.items():
        with LiveBytes([x, direction, *block.parameters()]) as live:
            step(block, x, direction)
        with torch.no_grad(), ScoreCounter() as counter:
            block(x)
        row = {"model": name, "length": length, "seconds": times[name], "peak_bytes": live.peak}
        rows.append({**row, "score_multiply_adds": counter.multiply_adds})
    return rows


def exponent(rows: list[dict[str, Any]], model: str, of: str) -> float:
    """Slope of log(value) over log(N), by least squares, from FITTED_FROM on."""
    points = [(math.log(r["length"]), math.log(r[of])) for r in rows if r["model"] == model]
    x, y = torch.tensor([p for p in points if p[0] >= math.log(FITTED_FROM)], dtype=torch.float64).T
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    as_json = parser.parse_args().json
    keep_freed_memory()
    rows = [row for length in LENGTHS for row in measure(length)]

    def value(model: str, length: int, of: str) -> float:
        return next(row[of] for row in rows if row["model"] == model and row["length"] == length)

    def ratio(of: str, length: int, over: str, under: str = "maha") -> float:
        return value(under, length, of) / value(over, length, of)

    def slowest(under: str, over: str) -> float:
        return max(ratio("seconds", length, over, under) for length in LENGTHS if length >= FITTED_FROM)

    criteria = [
        Criterion(
            "fewer score multiply-adds than causal attention by the same loops, N = 4096",
            1 - ratio("score_multiply_adds", 4096, "sdpa"), 0.81, at_least=True,
        ),
        Criterion("exponent of time over N, 4k to 32k", exponent(rows, "maha", "seconds"), 1.1),
        Criterion("time over the SDPA block's, the most from N = 4096 on", slowest("maha", "sdpa"), 1),
        Criterion("time over Longformer's, the most from N = 4096 on", slowest("maha", "longformer"), 1.15),
        Criterion(
            "times faster than the SDPA block at 32k", 1 / ratio("seconds", LENGTHS[-1], "sdpa"), 5, at_least=True
        ),
        Criterion(
            "descent: share of causal attention's score multiply-adds by the same loops, N = 4096",
            ratio("score_multiply_adds", 4096, "sdpa", "descent"), 0.25,
        ),
        Criterion("descent: exponent of time over N, 4k to 32k", exponent(rows, "descent", "seconds"), 1.1),
        Criterion("descent: time over Longformer's, the most from N = 4096 on", slowest("descent", "longformer"), 1.5),
        Criterion(
            "descent: times faster than the SDPA block at 32k", 1 / ratio("seconds", LENGTHS[-1], "sdpa", "descent"), 5,
            at_least=True,
        ),
        Criterion(
            "index: share of causal attention's score multiply-adds by the same loops, N = 4096",
            ratio("score_multiply_adds", 4096, "sdpa", "index"), 0.25,
        ),
        Criterion("exponent of peak live bytes over N, 4k to 32k", exponent(rows, "maha", "peak_bytes"), 1.05),
        Criterion("peak live bytes over eager attention's, N = 4096", ratio("peak_bytes", 4096, "eager"), 0.44),
        Criterion("peak live bytes over the SDPA block's, N = 4096", ratio("peak_bytes", 4096, "sdpa"), 1.35),
    ]  # fmt: skip
    lines = [f"{'N':>6}  {'model':18}{'seconds':>9}{'peak MiB':>10}{'score MACs':>14}"]
    lines += [
        f"{r['length']:>6}  {NAMES[r['model']]:18}{r['seconds']:>9.3f}{r['peak_bytes'] / 2**20:>10.1f}"
        f"{r['score_multiply_adds'] / 1e6:>12,.1f} M"
        for r in rows
    ]
    exponents = {name: {of: exponent(rows, name, of) for of in ("seconds", "peak_bytes")} for name in NAMES
                 if name != "eager"}  # fmt: skip
    lines += [
        f"exponents from 4k: {NAMES[name]}: time {e['seconds']:.2f}, memory {e['peak_bytes']:.2f}"
        for name, e in exponents.items()
    ]
    details = {"threads": torch.get_num_threads(), "rows": rows, "exponents": exponents}
    print_report(lines, criteria, details, as_json)


if __name__ == "__main__":
    main()
