"""What to change in a run, in which order."""

from pretrain.config import parse_config
from pretrain.memory import possible_changes
from tests.pretrain.memory.test_planner import MODEL


def test_changes_are_tried_in_their_order() -> None:
    config = parse_config([*MODEL, "--micro_batch_size", "4", "--global_batch_size", "16"])
    tried = [options for options, _, _ in possible_changes(config, 1)]
    assert tried[:8] == [
        "--micro_batch_size 2",
        "--micro_batch_size 1",
        "--activation_checkpointing block",
        "--deepspeed ds_configs/zero2.json",
        "--deepspeed ds_configs/zero3.json",
        "--world-size 2",
        "--world-size 4",
        "--deepspeed ds_configs/zero2_offload.json",
    ]
    together = "--micro_batch_size 1 --activation_checkpointing block --deepspeed ds_configs/zero3_offload.json"
    assert tried[-1] == f"--world-size 16 {together}"
