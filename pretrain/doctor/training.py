"""Steps of the real trainer for each model: tokens a second, MFU, peak bytes beside the plan, launches."""

import dataclasses
import math
import time
from typing import Any

import torch

from maha_model import flops_per_token
from pretrain.batches import Batch
from pretrain.callbacks.throughput import device_peak_flops
from pretrain.config import RunConfig, parse_config
from pretrain.distributed import Rank
from pretrain.doctor.profile import profiled
from pretrain.doctor.report import Finding, size_of
from pretrain.doctor.setting import MODELS, TINY, Setting
from pretrain.engine import build_engine
from pretrain.memory import LiveBytes, Planner
from pretrain.prefetch import GPUBatches
from pretrain.progress import Progress
from pretrain.trainer import Trainer

SIZES = ("paper", "400m")
KEYS = (
    "parameters", "layers", "context_length", "micro_batch_size", "precision", "loss", "tokens_per_s", "mfu",
    "peak_bytes", "planned_bytes", "launches", "synchronisations", "copies",
)  # fmt: skip
VOCABULARY = 32000
TOLERATED = 0.1
"""By how much a peak may differ from the plan, as a share of it."""
UNPLANNED = {"cpu": 2**20, "cuda": 2**26}
"""Bytes that libraries hold beside what is planned."""


def run_config(setting: Setting, size: str, model: str) -> RunConfig:
    """The shipped configuration of a size with that model; on a CPU with one layer and a short context."""
    config = parse_config([f"--config=pretrain/configs/{size}.yaml"])
    fields: dict[str, Any] = {"vocab_size": VOCABULARY, **MODELS[model]}
    if setting.kind == "cpu" or setting.quick:
        config = dataclasses.replace(
            config, micro_batch_size=1, activation_checkpointing="none", deepspeed=RunConfig().deepspeed
        )
        fields |= TINY if setting.quick else {"vocab_size": 1024, "num_layers": 1, "context_length": 512}
        fields |= {"span": min(fields.get("span", 128), MODELS[model].get("span", 64))}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))
    return dataclasses.replace(config, global_batch_size=config.micro_batch_size)


def make_trainer(config: RunConfig, rank: Rank) -> Trainer:
    """The trainer's loop alone, on random tokens: the same of every step, also after a resume."""
    engine = build_engine(config, rank.world_size)
    shape, vocabulary = (config.micro_batch_size, config.model.context_length + 1), config.model.vocab_size

    def batches(first: int, _windows: int) -> list[Batch]:
        tokens = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(first))
        return [Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())]

    load = GPUBatches(batches, rank.device) if rank.device.type == "cuda" else batches
    return Trainer(config, rank, engine, load, Progress(), [])


def check_training(setting: Setting, size: str, model: str) -> Finding:
    """A few steps; a loss that is not that of a fresh model, or a peak unlike the plan, is a fault."""
    if setting.quick and size != SIZES[0]:
        return Finding("left out by --quick", {}, applies=False)
    rank, planner = setting.group_of_one(), Planner("cuda" if setting.kind == "cuda" else "cpu")
    config = run_config(setting, size, model)
    planned = planner.peak(config, 1)
    if setting.kind == "cuda":
        free = torch.cuda.mem_get_info(setting.device)[0]
        while planned > 0.9 * free and config.micro_batch_size > 1:
            half = config.micro_batch_size // 2
            config = dataclasses.replace(config, micro_batch_size=half, global_batch_size=half)
            planned = planner.peak(config, 1)
        if planned > 0.9 * free:
            why = f"does not fit: {size_of(planned)} planned, {size_of(free)} free"
            return Finding(why, {"planned_bytes": planned}, applies=False)
    torch.manual_seed(config.seed)
    trainer, peak = _with_peak(setting, config, rank)
    try:
        seconds, loss = _timed(setting, trainer)
        nothing = dict.fromkeys(("launches", "synchronisations", "copies"))
        counts: dict[str, Any] = profiled(trainer.train_step) if setting.kind == "cuda" else nothing
        parameters = list(trainer.engine.module.parameters())
        count, precision = sum(parameter.numel() for parameter in parameters), parameters[0].dtype
    finally:
        trainer.engine.destroy()
    tokens = config.global_batch_size * config.model.context_length
    flops = flops_per_token(config.model, config.model.context_length)
    values = {
        "parameters": count,
        "layers": config.model.num_layers,
        "context_length": config.model.context_length,
        "micro_batch_size": config.micro_batch_size,
        "precision": str(precision).removeprefix("torch."),
        "loss": loss,
        "tokens_per_s": tokens / seconds,
        "mfu": tokens / seconds * flops / device_peak_flops(setting.device),
        "peak_bytes": peak,
        "planned_bytes": planned,
        **counts,
    }
    summary = (
        f"{values['tokens_per_s']:,.0f} tokens/s, MFU {100 * values['mfu']:.1f} %, peak {size_of(peak)} "
        f"(planned {size_of(planned)})"
    )
    if setting.kind == "cuda":
        summary += f", {counts['launches']} launches, {counts['synchronisations']} synchronisations"
    reasons = dict.fromkeys(counts, "counted on a GPU only")
    return Finding(
        summary, values, reasons, _faults(loss, config.model.vocab_size, peak, planned, UNPLANNED[setting.kind])
    )


def _faults(loss: float, vocabulary: int, peak: int, planned: int, unplanned: int) -> list[str]:
    """What is wrong with a step's loss, in nats, and its peak."""
    faults = []
    if not abs(loss - math.log(vocabulary)) < 1.5:
        faults.append(f"the loss is {loss:.2f}, of a fresh model it is about {math.log(vocabulary):.2f}")
    if abs(peak - planned) > TOLERATED * planned + unplanned:
        faults.append(f"the peak is {size_of(peak)}, pretrain.plan counts {size_of(planned)}")
    return faults


def _with_peak(setting: Setting, config: RunConfig, rank: Rank) -> tuple[Trainer, int]:
    """A trainer after two steps, and the most bytes of the second: from then on Adam's moments are there."""
    if setting.kind == "cuda":
        before = torch.cuda.memory_allocated(setting.device)
        trainer = make_trainer(config, rank)
        trainer.train_step()
        torch.cuda.reset_peak_memory_stats(setting.device)
        trainer.train_step()
        return trainer, torch.cuda.max_memory_allocated(setting.device) - before
    with LiveBytes() as live:
        trainer = make_trainer(config, rank)
        trainer.train_step()
        live.peak = live.now
        trainer.train_step()
    return trainer, live.peak


def _timed(setting: Setting, trainer: Trainer) -> tuple[float, float]:
    """Seconds of a step, the median of some, and the loss of the last."""
    times, losses = [], []
    engine_loss = trainer.engine.module.register_forward_hook(lambda module, args, output: losses.append(output.loss))
    for _ in range(setting.choose(2, 3, 8)):
        start = time.perf_counter()
        trainer.train_step()
        if setting.kind == "cuda":
            torch.cuda.synchronize(setting.device)
        times.append(time.perf_counter() - start)
    engine_loss.remove()
    return sorted(times)[len(times) // 2], float(losses[-1].detach())
