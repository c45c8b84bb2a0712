"""The model alone: MAHA, its baselines and the exact aggregation. Importing it needs torch and nothing else.

Importing `maha_model.huggingface` registers the model in `transformers`.

Shape letters used in names throughout: B batch, N positions (n at a coarser scale), L scales, H heads, D model width,
d head width, V vocabulary, W span, P problems; r is the ratio between scales.
"""

from maha_model.config import NAMED_SIZES, AggregationConfig, ConfigError, ModelConfig
from maha_model.documents import Documents
from maha_model.inference import DecodingState
from maha_model.inspection import (
    ScaleAttention,
    ScaleWeights,
    attention_probabilities,
    flops_per_token,
    scale_weight_statistics,
    scale_weights,
)
from maha_model.paper_api import MAHABlock, MAHATransformer
from maha_model.transformer import CausalLM, CausalLMOutput

MAHAConfig, MAHAForCausalLM = ModelConfig, CausalLM
"""Their former names, which stay usable."""

__all__ = [
    "NAMED_SIZES",
    "AggregationConfig",
    "CausalLM",
    "CausalLMOutput",
    "ConfigError",
    "DecodingState",
    "Documents",
    "MAHABlock",
    "MAHAConfig",
    "MAHAForCausalLM",
    "MAHATransformer",
    "ModelConfig",
    "ScaleAttention",
    "ScaleWeights",
    "attention_probabilities",
    "flops_per_token",
    "scale_weight_statistics",
    "scale_weights",
]
