"""Importing this module registers the model in `transformers`; see `maha_model.inference.huggingface`."""

from maha_model.inference.huggingface import (
    MAHACache,
    MAHAJsonTokenizer,
    MAHAPreTrainedConfig,
    MAHAPreTrainedForCausalLM,
    MAHAPreTrainedModel,
    MAHAPreTrainedTokenizer,
)

__all__ = [
    "MAHACache",
    "MAHAJsonTokenizer",
    "MAHAPreTrainedConfig",
    "MAHAPreTrainedForCausalLM",
    "MAHAPreTrainedModel",
    "MAHAPreTrainedTokenizer",
]
