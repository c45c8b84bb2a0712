"""What a folder holds so that `transformers` finds the model's classes with trust_remote_code, without an import."""

CODE_FILE = "modeling_maha.py"
CODE = '''"""The model's classes, of the package maha_model, which has to be installed."""

from maha_model.huggingface import (
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
