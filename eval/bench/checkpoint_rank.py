"""One rank of the benchmark of checkpoints: python -m eval.bench.checkpoint_rank RESULT [the run's options]

Writes RESULT-rank-N.json: this process's share of a checkpoint and the most that its memory grew while it was saved, in
bytes; the median seconds of a step, of training's wait for a save, and of what a save costs in all.
"""

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path

from pretrain.session import Checkpointing, Trainer, parse_config, training_session

SAVES, STEPS = 3, 4
"""Steps beside each save, and without one."""


def peak_of_a_save(trainer: Trainer) -> dict[str, int]:
    """Bytes of this rank's part, and the most that resident memory grew until all parts were on disk."""
    checkpointing = trainer.callback(Checkpointing)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier steps have freed would hide what a save takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _memory("VmRSS")
    checkpointing.save(trainer)
    checkpointing.wait(trainer)
    peak = _memory("VmHWM")
    part = next((trainer.config.out / "checkpoints").glob(f"step-*/rank-{trainer.rank.rank:05d}-*"))
    return {"share": part.stat().st_size, "grown": peak - before}


def seconds_of_saves(trainer: Trainer) -> dict[str, float]:
    """Medians: a step without a save, training's wait for a save, and what a save adds to the steps beside it."""
    checkpointing = trainer.callback(Checkpointing)
    spent: dict[bool, list[float]] = {True: [], False: []}
    waits = []
    for number in range(2 * SAVES):
        saves = number % 2 == 0
        start = time.perf_counter()
        if saves:
            checkpointing.save(trainer)
            waits.append(time.perf_counter() - start)
        for _ in range(STEPS):
            trainer.train_step()
        checkpointing.wait(trainer)
        spent[saves].append(time.perf_counter() - start)
    without = statistics.median(spent[False])
    return {
        "step": without / STEPS,
        "waiting": statistics.median(waits),
        "cost": statistics.median(spent[True]) - without,
    }


def _memory(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """The command."""
    result, *options = sys.argv[1:]
    with training_session(parse_config(options)) as trainer:
        trainer.train_step()
        values = {**peak_of_a_save(trainer), **seconds_of_saves(trainer)}
        Path(f"{result}-rank-{trainer.rank.rank}.json").write_text(json.dumps(values))
        trainer.finish()


if __name__ == "__main__":
    main()
