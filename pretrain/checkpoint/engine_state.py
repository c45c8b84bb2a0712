"""The training state by parameter name, in and out of a DeepSpeed engine of any ZeRO stage and world size.

DeepSpeed partitions weights and moments differently for every stage and world size. What is kept here are ranges of
elements of each parameter, of float32 weights and the optimiser's moments, and the number of optimiser steps. So a run
resumes bitwise where nothing changed and continues where the stage or the number of processes did.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maha_model import ModelConfig
from maha_model.hidden import hidden_matrices
from pretrain.checkpoint.format import MOMENTS, MUON_MOMENTS, CheckpointInfo, read_info
from pretrain.checkpoint.initial_weights import InitialWeights
from pretrain.checkpoint.parts import Piece
from pretrain.checkpoint.tensors import CheckpointTensors
from pretrain.lean_deepspeed import deepspeed
from pretrain.muon import MuonAdamW

_WEIGHTS = ("",)
_Tensors = CheckpointTensors | InitialWeights


def own_pieces(engine: deepspeed.DeepSpeedEngine) -> Iterator[Piece]:
    """What this process is to save, as it is in the engine: every element of the model is in one process's pieces.

    With ZeRO 0 every process has all of it; then each saves as much as the others.
    """
    if _is_plain(engine):
        yield from _equal_ranges(engine)
        return
    _link_moments(engine.optimizer)
    moments_of = _moments(engine)
    for name, parameter in engine.module.named_parameters():
        shape, moments = _whole_shape(parameter), moments_of[name]
        if hasattr(parameter, "ds_tensor"):
            start, count = _slice(parameter)
            values = [deepspeed.utils.safe_get_local_fp32_param(parameter)]
            values += [deepspeed.utils.safe_get_local_optimizer_state(parameter, key) for key in moments]
            if count > 0:
                yield Piece(name, shape, start, [value.flatten()[:count] for value in values], moments)
        elif (fragment := parameter._hp_mapping) is not None:  # noqa: SLF001 - DeepSpeed has no public way
            values = [fragment.get_hp_fragment(key or None).flatten() for key in ("", *moments)]
            yield Piece(name, shape, fragment.lp_fragment_address.start, values, moments)


def restore_checkpoint(engine: deepspeed.DeepSpeedEngine, path: Path) -> CheckpointInfo:
    """Restore the engine from a checkpoint of its model: weights that it computes with, master weights and moments.

    Collective. Every process reads its share alone, one range at a time; with ZeRO 0 all of it.

    Raises:
        UserError: if it is damaged or of another model.
    """
    info, tensors = read_info(path), CheckpointTensors(path)
    tensors.check_shapes(_shapes(engine))
    tensors.check_moments()  # before a process waits for another one, which has found none
    plain, moments_of = _is_plain(engine), _moments(engine)
    if not plain:
        _create_moments(engine.optimizer, info.step)
    for name, parameter in engine.module.named_parameters():
        _restore(parameter, name, tensors, (*_WEIGHTS, *moments_of[name]), plain)
        if plain:
            moments = {key: tensors.whole(name, key).to(parameter.device) for key in moments_of[name]}
            engine.optimizer.state[parameter] = moments | _count(engine.optimizer, parameter, info.step, moments)
    return info


def load_weights(engine: deepspeed.DeepSpeedEngine, path: Path, config: ModelConfig) -> None:
    """Start a fresh engine of a model of `config` from a checkpoint's or an export's weights, its optimiser as it is.

    A scale that the checkpoint's model lacks starts as its coarsest (`maha_model.more_scales`). Collective; what each
    process reads is as in `restore_checkpoint`.

    Raises:
        UserError: if it is damaged or of another model.
    """
    weights, plain = InitialWeights(path, config, _shapes(engine)), _is_plain(engine)
    for name, parameter in engine.module.named_parameters():
        if name in weights:
            _restore(parameter, name, weights, _WEIGHTS, plain)


def _shapes(engine: deepspeed.DeepSpeedEngine) -> dict[str, torch.Size]:
    return {name: _whole_shape(parameter) for name, parameter in engine.module.named_parameters()}


def _restore(parameter: Any, name: str, tensors: _Tensors, kinds: tuple[str, ...], plain: bool) -> None:
    """Weights and, where DeepSpeed holds them, the moments among `kinds`."""
    if plain:
        parameter.data.copy_(tensors.whole(name))
    elif hasattr(parameter, "ds_tensor"):
        _restore_slice(parameter, name, tensors, kinds)
    else:
        _restore_fragment(parameter, name, tensors, kinds)


def _is_plain(engine: deepspeed.DeepSpeedEngine) -> bool:
    """ZeRO 0 in float32: the optimiser holds the model's own parameters."""
    return isinstance(engine.optimizer, torch.optim.Optimizer)


def _whole_shape(parameter: Tensor) -> torch.Size:
    """Also of a parameter of which ZeRO 3 has left this process a part."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _equal_ranges(engine: deepspeed.DeepSpeedEngine) -> Iterator[Piece]:
    """This process's part of all parameters in a row, cut into as many parts as there are processes."""
    named, moments_of = list(engine.module.named_parameters()), _moments(engine)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    elements = sum(parameter.numel() for _, parameter in named)
    begin, end = elements * rank // world_size, elements * (rank + 1) // world_size
    offset = 0
    for name, parameter in named:
        first, last = max(begin - offset, 0), min(end - offset, parameter.numel())
        if first < last:
            values = [parameter.detach(), *(engine.optimizer.state[parameter][key] for key in moments_of[name])]
            values = [value.flatten()[first:last] for value in values]
            yield Piece(name, parameter.shape, first, values, moments_of[name])
        offset += parameter.numel()


def _slice(parameter: Any) -> tuple[int, int]:
    """ZeRO 3: the first element of this process's slice, and how many there are without the padding."""
    size = parameter.ds_tensor.ds_numel
    start = torch.distributed.get_rank(parameter.ds_process_group) * size
    return start, min(size, parameter.ds_numel - start)


def _restore_slice(parameter: Any, name: str, tensors: _Tensors, kinds: tuple[str, ...]) -> None:
    """ZeRO 3: this process's slice, with zeros for what it has beyond the parameter's end."""
    start, count = _slice(parameter)
    for kind in kinds:
        value = torch.zeros(parameter.ds_tensor.ds_numel)
        if count > 0:
            value[:count] = tensors.read(name, start, count, kind)
        if kind:
            deepspeed.utils.safe_set_local_optimizer_state(parameter, value, kind)
        else:
            parameter.ds_tensor.data.copy_(value)
            deepspeed.utils.safe_set_local_fp32_param(parameter, value)
    if parameter.data.numel() == parameter.ds_numel:  # small ones stay gathered
        parameter.data.copy_(tensors.whole(name))


def _restore_fragment(parameter: Any, name: str, tensors: _Tensors, kinds: tuple[str, ...]) -> None:
    """ZeRO 1, 2 and bf16: this process's fragment; the weights of the others' come over the network."""
    fragment = parameter._hp_mapping  # noqa: SLF001
    whole = torch.zeros(parameter.numel(), dtype=torch.int32, device=parameter.device)
    if fragment is not None:
        address = fragment.lp_fragment_address
        for kind in kinds:
            value = tensors.read(name, address.start, address.numel, kind)
            fragment.get_hp_fragment(kind or None).data.copy_(value)
            if not kind:
                whole[address.start : address.start + address.numel] = value.view(torch.int32).to(whole.device)
    # Sums of bits, of which one process has them and the others zeros: exact, also for -0.
    torch.distributed.all_reduce(whole, group=parameter._dp_group)  # noqa: SLF001
    parameter.data.copy_(whole.view(torch.float32).view(parameter.shape))


def _moments(engine: deepspeed.DeepSpeedEngine) -> dict[str, tuple[str, ...]]:
    """The names of the optimiser's moments of every parameter."""
    optimizer = engine.optimizer if _is_plain(engine) else engine.optimizer.optimizer
    hidden = {id(it) for it in hidden_matrices(engine.module)} if isinstance(optimizer, MuonAdamW) else set()
    named = engine.module.named_parameters()
    return {name: MUON_MOMENTS if id(parameter) in hidden else MOMENTS for name, parameter in named}


def _create_moments(zero: Any, steps: int) -> None:
    """An optimiser's state exists only after a first step; make it for every flat partition that DeepSpeed steps on."""
    for names in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        partitions = getattr(zero, names, None)
        if partitions is not None:
            break
    else:
        raise RuntimeError(f"cannot find the float32 partitions of {type(zero).__name__}")
    of_muon = zero.optimizer.partitions if isinstance(zero.optimizer, MuonAdamW) else set()
    for partition in partitions:
        keys = MUON_MOMENTS if partition in of_muon else MOMENTS
        moments = {key: torch.zeros_like(partition) for key in keys}
        zero.optimizer.state[partition] = moments | _count(zero.optimizer, partition, steps, moments)
    _link_moments(zero)


def _count(
    optimizer: torch.optim.Optimizer, parameter: Tensor, steps: int, moments: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Adam's number of steps where the optimiser keeps it: a fused one beside the parameter, else on the CPU."""
    if moments.keys() == set(MUON_MOMENTS):
        return {}
    device = parameter.device if optimizer.defaults.get("fused") else "cpu"
    return {"step": torch.tensor(float(steps), device=device)}


def _link_moments(zero: Any) -> None:
    """ZeRO 1, 2 and bf16: let parameters find their moments. DeepSpeed does so after the first group only."""
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False  # noqa: SLF001  # DeepSpeed has no public way
        zero._lazy_init_hp_params_optimizer_state()  # noqa: SLF001
