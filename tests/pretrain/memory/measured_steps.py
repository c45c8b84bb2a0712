"""A script, not a test: real training steps under DeepSpeed, their peaks of live tensor bytes in a process.

Arguments: a JSON list of the options of several runs. The main process prints one line `PEAKS [bytes, ...]`.
"""

import gc
import json
import sys

import torch

from pretrain.config import parse_config
from pretrain.distributed import join_process_group
from pretrain.engine import build_engine
from pretrain.memory import LiveBytes


def peak_of_a_step(options: list[str], rank: int, world_size: int) -> float:
    """Bytes of the process that takes most, of the second optimiser step: from then on Adam's moments are there."""
    config = parse_config(options)
    with LiveBytes() as live:
        engine = build_engine(config, world_size)
        for _ in range(2):
            live.peak = live.now
            for _ in range(config.accumulation_steps(world_size)):
                ids = torch.randint(config.model.vocab_size, (config.micro_batch_size, config.model.context_length))
                ids = ids[:, config.context_split(rank).own].contiguous()
                loss = engine(ids, ids).loss
                engine.backward(loss * (1 + 0 * loss.detach()))
                del loss
                engine.step()
    engine.destroy()
    peak = torch.tensor(live.peak)
    torch.distributed.all_reduce(peak, torch.distributed.ReduceOp.MAX)
    return peak.item()


def main() -> None:
    """Measure every run of the argument."""
    rank = join_process_group()
    peaks = []
    for options in json.loads(sys.argv[1]):
        peaks.append(peak_of_a_step(options, rank.rank, rank.world_size))
        gc.collect()
    if rank.is_main:
        print("PEAKS", json.dumps(peaks), flush=True)


if __name__ == "__main__":
    main()
