"""A script, not a test: the bytes of a fresh model's making and the sums of its weights, on every rank.

Arguments: a run's options. Rank 0 prints one line `FRESH {"peak": bytes, "whole": bytes, "sums": [...]}`.
"""

import json
import sys
from contextlib import nullcontext

import torch

from pretrain.config import parse_config, use_bfloat16
from pretrain.distributed import join_process_group
from pretrain.engine import build_model, deepspeed_settings, whole_shape
from pretrain.lean_deepspeed import deepspeed
from pretrain.memory import LiveBytes


def main() -> None:
    rank = join_process_group()
    config = parse_config(sys.argv[1:])
    settings = deepspeed_settings(config, rank.world_size)
    dtype = torch.bfloat16 if use_bfloat16(config) else torch.float32
    torch.manual_seed(0)
    with LiveBytes() as live:
        model = build_model(config, settings)
    parameters = list(model.parameters())
    whole = sum(whole_shape(parameter).numel() * parameter.element_size() for parameter in parameters)
    shared_out = any(hasattr(parameter, "ds_tensor") for parameter in parameters)
    with deepspeed.zero.GatheredParameters(parameters) if shared_out else nullcontext():
        # in the precision that both will train in
        sums = [float(parameter.to(dtype).double().sum()) for parameter in parameters]
    if rank.is_main:
        print("FRESH", json.dumps({"peak": live.peak, "whole": whole, "sums": sums}), flush=True)
    torch.distributed.destroy_process_group()
