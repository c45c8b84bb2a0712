"""What sharing a window among processes costs: python -m eval.bench parallel [--million] [--json].

Bytes on the wire are counted on shapes, through the code that sends them, at 4k to 256k tokens in 8 parts. A step's
time at the same tokens a process is measured in two processes that share a window against the same two, each with a
window of its own: so what two busy cores cost each other is in both. --million trains one step on a window of
1,048,576 tokens in two processes, and in one to compare the loss.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.multiprocessing

from data_pipeline import CommandParser, user_errors
from eval.bench.criteria import Criterion, print_report
from eval.bench.parallel_ranks import long_step, step_times
from maha_model import ConfigError
from pretrain.memory import WireBytes, wire_bytes
from pretrain.session import parse_config

PARTS = 8
LENGTHS = [2**exponent for exponent in (12, 14, 16, 18)]
WIRE_MODEL = ["--model.vocab_size=512", "--model.span=64", "--micro_batch_size=1", "--global_batch_size=1",
              "--precision=bfloat16"]  # fmt: skip
DESCENT = ["--model.descent=8", "--model.query=fine", "--model.positions=token", "--activation_checkpointing=selective"]
MILLION = 2**20
GIB = 2**30


def bytes_on_the_wire(length: int, *options: str) -> WireBytes:
    """A layer and process send in a step over one window of that length in 8 parts."""
    sizes = [f"--model.context_length={length}", f"--context_parallel={PARTS}"]
    return wire_bytes(parse_config([*WIRE_MODEL, *sizes, *options]), PARTS)


def in_processes(count: int, function: Callable[..., None], *args: Any) -> list[dict[str, float]]:
    """What `function(rank, count, folder, *args)` writes as JSON to folder/RANK in so many new processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(function, (count, folder, *args), nprocs=count)
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(count)]


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="train a step at 1,048,576 tokens too (minutes, 20 GiB)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    with user_errors(ConfigError):
        wire = {length: bytes_on_the_wire(length) for length in LENGTHS}
        descent = {length: bytes_on_the_wire(length, *DESCENT) for length in LENGTHS}
        times = in_processes(2, step_times)
        million = {}
        if arguments.million:
            million = {count: in_processes(count, long_step, MILLION) for count in (2, 1)}
    last = wire[LENGTHS[-1]]
    apart, shared = (max(rank[name] for rank in times) for name in ("apart", "shared"))
    criteria = [
        Criterion("bytes at 256k tokens over those at 4k", last.exchanged / wire[LENGTHS[0]].exchanged, 1),
        Criterion("bytes over ring attention's at 256k, 8 parts", last.exchanged / last.ring, 1 / 50),
        Criterion("a step that two share over one that they do not", shared / apart, 1.1),
    ]
    lines = [f"{'tokens':>9}{'MiB a layer':>13}{'with descent':>14}{'ring':>10}{'Ulysses':>10}"]
    for length in LENGTHS:
        numbers = wire[length].exchanged, descent[length].exchanged, wire[length].ring, wire[length].ulysses
        lines.append("{:>9}{:>13.2f}{:>14.2f}{:>10.2f}{:>10.2f}".format(length, *(n / 2**20 for n in numbers)))
    busy = {name: sum(rank[f"{name}_busy"] for rank in times) / len(times) for name in ("apart", "shared")}
    lines.append(f"a step: {apart:.2f} s apart, {shared:.2f} s shared")
    lines.append(f"of it busy: {busy['apart']:.2f} s apart, {busy['shared']:.2f} s shared")
    if million:
        both, alone = (sum(rank["peak_bytes"] for rank in million[count]) / GIB for count in (2, 1))
        losses = [million[count][0]["loss"] for count in (2, 1)]
        criteria += [
            Criterion("GiB of two processes at a million tokens", both, 20),
            Criterion("their loss against that of one, relative", abs(losses[0] / losses[1] - 1), 1e-6),
        ]
        lines.append(f"1,048,576 tokens: {both:.1f} GiB in two processes, {alone:.1f} GiB in one; losses {losses}")
    details = {
        "wire": {length: {"spans": asdict(wire[length]), "descent": asdict(descent[length])} for length in LENGTHS},
        "step_seconds": times, "million": million,
    }  # fmt: skip
    print_report(lines, criteria, details, arguments.json)


if __name__ == "__main__":
    main()
