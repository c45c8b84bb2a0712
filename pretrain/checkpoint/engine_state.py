"""The training state by parameter name, in and out of a DeepSpeed engine of any ZeRO stage and world size.

DeepSpeed partitions weights and moments differently for every stage and world size. What is kept here is the whole:
float32 weights and Adam's moments under each parameter's name, and the number of optimiser steps. So a run resumes
bitwise where nothing changed and continues where the stage or the number of processes did.
"""

from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from deepspeed.utils.tensor_fragment import safe_set_local_fp32_param, safe_set_local_optimizer_state
from torch import Tensor

from data_pipeline import UserError
from pretrain.checkpoint.format import WEIGHTS, CheckpointInfo, read_info
from pretrain.checkpoint.models import read_moments, read_weights

MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_tensors(engine: deepspeed.DeepSpeedEngine, keep: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights by name, moments by "name.exp_avg" and "name.exp_avg_sq"), float32 on the CPU.

    Every process must call it; only those with `keep` hold the result, so that one copy exists.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    plain = _is_plain(engine)
    if not plain:
        _link_moments(engine.optimizer)
    for name, parameter in engine.module.named_parameters():
        if plain:
            values = [parameter.detach(), *(engine.optimizer.state[parameter][key] for key in MOMENTS)]
        else:
            values = [safe_get_full_fp32_param(parameter)]
            values += [safe_get_full_optimizer_state(parameter, key) for key in MOMENTS]
        if keep:
            copies = [value.detach().to("cpu", torch.float32, copy=True).contiguous() for value in values]
            weights[name] = copies[0]
            moments |= {f"{name}.{key}": copy for key, copy in zip(MOMENTS, copies[1:], strict=True)}
    return weights, moments


def restore_tensors(
    engine: deepspeed.DeepSpeedEngine, weights: dict[str, Tensor], moments: dict[str, Tensor], steps: int
) -> None:
    """Inverse of `gather_tensors`: the weights that the model computes with, float32 master weights and moments."""
    if _is_plain(engine):
        for name, parameter in engine.module.named_parameters():
            parameter.data.copy_(weights[name])
            values = {key: moments[f"{name}.{key}"].to(parameter.device, copy=True) for key in MOMENTS}
            engine.optimizer.state[parameter] = {"step": _count(engine.optimizer, parameter, steps), **values}
        return
    _create_moments(engine.optimizer, steps)
    for name, parameter in engine.module.named_parameters():
        named = [(None, weights[name]), *((key, moments[f"{name}.{key}"]) for key in MOMENTS)]
        for key, whole in named:
            value = whole.to(engine.device)
            if hasattr(parameter, "ds_tensor"):
                _set_partition(parameter, key, value)
            elif key is None:
                parameter.data.copy_(value)
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, key)


def restore_checkpoint(engine: deepspeed.DeepSpeedEngine, path: Path) -> CheckpointInfo:
    """Restore the engine from a checkpoint of its model. Raises UserError if it is damaged or of another model."""
    info, weights = read_info(path), read_weights(path)
    if weights.keys() != {name for name, _ in engine.module.named_parameters()}:
        raise UserError(f"{path / WEIGHTS} is not of the model of its configuration")
    restore_tensors(engine, weights, read_moments(path), info.step)
    return info


def _is_plain(engine: deepspeed.DeepSpeedEngine) -> bool:
    """ZeRO 0 in float32: the optimiser holds the model's own parameters."""
    return isinstance(engine.optimizer, torch.optim.Optimizer)


def _create_moments(zero: Any, steps: int) -> None:
    """Adam's state exists only after a first step; make it for every flat partition that DeepSpeed steps on."""
    for names in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        partitions = getattr(zero, names, None)
        if partitions is not None:
            break
    else:
        raise RuntimeError(f"cannot find the float32 partitions of {type(zero).__name__}")
    for partition in partitions:
        zero.optimizer.state[partition] = {
            "step": _count(zero.optimizer, partition, steps),
            **{key: torch.zeros_like(partition) for key in MOMENTS},
        }
    _link_moments(zero)


def _count(optimizer: torch.optim.Optimizer, parameter: Tensor, steps: int) -> Tensor:
    """The number of steps where the optimiser keeps it: a fused one beside the parameter, else on the CPU."""
    return torch.tensor(float(steps), device=parameter.device if optimizer.defaults.get("fused") else "cpu")


def _link_moments(zero: Any) -> None:
    """ZeRO 1, 2 and bf16: let parameters find their moments. DeepSpeed does so after the first group only."""
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False  # noqa: SLF001  # DeepSpeed has no public way
        zero._lazy_init_hp_params_optimizer_state()  # noqa: SLF001


def _set_partition(parameter: Any, key: str | None, value: Tensor) -> None:
    """ZeRO 3: this rank's slice. (The full setter of DeepSpeed fails where the slices need padding.)"""
    size = parameter.ds_tensor.ds_numel
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    padded = value.new_zeros(size * torch.distributed.get_world_size(parameter.ds_process_group))
    padded[: value.numel()] = value.flatten()
    slice_ = padded[rank * size : (rank + 1) * size]
    if key is None:
        parameter.ds_tensor.data.copy_(slice_)
        if parameter.data.numel() == value.numel():  # small ones stay gathered
            parameter.data.copy_(value)
        safe_set_local_fp32_param(parameter, slice_)
    else:
        safe_set_local_optimizer_state(parameter, slice_, key)
