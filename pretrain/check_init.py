"""What may be different between a new run's model and the one whose weights it starts from."""

import json
from pathlib import Path
from typing import Any

import torch

from data_pipeline import Data, UserError
from maha_model import CausalLM, ModelConfig
from pretrain.checkpoint import InitialWeights, model_config, read_info
from pretrain.config import RunConfig

_FREE = ("context_length", "rope_base", "dropout", "init_std", "num_scales", "qk_dim", "costs")
"""No parameter's shape depends on them, or (the last three) they are checked by themselves."""


def check_init(checkpoint: Path, config: RunConfig, data: Data) -> None:
    """Raises UserError unless a run of this model on this data can start from the checkpoint's weights.

    The tokenizer has to be its own. Its model may have another context length, rotary base, dropout, and fewer scales.
    """
    info = read_info(checkpoint)
    trained, configured = model_config(info), config.model
    if info.tokenizer_sha256 != data.tokenizer_sha256:
        raise UserError(
            f"{checkpoint} was trained with another tokenizer than that of {data.folder}; prepare the data with "
            f"it: python -m data_pipeline.prepare --tokenizer {checkpoint}"
        )
    different = [f"--model.{key} {json.dumps(value)}" for key, value in _differences(trained, configured)]
    if configured.num_scales < trained.num_scales:
        different.append(f"--model.num_scales {trained.num_scales} or more")
    if configured.scale_qk_dim != trained.scale_qk_dim:
        different.append(f"--model.qk_dim {trained.scale_qk_dim}")
    if different:
        raise UserError(
            f"the model of {checkpoint} is another ({', '.join(different)}); give these options. Only context_length, "
            "rope_base, dropout, init_std and a larger num_scales may differ"
        )
    with torch.device("meta"):
        model = CausalLM(configured)
    InitialWeights(checkpoint, configured, {name: parameter.shape for name, parameter in model.named_parameters()})


def _differences(trained: ModelConfig, configured: ModelConfig) -> list[tuple[str, Any]]:
    """Option and trained value of all that must be the same and is not."""
    before, now = _flat(trained.effective()), _flat(configured.to_dict())
    return [
        (key, value)
        for key, value in before.items()
        if key.rpartition(".")[2] not in _FREE and json.dumps(value) != json.dumps(now[key])
    ]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    aggregation = {f"aggregation.{key}": value for key, value in values["aggregation"].items()}
    return {key: value for key, value in values.items() if key != "aggregation"} | aggregation
