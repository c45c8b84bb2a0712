"""DeepSpeed's configuration file of a run, and the precision that has to fit it."""

import json
from typing import TYPE_CHECKING, Any

from data_pipeline import UserError
from data_pipeline.shipped import find_shipped
from maha_model.device import means_bfloat16

if TYPE_CHECKING:
    from pretrain.config import RunConfig

_SET_BY_RUN_CONFIG = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)


def use_bfloat16(config: "RunConfig") -> bool:
    """Whether the model computes in bfloat16 on this device."""
    return means_bfloat16(config.precision)


def zero_stage(settings: dict[str, Any]) -> int:
    """ZeRO's stage in DeepSpeed's configuration."""
    return settings.get("zero_optimization", {}).get("stage", 0)


def read_deepspeed_config(config: "RunConfig") -> dict[str, Any]:
    """The JSON that `config.deepspeed` names, here or beside the installed packages.

    In bfloat16 gradients are summed in float32, over micro-batches and over processes, unless the file has its own
    `data_types.grad_accum_dtype` or `communication_data_type`: DeepSpeed would sum them in bfloat16, where what is
    less than about 1/256 of the sum so far is lost.

    Raises:
        UserError: if it is missing, not JSON, sets what the run's configuration sets, or does not fit the precision.
    """
    path = config.deepspeed
    found = find_shipped(path)
    if not found.is_file():
        raise UserError(f"--deepspeed {path} does not exist; choose one of ds_configs/*.json")
    try:
        values = json.loads(found.read_text())
    except ValueError as error:
        raise UserError(f"--deepspeed {path} is not JSON: {error}") from error
    twice = [key for key in _SET_BY_RUN_CONFIG if key in values]
    if twice:
        raise UserError(f"{path} sets {', '.join(twice)}; remove it there, the run's configuration decides it")
    if use_bfloat16(config) and zero_stage(values) == 0:
        raise UserError(
            f"{path} is ZeRO 0, which keeps no float32 weights beside bfloat16 ones; choose ds_configs/zero1.json, or "
            "--precision float32"
        )
    if use_bfloat16(config):
        values["data_types"] = {"grad_accum_dtype": "fp32"} | (values.get("data_types") or {})
        values = {"communication_data_type": "fp32"} | values
    return values
