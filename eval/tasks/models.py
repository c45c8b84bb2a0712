"""The models of a suite's file: their configurations on one task at one length, what they begin as, their dial."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_pipeline import UserError
from eval.settings import check_mapping, check_types, merged
from eval.tasks.budget import equal_span
from maha_model import AggregationConfig, CausalLM, ConfigError, ModelConfig
from maha_model.attention import MAHAAttention
from maha_model.more_scales import start_from

_OURS = ("equal_scores", "dial", "begins", "more_updates")
"""Keys of a model that are no settings of its configuration."""
_BEGINS = ("num_scales", "rope_base")


@dataclass(frozen=True, kw_only=True)
class TaskModels:
    """The models of a suite on one of its tasks. Methods raise UserError that names the file and the model."""

    path: Path
    task: str
    length: int
    base: Mapping[str, Any]
    """Settings of all models on this task."""
    models: Mapping[str, dict[str, Any]]
    """By name, settings that are merged into `base`."""
    given: Mapping[str, int]
    """Settings that follow from the task."""

    def config(self, model: str, changes: Mapping[str, Any] | None = None) -> ModelConfig:
        """The configuration of a model, with other values of some settings."""
        where, all_settings = f"{self.path}, task {self.task}, model {model}", self.settings(model)
        settings = {key: value for key, value in all_settings.items() if key not in _OURS} | dict(changes or {})
        for key in self.given:
            if key in settings:
                raise UserError(f"{where}: {key} follows from the task; leave it out")
        check_types(ModelConfig, settings, where)
        aggregation = settings.get("aggregation", {})
        check_mapping(aggregation, f"{where}: aggregation")
        check_types(AggregationConfig, aggregation, f"{where}: aggregation")
        try:
            config = ModelConfig.from_dict({**settings, **self.given})
        except ConfigError as error:
            raise UserError(f"{where}: {error}") from error
        equal = all_settings.get("equal_scores")
        if equal is None:
            return config
        if equal not in list(self.models) or self.settings(equal).get("equal_scores") is not None:
            raise UserError(f"{where}: equal_scores is {equal!r}; give a model that has none itself")
        return replace(config, span=equal_span(self.config(equal), self.length))

    def begins(self, model: str) -> ModelConfig | None:
        """The configuration of the model that its curriculum trains, whose weights fit; None if it is the same one."""
        settings, where = self.settings(model).get("begins"), self._where(model)
        if settings is None:
            return None
        check_mapping(settings, f"{where}: begins")
        if other := [key for key in settings if key not in _BEGINS]:
            raise UserError(f"{where}: begins has {other[0]}; only num_scales and rope_base may be others at the begin")
        check_types(ModelConfig, settings, f"{where}: begins")
        config = self.config(model)
        if "num_scales" in settings and config.attention != "maha":
            raise UserError(f"{where}: begins has num_scales, but {config.attention} attention no scales; leave it out")
        begins = self.config(model, settings)
        if begins.num_scales > config.num_scales:
            raise UserError(f"{where}: begins has more scales than the model; give {config.num_scales} at most")
        if begins.scale_qk_dim != config.scale_qk_dim:
            raise UserError(
                f"{where}: begins has queries and keys of width {begins.scale_qk_dim}, the model of "
                f"{config.scale_qk_dim}, since num_scales is another; give the model qk_dim: {config.scale_qk_dim}"
            )
        with torch.device("meta"):
            before, after = CausalLM(begins), CausalLM(config)
        try:
            start_from(after, dict(before.named_parameters()), config.num_scales - begins.num_scales)
        except ValueError as error:
            raise UserError(f"{where}: the weights of begins do not fit ({error}); leave begins out") from error
        return begins

    def dial(self, model: str, config: ModelConfig) -> list[float]:
        """Prices of scales that the trained model is scored with; `config` is its configuration."""
        dial, where = self.settings(model).get("dial", []), self._where(model)
        if not isinstance(dial, list) or not all(type(value) in (int, float) for value in dial):
            raise UserError(f"{where}: dial is {dial!r}; give a list of numbers")
        if dial and (config.attention != "maha" or not config.descent):
            raise UserError(f"{where}: dial is for a model with a descent; leave it out, or set descent")
        for value in dial:
            try:
                with torch.device("meta"):
                    MAHAAttention(config).aggregate.set_sparsity(value)
            except ConfigError as error:
                raise UserError(f"{where}: dial {value}: {error}") from error
        return [float(value) for value in dial]

    def more_updates(self, model: str) -> float:
        """How many times the task's updates the model has, in all stages."""
        times = self.settings(model).get("more_updates", 1)
        if type(times) not in (int, float) or not 0 < times <= 1000:
            raise UserError(f"{self._where(model)}: more_updates is {times!r}; give a positive number up to 1000")
        return float(times)

    def _where(self, model: str) -> str:
        return f"{self.path}, model {model}"

    def settings(self, model: str) -> dict[str, Any]:
        """Of a model at the length, with those that are not of its configuration."""
        settings = merged(self.base, self.models[model])
        return merged(settings, by_length(settings.pop("at", None), self._where(model)).get(self.length, {}))


def by_length(values: Any, where: str) -> dict[int, dict[str, Any]]:
    """The value of a key `at`: settings by length. Raises UserError if it is none."""
    if values is None:
        return {}
    check_mapping(values, f"{where}: at")
    for length, settings in values.items():
        if type(length) is not int:
            raise UserError(f"{where}: at has {length!r}; give lengths, whole numbers")
        check_mapping(settings, f"{where}, at {length}")
    return dict(values)
