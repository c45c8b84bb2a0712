"""The model in `transformers`: importing this package registers it, and an export is then a folder that loads as usual.

    import maha_model.huggingface
    model, tokenizer = AutoModelForCausalLM.from_pretrained(DIR), AutoTokenizer.from_pretrained(DIR)

Parameters have the names of `CausalLM` and the configuration the fields of `ModelConfig`, so that one folder serves
both. This is the one part of `maha_model` that needs more than torch: `transformers` and `sentencepiece`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from maha_model.inference.huggingface.cache import MAHACache
from maha_model.inference.huggingface.config import MAHAPreTrainedConfig
from maha_model.inference.huggingface.json_tokenizer import MAHAJsonTokenizer
from maha_model.inference.huggingface.model import MAHAPreTrainedForCausalLM, MAHAPreTrainedModel
from maha_model.inference.huggingface.tokenizer import MAHAPreTrainedTokenizer

AutoConfig.register(MAHAPreTrainedConfig.model_type, MAHAPreTrainedConfig)
AutoModel.register(MAHAPreTrainedConfig, MAHAPreTrainedModel)
AutoModelForCausalLM.register(MAHAPreTrainedConfig, MAHAPreTrainedForCausalLM)
# (as `slow_` and `fast_tokenizer_class` the second would stand for the first)
AutoTokenizer.register(
    MAHAPreTrainedConfig, tokenizer_class=MAHAPreTrainedTokenizer, fast_tokenizer_class=MAHAJsonTokenizer
)

__all__ = [
    "MAHACache",
    "MAHAJsonTokenizer",
    "MAHAPreTrainedConfig",
    "MAHAPreTrainedForCausalLM",
    "MAHAPreTrainedModel",
    "MAHAPreTrainedTokenizer",
]
