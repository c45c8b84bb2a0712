"""What a folder holds so that `transformers` finds the model's classes with trust_remote_code, without an import."""

CODE_FILE = "modeling_maha.py"
CODE = '''"""The model's classes, of the package maha_model, which has to be installed."""

from maha_model.huggingface import (
    MAHAJsonTokenizer,
    MAHAPreTrainedConfig,
    MAHAPreTrainedForCausalLM,
    MAHAPreTrainedModel,
    MAHAPreTrainedTokenizer,
)
'''
"""The content of `CODE_FILE`: a reference to the installed package, so that there is one code of the model."""

AUTO_MAP = {
    "AutoConfig": "modeling_maha.MAHAPreTrainedConfig",
    "AutoModel": "modeling_maha.MAHAPreTrainedModel",
    "AutoModelForCausalLM": "modeling_maha.MAHAPreTrainedForCausalLM",
    "AutoTokenizer": ["modeling_maha.MAHAPreTrainedTokenizer", None],  # no fast one
}
"""The entry `auto_map` of config.json."""

TOKENIZER_CONFIG = {
    "tokenizer_class": "MAHAJsonTokenizer",
    "auto_map": {"AutoTokenizer": [None, "modeling_maha.MAHAJsonTokenizer"]},
    "split_special_tokens": True,
    "clean_up_tokenization_spaces": False,
    "model_input_names": ["input_ids", "attention_mask"],
    "padding_side": "left",
}
"""tokenizer_config.json beside a tokenizer.json, but for the names of its tokens."""
