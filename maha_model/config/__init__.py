"""The configuration of a model: all that its parameters and its function depend on, nothing about training."""

from maha_model.config.aggregation import AggregationConfig
from maha_model.config.checks import ConfigError
from maha_model.config.model import NAMED_SIZES, ModelConfig

__all__ = ["NAMED_SIZES", "AggregationConfig", "ConfigError", "ModelConfig"]
