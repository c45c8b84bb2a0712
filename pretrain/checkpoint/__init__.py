"""Checkpoints on disk: whole or absent, checksummed, free of pickle, readable without DeepSpeed.

format           the files of a checkpoint's folder and its index
parts            one rank's share: copied to the host, written
draft            a checkpoint's folder until it is whole
exchange         the ranks' parts become known to rank 0
retry            errors of a disk that may pass
store            writing, pruning, finding, verifying
tensors          tensors, or ranges of them, out of a checkpoint
models           models out of a checkpoint
initial_weights  those that a new run starts from, of a model that may have more scales
saved_model      a model that transformers has saved
export           a checkpoint without the optimiser's state
background       writing beside training
engine_state     tensors in and out of a DeepSpeed engine; needs DeepSpeed, so it is not imported here
"""

from pretrain.checkpoint.background import BackgroundWriter
from pretrain.checkpoint.exchange import PartExchange
from pretrain.checkpoint.format import (
    CONFIG,
    MOMENTS,
    MUON_MOMENTS,
    WEIGHTS,
    CheckpointInfo,
    part_name,
    read_info,
    sealed,
)
from pretrain.checkpoint.initial_weights import InitialWeights
from pretrain.checkpoint.models import load_model, model_config, model_from
from pretrain.checkpoint.parts import Part, Piece, stage, whole_pieces, write_part
from pretrain.checkpoint.store import (
    begin_checkpoint,
    check_sizes,
    find_checkpoint,
    finish_checkpoint,
    has_checkpoint,
    prepare_to_continue,
    save_checkpoint,
    verify_checkpoint,
    whole_later,
)
from pretrain.checkpoint.tensors import CheckpointTensors

__all__ = [
    "CONFIG",
    "MOMENTS",
    "MUON_MOMENTS",
    "WEIGHTS",
    "BackgroundWriter",
    "CheckpointInfo",
    "CheckpointTensors",
    "InitialWeights",
    "Part",
    "PartExchange",
    "Piece",
    "begin_checkpoint",
    "check_sizes",
    "find_checkpoint",
    "finish_checkpoint",
    "has_checkpoint",
    "load_model",
    "model_config",
    "model_from",
    "part_name",
    "prepare_to_continue",
    "read_info",
    "save_checkpoint",
    "sealed",
    "stage",
    "verify_checkpoint",
    "whole_later",
    "whole_pieces",
    "write_part",
]
