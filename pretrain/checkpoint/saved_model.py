"""A model of this package that `transformers` has saved: config.json, weights, a tokenizer, and no index of ours."""

import dataclasses
import hashlib
import json
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from data_pipeline import Tokenizer, UserError, tokenizer_file
from maha_model import ModelConfig
from pretrain.checkpoint.format import CONFIG, INDEX, SHARDS, WEIGHTS, CheckpointInfo
from pretrain.checkpoint.models import model_from


def is_saved_model(path: Path) -> bool:
    """Whether it is the folder of a `save_pretrained`."""
    return not (path / INDEX).exists() and _config(path).get("model_type") == "maha"


class SavedTensors:
    """The weights of such a folder."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if there are none, or a file is damaged."""
        try:
            # one file before several, as transformers has it: an earlier save may have left the others
            whole = (path / WEIGHTS).exists() or not (path / SHARDS).exists()
            files = {WEIGHTS} if whole else set(json.loads((path / SHARDS).read_bytes())["weight_map"].values())
            opened = [safetensors.safe_open(path / file, "pt") for file in sorted(files)]
        except FileNotFoundError as error:
            raise UserError(f"{path} has no weights ({error}); merge an adapter into its model before") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise UserError(f"the weights of {path} are damaged: {error}") from error
        self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118  # it is no mapping
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in self._files.items()}
        """Of every parameter."""

    def whole(self, name: str) -> Tensor:
        """A parameter in float32, whatever type it was saved in."""
        return self._files[name].get_tensor(name).float()


def open_saved_model(path: Path) -> tuple[CheckpointInfo, SavedTensors]:
    """What can be known of the model, and its weights.

    Raises:
        UserError: without a tokenizer of as many tokens, if the weights are not those of the configuration, or if this
            version has no such model.
    """
    file = tokenizer_file(path)
    if not file.exists():
        raise UserError(f"{path} has no tokenizer; save it there too: tokenizer.save_pretrained({str(path)!r})")
    if _config(path).get("tie_word_embeddings") is False:
        raise UserError(
            f"{path} has a head of its own (tie_word_embeddings: false), and models here share it with the embedding; "
            "train tokens by an adapter's trainable_token_indices, which keep it so"
        )
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    model = {name: value for name, value in _config(path).items() if name in names}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    info = CheckpointInfo(0, 0, 0, 0, model, data_fingerprint="", tokenizer_sha256=digest)
    tensors = SavedTensors(path)
    layers, size = model.get("num_layers"), Tokenizer(file).vocab_size
    if not isinstance(layers, int) or layers > len(tensors.shapes):  # before anything is made from the number
        raise UserError(f"the weights of {path} are not of the model of its {CONFIG}")
    if model.get("vocab_size") != size:
        raise UserError(
            f"{path}: the model has {model.get('vocab_size')} tokens, and {file.name} {size}; "
            "export it as it was before tokens were added"
        )
    with torch.device("meta"):
        parameters = model_from(info).named_parameters()
    if "embedding.weight" in tensors.shapes:  # the names of an AutoModel
        raise UserError(f"{path} has hidden states and no head; save the model of an AutoModelForCausalLM")
    if {name: tuple(parameter.shape) for name, parameter in parameters} != tensors.shapes:
        raise UserError(f"the weights of {path} are not of the model of its {CONFIG}; merge an adapter before")
    return info, tensors


def _config(path: Path) -> dict[str, object]:
    try:
        values = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
