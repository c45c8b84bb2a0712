"""An all-reduce over all ranks: whether the sum is right, and how fast it is."""

import functools
import time

import torch
import torch.distributed as dist

from pretrain.distributed import open_process_group
from pretrain.doctor.ranks import Ranks
from pretrain.doctor.report import Finding
from pretrain.doctor.runner import Check
from pretrain.doctor.setting import Setting

NAME = "collective"
KEYS = ("backend", "world_size", "bytes", "seconds", "bus_bytes_per_s")
_REPEATS = 5


def collective_check(ranks: Ranks, seconds: float) -> Check:
    """The check of these ranks; a rank that does not come within `seconds` is a fault on all."""
    return Check(NAME, KEYS, functools.partial(_check_collective, ranks, seconds))


def _check_collective(ranks: Ranks, seconds: float, setting: Setting) -> Finding:
    if ranks.store is None:
        return Finding("one process", {"world_size": 1}, applies=False)
    elements = setting.choose(2**16, 2**20, 2**26)
    store = dist.PrefixStore("doctor/group", ranks.store)
    n = ranks.world_size
    backend = open_process_group(store, ranks.store.host, ranks.rank, n, setting.device, seconds)
    try:
        pattern = torch.arange(elements, device=setting.device) % 7
        total = (pattern + ranks.rank).float()
        dist.all_reduce(total)
        wrong = int((total != n * pattern + n * (n - 1) // 2).sum())
        times = []
        for _ in range(_REPEATS):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(total)
            total[0].item()  # waits for the device
            times.append(time.perf_counter() - start)
    finally:
        dist.destroy_process_group()
    spent = min(times)
    moved = 4 * elements * 2 * (n - 1) / n  # what every rank sends and receives in a ring
    values = {
        "backend": backend,
        "world_size": n,
        "bytes": 4 * elements,
        "seconds": spent,
        "bus_bytes_per_s": moved / spent,
    }
    summary = f"{backend}, {n} ranks: {moved / spent / 1e9:.2f} GB/s (bus) for {4 * elements / 1e6:.0f} MB"
    return Finding(summary, values, faults=[f"{wrong} of {elements} sums over the ranks are wrong"] if wrong else [])
