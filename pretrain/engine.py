"""From a model and a configuration to a DeepSpeed engine; the only place that writes DeepSpeed's configuration."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from maha_model import CausalLM
from maha_model.hidden import hidden_matrices
from maha_model.parallel import register_group
from pretrain.config import OptimizerConfig, RunConfig, read_deepspeed_config, use_bfloat16
from pretrain.deepspeed_config import zero_stage
from pretrain.distributed import local_device, neighbours
from pretrain.lean_deepspeed import deepspeed
from pretrain.muon import MuonAdamW, place_matrices

# or DeepSpeed warns of it; torch's AdamW is in the list
deepspeed.runtime.zero.utils.ZERO_SUPPORTED_OPTIMIZERS.append(MuonAdamW)


def parameter_groups(model: torch.nn.Module, config: OptimizerConfig, width_ratio: float = 1.0) -> list[dict[str, Any]]:
    """Matrices (embeddings and convolution taps included) decay; norms, biases and other vectors do not.

    With Muon the hidden matrices come first, in a group with its `momentum`; so they do with a `width_ratio`
    (`ModelConfig.width_ratio`). Their rate is then `rate_scale` of the others': as muP has it 1/ratio with AdamW (Yang
    et al. 2022, arXiv 2203.03466, table 8), whose updates of a matrix are about of rank 1, and 1/sqrt(ratio) with Muon,
    whose are of full rank: either way a step changes what the matrix makes of its input alike at all widths. The decay
    of a step is that of the others.
    """
    muon = config.name == "muon"
    hidden = hidden_matrices(model) if muon or width_ratio != 1 else []
    scale = width_ratio ** (-0.5 if muon else -1.0)
    of_muon = {"momentum": config.momentum} if muon else {}
    apart = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    decayed = [parameter for parameter in rest if len(whole_shape(parameter)) >= 2]
    plain = [parameter for parameter in rest if len(whole_shape(parameter)) < 2]
    groups = [
        {"params": hidden, "weight_decay": config.weight_decay / scale, "rate_scale": scale} | of_muon,
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_rate(groups: list[dict[str, Any]], rate: float) -> None:
    """The learning rate of an optimiser's `param_groups`."""
    for group in groups:
        group["lr"] = rate * group.get("rate_scale", 1.0)


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """The shape of a parameter of which ZeRO 3 may have left this process a part."""
    return getattr(parameter, "ds_shape", parameter.shape)


class ClippingAdamW(torch.optim.AdamW):
    """AdamW that clips by the global gradient norm and skips an update whose norm is not finite, as ZeRO's do."""

    def __init__(self, groups: list[dict[str, Any]], clip: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self._clip = clip or math.inf

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip and update, or do nothing. DeepSpeed reads the norm from `_global_grad_norm`."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._global_grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip).item()
        if math.isfinite(self._global_grad_norm):
            super().step(closure)


class ClippingMuonAdamW(ClippingAdamW, MuonAdamW):
    """The same of Muon and AdamW, by one norm."""


def build_optimizer(
    model: torch.nn.Module, config: OptimizerConfig, clips: bool, fused: bool = False, width_ratio: float = 1.0
) -> torch.optim.AdamW:
    """AdamW, or Muon and AdamW, without a schedule: the loop sets each step's rate. ZeRO's wrappers clip by themselves.

    `width_ratio` is that of the model's configuration.

    `fused`: one kernel for many parameters, without temporaries, and the number of steps on their device: for GPUs.
    """
    groups = parameter_groups(model, config, width_ratio)
    betas = config.beta1, config.beta2
    options: dict[str, Any] = {"lr": config.lr, "betas": betas, "eps": config.eps, "fused": fused or None}
    kinds = {
        ("adamw", False): torch.optim.AdamW,
        ("adamw", True): ClippingAdamW,
        ("muon", False): MuonAdamW,
        ("muon", True): ClippingMuonAdamW,
    }
    clip: dict[str, Any] = {"clip": config.grad_clip} if clips else {}
    optimizer = kinds[config.name, clips](groups, **clip, **options)
    set_rate(optimizer.param_groups, config.lr)
    return optimizer


def build_model(config: RunConfig, settings: dict[str, Any]) -> CausalLM:
    """A fresh model for DeepSpeed's configuration `settings`; needs the process group under ZeRO 3.

    There every layer's weights are shared out as soon as they are made (`deepspeed.zero.Init`): no process ever holds
    the whole model. The weights are the same whatever the stage and the number of processes.
    """
    if zero_stage(settings) < 3:
        return CausalLM(config.model)
    with deepspeed.zero.Init(config_dict_or_path=settings):
        return CausalLM(config.model, _gather)


def build_engine(config: RunConfig, world_size: int) -> deepspeed.DeepSpeedEngine:
    """A fresh model under `deepspeed.initialize`; batch sizes, clipping and precision from the run's configuration.

    After every step `engine.get_global_grad_norm()` is the gradient's norm before clipping, whatever the ZeRO stage; if
    that is NaN or infinite, no process has updated anything.
    """
    settings = deepspeed_settings(config, world_size)
    model = build_model(config, settings)
    model.activation_checkpointing = config.activation_checkpointing
    if config.context_parallel > 1:
        group = neighbours(config.context_parallel, config.step_timeout)
        model.context_parallel = config.context_split(torch.distributed.get_rank(), register_group(group))
    if config.compile:
        model.compile()
    on_gpu = local_device().type == "cuda"
    optimizer = build_optimizer(
        model, config.optimizer, clips=_is_plain(settings), fused=on_gpu, width_ratio=config.model.width_ratio
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if isinstance(optimizer, MuonAdamW) and not _is_plain(settings):
        place_matrices(optimizer, engine.optimizer, model, local_device())
    return engine


def set_batch_size(engine: deepspeed.DeepSpeedEngine, config: RunConfig, windows: int) -> int:
    """Give the engine's next step so many windows over all processes; returns its micro-batches per process.

    Its last micro-batch has to be announced then, with `engine.set_gradient_accumulation_boundary`.
    """
    engine.set_train_batch_size(windows * config.context_parallel)
    passes = int(engine.gradient_accumulation_steps())
    if hasattr(engine.optimizer, "gradient_accumulation_steps"):
        engine.optimizer.gradient_accumulation_steps = passes  # ZeRO 1 and 2 read it where they offload
    return passes


def deepspeed_settings(config: RunConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's whole configuration: the file's, and what follows from the run's configuration."""
    settings = read_deepspeed_config(config)
    settings |= {
        # for DeepSpeed every process has windows of its own: it counts those that P share P times
        "train_batch_size": config.global_batch_size * config.context_parallel,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps(world_size),
        # (of ZeRO 1: each bfloat16 gradient is added to the float32 sum as soon as it is there, and freed)
        "bf16": {"enabled": use_bfloat16(config), "immediate_grad_update": True},
    }
    return settings | {"gradient_clipping": 0.0 if _is_plain(settings) else config.optimizer.grad_clip}


def _is_plain(settings: dict[str, Any]) -> bool:
    """ZeRO 0 in float32: DeepSpeed steps the given optimiser as it is, and does not keep the norm that it clips by."""
    return zero_stage(settings) == 0 and not settings["bf16"]["enabled"]


def _gather(parameters: Iterable[torch.nn.Parameter]) -> AbstractContextManager[object]:
    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0)
