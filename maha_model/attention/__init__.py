"""The attention modules, interchangeable in one shell: MAHA, the standard causal transformer and Longformer."""

from maha_model.attention.base import Attention
from maha_model.attention.index import Indexed
from maha_model.attention.maha import MAHAAttention, ScaleProjections
from maha_model.attention.parts import with_rows_before
from maha_model.attention.scales import ScaleOutputs, attend_down, rotary_line, rotate_down, rotate_keys
from maha_model.attention.standard import StandardAttention
from maha_model.config import ModelConfig


def build_attention(config: ModelConfig) -> Attention:
    """The attention module that the configuration names."""
    return MAHAAttention(config) if config.attention == "maha" else StandardAttention(config)


__all__ = [
    "Attention",
    "Indexed",
    "MAHAAttention",
    "ScaleOutputs",
    "ScaleProjections",
    "StandardAttention",
    "attend_down",
    "build_attention",
    "rotary_line",
    "rotate_down",
    "rotate_keys",
    "with_rows_before",
]
