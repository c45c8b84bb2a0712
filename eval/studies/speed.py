"""Measured time of a training step, for groups whose runs take equal time."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from data_pipeline.files import atomic_write
from eval.bench.criteria import best_times
from eval.device import best_device, means_bfloat16
from eval.studies.study import Study, StudyGroup
from maha_model import CausalLM, ModelConfig


def step_seconds(study: Study, group: StudyGroup, vocab_size: int, out: Path, threads: int) -> dict[str, float]:
    """Time of a training step of every model of a group with `time_of`, taken in turns; measured once, then kept."""
    path = out / f"speed-{group.name}.json"
    if not path.exists():
        device = best_device()
        torch.set_num_threads(threads)
        (context,) = group.context_lengths
        windows = max(1, min(study.tokens_of_step(group), study.micro_batch_tokens) // context)
        dtype = torch.bfloat16 if means_bfloat16(study.base.get("precision", "auto")) else torch.float32
        steps = {
            name: _step(study.model_config(name, context, vocab_size), windows, device, dtype)
            for name in dict.fromkeys([*group.models, group.time_of])
        }
        with atomic_write(path) as file:
            file.write(json.dumps(best_times(steps, seconds=20)).encode())
    return {name: float(value) for name, value in json.loads(path.read_bytes()).items()}


def _step(config: ModelConfig, windows: int, device: str, dtype: torch.dtype) -> Callable[[], None]:
    """Forward, backward and AdamW on random tokens."""
    torch.manual_seed(0)
    model = CausalLM(config).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(config.vocab_size, (windows, config.context_length), device=device)

    def step() -> None:
        loss = model(ids, ids).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step
