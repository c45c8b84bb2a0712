"""From a model and a configuration to a DeepSpeed engine; the only place that writes DeepSpeed's configuration."""

import functools
import math
from typing import Any

import deepspeed
import torch

from maha_model import MAHAForCausalLM
from pretrain.config import OptimizerConfig, RunConfig, read_deepspeed_config, use_bfloat16


class NonFiniteError(RuntimeError):
    """The loss or the gradient was NaN or infinite; nothing was updated from it."""


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices (embeddings and convolution taps included) decay; norms, biases and other vectors do not."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(model: torch.nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW without its own schedule: the loop sets the rate of every step."""
    groups = [group for group in parameter_groups(model, config.weight_decay) if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


def build_engine(model: MAHAForCausalLM, config: RunConfig, world_size: int) -> deepspeed.DeepSpeedEngine:
    """`deepspeed.initialize` with batch sizes, clipping and precision from the run's configuration.

    After every step `engine.get_global_grad_norm()` is the gradient's norm before clipping, whatever the ZeRO stage.
    """
    settings = read_deepspeed_config(config)
    bfloat16, clip = use_bfloat16(config), config.optimizer.grad_clip
    # With ZeRO 0 in float32 DeepSpeed steps the given optimiser as it is, and forgets the norm it clips by.
    plain = settings.get("zero_optimization", {}).get("stage", 0) == 0 and not bfloat16
    settings |= {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps(world_size),
        "gradient_clipping": 0.0 if plain else clip,
        "bf16": {"enabled": bfloat16},
    }
    model.activation_checkpointing = config.activation_checkpointing
    if config.compile:
        model.compile()
    optimizer = build_optimizer(model, config.optimizer)
    if plain:
        optimizer.register_step_pre_hook(functools.partial(_clip, list(model.parameters()), clip))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine


def _clip(parameters: list[torch.nn.Parameter], clip: float, optimizer: Any, *_: Any) -> None:
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip or float("inf")).item()
    if not math.isfinite(norm):  # DeepSpeed's own optimisers skip such an update; this one would spoil the weights
        raise NonFiniteError(f"the gradient norm is {norm}")
    optimizer._global_grad_norm = norm  # where DeepSpeed looks for it
