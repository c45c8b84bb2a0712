"""What DeepSpeed holds: shares of processes, offload, its defaults."""

import pytest

from pretrain.memory import Job, ZeroSettings, zero_bytes


def job(world_size: int, element: int = 2, accumulates: bool = True) -> Job:
    return Job(matrices=[6000, 2000], vectors=[800], element=element, world_size=world_size, accumulates=accumulates,
               device="cuda")  # fmt: skip


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_process_holds_its_share_of_the_optimiser_and_float32_weights_beside_bfloat16(stage: int) -> None:
    held = zero_bytes(ZeroSettings(stage=stage), job(world_size=4))
    assert held.optimizer == 3 * 4 * 8800 // 4
    assert held.parameters == 2 * 8800 // (4 if stage == 3 else 1)
    assert held.gradients == 2 * 8800 // (1 if stage == 1 else 4)


def test_what_is_offloaded_is_on_the_host() -> None:
    zero = ZeroSettings(stage=3, offload_optimizer=True, offload_param=True)
    held = zero_bytes(zero, job(world_size=2))
    assert (held.parameters, held.gradients, held.optimizer) == (0, 0, 0)
    assert held.host == (2 + 12 + 2 + 4) * 8800 // 2
    assert held.gathered == 2 * 8800


def test_the_defaults_are_deepspeeds() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for stage in (1, 2, 3):
        theirs, ours = (
            DeepSpeedZeroConfig(stage=stage),
            ZeroSettings.from_deepspeed({"zero_optimization": {"stage": stage}}),
        )
        for name in ("contiguous_gradients", "overlap_comm", "reduce_bucket_size", "max_live_parameters"):
            assert getattr(theirs, name) == getattr(ours, name), name
