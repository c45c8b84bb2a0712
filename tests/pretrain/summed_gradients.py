"""A script, not a test: how much of small gradients is in the sum over micro-batches, and in that over processes.

Arguments: a JSON list of the options of several runs, of two processes with 8 micro-batches each. The main process
prints one line `SHARES [[over micro-batches, over processes], ...]`: 1 where nothing is lost.
"""

import json
import sys

import torch

from pretrain.config import parse_config
from pretrain.distributed import join_process_group
from pretrain.engine import build_engine

LARGE = 1024.0  # of whose multiple of a number the number itself is less than half of bfloat16's last place


def shares(options: list[str], rank: int) -> list[float]:
    """Gradients g of one batch, each times a power of two, which bfloat16 does not round: LARGE g and then g again."""
    config = parse_config(options)
    engine = build_engine(config, world_size=2)
    ids = torch.randint(
        config.model.vocab_size, (config.micro_batch_size, config.model.context_length),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip

    def norm(*scales: float) -> float:
        """The gradient's norm in a step, without an update, whose micro-batches' losses are scaled so."""
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.0
        for scale in [*scales, *[0.0] * (config.accumulation_steps(2) - len(scales))]:
            engine.backward(engine(ids, ids).loss * scale)
            engine.step()
        return float(engine.get_global_grad_norm())

    alone, of_one = norm(LARGE), norm(LARGE if rank == 0 else 0.0)
    over_micro_batches = (norm(LARGE, *[1.0] * 7) / alone - 1) * LARGE / 7
    over_processes = (norm(LARGE if rank == 0 else 1.0) / of_one - 1) * LARGE
    engine.destroy()
    return [over_micro_batches, over_processes]


def main() -> None:
    """Measure every run of the argument."""
    rank = join_process_group()
    found = [shares(options, rank.rank) for options in json.loads(sys.argv[1])]
    if rank.is_main:
        print("SHARES", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
