"""Checkpoints on disk: whole or absent, checksummed, free of pickle, readable without DeepSpeed.

format        the files of a checkpoint's folder and its index
store         writing, pruning, finding, verifying
models        tensors and models out of a checkpoint
export        a checkpoint without the optimiser's state
background    writing beside training
engine_state  tensors in and out of a DeepSpeed engine; needs DeepSpeed, so it is not imported here
"""

from pretrain.checkpoint.background import BackgroundWriter
from pretrain.checkpoint.format import CONFIG, FORMAT, OPTIMIZER, TOKENIZER, WEIGHTS, CheckpointInfo, read_info, sealed
from pretrain.checkpoint.models import load_model, load_weights, model_config, model_from, read_moments, read_weights
from pretrain.checkpoint.store import (
    find_checkpoint,
    has_checkpoint,
    prepare_to_continue,
    save_checkpoint,
    verify_checkpoint,
    whole_later,
    write_checkpoint,
)

__all__ = [
    "CONFIG",
    "FORMAT",
    "OPTIMIZER",
    "TOKENIZER",
    "WEIGHTS",
    "BackgroundWriter",
    "CheckpointInfo",
    "find_checkpoint",
    "has_checkpoint",
    "load_model",
    "load_weights",
    "model_config",
    "model_from",
    "prepare_to_continue",
    "read_info",
    "read_moments",
    "read_weights",
    "save_checkpoint",
    "sealed",
    "verify_checkpoint",
    "whole_later",
    "write_checkpoint",
]
