"""Tensors and models out of a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from data_pipeline import UserError
from maha_model import CausalLM, ConfigError, ModelConfig
from pretrain.checkpoint.format import OPTIMIZER, WEIGHTS, CheckpointInfo, read_info


def load_model(path: Path, device: str | torch.device = "cpu") -> CausalLM:
    """The model of a checkpoint, in evaluation mode. Raises UserError if it is damaged or of an unknown model."""
    info, weights = read_info(path), read_weights(path)
    layers = info.model.get("num_layers") if isinstance(info.model, dict) else None
    if not isinstance(layers, int) or layers > len(weights):  # before anything is made from the number
        raise UserError(f"{path / WEIGHTS} is not of the model of its configuration")
    with torch.device("meta"):
        _check_shapes(model_from(info), weights, path)
    model = model_from(info)
    load_weights(model, path)
    return model.to(device).eval()


def model_from(info: CheckpointInfo) -> CausalLM:
    """A fresh model of the checkpoint's configuration. Raises UserError if this version has no such model."""
    with _unknown_models():
        return CausalLM(ModelConfig.from_saved(info.model))


def model_config(info: CheckpointInfo) -> ModelConfig:
    """The checkpoint's model configuration; a field that was added since has the value that models had before.

    Raises:
        UserError: if this version has no such model.
    """
    with _unknown_models():
        return ModelConfig.from_saved(info.model)


@contextmanager
def _unknown_models() -> Iterator[None]:
    try:
        yield
    except (ConfigError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise UserError(f"this version cannot build the checkpoint's model: {error}") from error


def load_weights(model: CausalLM, path: Path) -> dict[str, Tensor]:
    """Copy a checkpoint's weights into `model` and return them. Raises UserError if they belong to another model."""
    weights = read_weights(path)
    _check_shapes(model, weights, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return weights


def _check_shapes(model: CausalLM, weights: dict[str, Tensor], path: Path) -> None:
    own = dict(model.named_parameters())
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        raise UserError(f"{path / WEIGHTS} is not of the model of its configuration")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Float32 weights by parameter name. Raises UserError if the file is damaged."""
    return _read_tensors(path / WEIGHTS)


def read_moments(path: Path) -> dict[str, Tensor]:
    """Adam's moments by "name.exp_avg" and "name.exp_avg_sq". Raises UserError if `path` has none or damaged ones."""
    if not (path / OPTIMIZER).exists():
        raise UserError(f"{path} is an export, without the optimiser's state; continue from the run it was made of")
    return _read_tensors(path / OPTIMIZER)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
