"""One of the processes of `eval.bench.parallel`."""

import json
import resource
import time
from pathlib import Path

import torch
import torch.distributed as dist

from maha_model import CausalLM, ModelConfig
from maha_model.parallel import ContextSplit, part_sizes, register_group
from pretrain.memory import keep_freed_memory

STEP = ModelConfig(vocab_size=512, d_model=256, num_layers=2, num_heads=4, d_ff=704, span=128)
STEP_TOKENS, ROUNDS = 16384, 4
LONG = ModelConfig(vocab_size=512, d_model=32, num_layers=2, num_heads=2, d_ff=88, span=128, num_scales=4)


def step_times(rank: int, count: int, folder: str) -> None:
    """Seconds of a step of `STEP_TOKENS` tokens a process, of its own window (`apart`) and of one that all share.

    Those on a clock, and those of the processor.
    """
    group = _join(rank, count, folder)
    keep_freed_memory()  # (not in a long step, whose peak of resident bytes then held freed blocks too)
    split = ContextSplit(part_sizes(STEP_TOKENS * count, count, STEP.context_unit), rank, group)
    torch.manual_seed(0)
    model = CausalLM(STEP)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(STEP.vocab_size, (1, STEP_TOKENS))
    spent: dict[str, list[float]] = {"apart": [], "shared": [], "apart_busy": [], "shared_busy": []}
    for _ in range(ROUNDS + 1):
        for name, part in (("apart", None), ("shared", split)):
            model.context_parallel = part
            dist.barrier()
            start, busy = time.perf_counter(), time.process_time()
            _step(model, optimizer, ids, ids)
            spent[name].append(time.perf_counter() - start)
            spent[f"{name}_busy"].append(time.process_time() - busy)
    # the first warms up; the shortest of those that follow is least disturbed by other work on the machine
    Path(folder, str(rank)).write_text(json.dumps({name: min(times[1:]) for name, times in spent.items()}))
    dist.destroy_process_group()


def long_step(rank: int, count: int, folder: str, length: int) -> None:
    """The loss of one step on a window of `length` tokens, and this process's peak of resident bytes."""
    group = _join(rank, count, folder)
    torch.manual_seed(0)
    model = CausalLM(LONG)
    model.activation_checkpointing = "block"
    windows = torch.randint(LONG.vocab_size, (1, length + 1))
    own = slice(0, length)
    if count > 1:
        model.context_parallel = ContextSplit(part_sizes(length, count, LONG.context_unit), rank, group)
        own = model.context_parallel.own
    loss = _step(model, torch.optim.AdamW(model.parameters()), windows[:, :-1][:, own], windows[:, 1:][:, own])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(folder, str(rank)).write_text(json.dumps({"loss": loss, "peak_bytes": peak}))
    dist.destroy_process_group()


def _join(rank: int, count: int, folder: str) -> str:
    """The name of the group of all processes, each on a thread of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    assert dist.group.WORLD is not None
    return register_group(dist.group.WORLD)


def _step(model: CausalLM, optimizer: torch.optim.Optimizer, ids: torch.Tensor, targets: torch.Tensor) -> float:
    """Forward, backward, update; gradients of several processes are averaged, as data parallelism does."""
    loss = model(ids, targets).loss
    assert loss is not None
    loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
