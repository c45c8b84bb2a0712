"""A script, not a test: real training steps under DeepSpeed in this one process, their peaks of live tensor bytes.

Arguments: a JSON list of the options of several runs. Prints one line `PEAKS [bytes, ...]`.
"""

import gc
import json
import sys

import torch

from maha_model.memory import LiveBytes
from pretrain.config import parse_config
from pretrain.distributed import join_process_group
from pretrain.engine import build_engine


def peak_of_a_step(options: list[str]) -> int:
    """Bytes, of the second optimiser step: from then on Adam's moments are there."""
    config = parse_config(options)
    with LiveBytes() as live:
        engine = build_engine(config, world_size=1)
        for _ in range(2):
            live.peak = live.now
            for _ in range(config.accumulation_steps(1)):
                ids = torch.randint(config.model.vocab_size, (config.micro_batch_size, config.model.context_length))
                loss = engine(ids, ids).loss
                engine.backward(loss * (1 + 0 * loss.detach()))
                del loss
                engine.step()
    engine.destroy()
    return live.peak


def main() -> None:
    """Measure every run of the argument."""
    join_process_group()
    peaks = []
    for options in json.loads(sys.argv[1]):
        peaks.append(peak_of_a_step(options))
        gc.collect()
    print("PEAKS", json.dumps(peaks))


if __name__ == "__main__":
    main()
