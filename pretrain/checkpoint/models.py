"""Models out of a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from data_pipeline import UserError
from maha_model import CausalLM, ConfigError, ModelConfig
from pretrain.checkpoint.format import INDEX, CheckpointInfo, read_info
from pretrain.checkpoint.tensors import CheckpointTensors


def load_model(path: Path, device: str | torch.device = "cpu") -> CausalLM:
    """The model of a checkpoint, in evaluation mode. Raises UserError if it is damaged or of an unknown model."""
    info, tensors = open_model(path)
    model = model_from(info)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.whole(name))
    return model.to(device).eval()


def open_model(path: Path) -> tuple[CheckpointInfo, CheckpointTensors]:
    """A checkpoint's information and tensors, which are those of its model. Raises UserError as `load_model` does."""
    info, tensors = read_info(path), CheckpointTensors(path)
    layers = info.model.get("num_layers") if isinstance(info.model, dict) else None
    if not isinstance(layers, int) or layers > len(tensors.shapes):  # before anything is made from the number
        raise UserError(f"{path / INDEX} is not of the model of its configuration")
    with torch.device("meta"):
        model = model_from(info)
    tensors.check_shapes({name: parameter.shape for name, parameter in model.named_parameters()})
    return info, tensors


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
