"""The model's configuration in `transformers`."""

import dataclasses
from typing import Any

from transformers import PreTrainedConfig

from maha_model.config import ModelConfig


class MAHAPreTrainedConfig(PreTrainedConfig):
    """The fields of `ModelConfig`, checked as there, under their own names and the usual ones of `transformers`."""

    model_type = "maha"
    attribute_map = {  # noqa: RUF012  # the base class's name and form
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "context_length",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    def __init__(self, **values: Any) -> None:
        values = {self.attribute_map.get(name, name): value for name, value in values.items()}
        names = [field.name for field in dataclasses.fields(ModelConfig)]
        config = ModelConfig.from_dict({name: values.pop(name) for name in names if name in values})
        for name, value in config.to_dict().items():
            setattr(self, name, value)
        # Of the instance, not the class: peft reads it from `to_dict`.
        self.tie_word_embeddings = values.pop("tie_word_embeddings", True)
        super().__init__(**values)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Of an export, also one of an earlier version."""
        return super().from_dict(ModelConfig.complete(config_dict), **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: a saved folder refers to this package (`inference.remote_code`) instead of holding a copy of it."""

    def to_maha(self) -> ModelConfig:
        """The configuration in this package's own form."""
        return ModelConfig.from_dict(
            {field.name: getattr(self, field.name) for field in dataclasses.fields(ModelConfig)}
        )
