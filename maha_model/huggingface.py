"""Importing this module registers the model in `transformers`; see `maha_model.inference.huggingface`."""

from maha_model.inference.huggingface import MAHAPreTrainedConfig, MAHAPreTrainedForCausalLM, MAHAPreTrainedTokenizer

__all__ = ["MAHAPreTrainedConfig", "MAHAPreTrainedForCausalLM", "MAHAPreTrainedTokenizer"]
