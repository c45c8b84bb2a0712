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


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_float32_sums_of_bfloat16_gradients_are_whole_with_zero_1_and_shares_after(stage: int) -> None:
    settings = {"zero_optimization": {"stage": stage}, "data_types": {"grad_accum_dtype": "fp32"}}
    zero = ZeroSettings.from_deepspeed(settings)
    assert zero_bytes(zero, job(world_size=4)).gradients == 4 * 8800 // (1 if stage == 1 else 4)
    assert zero_bytes(zero, job(world_size=4, accumulates=False)).gradients == {1: 4 * 8800, 2: 0, 3: 8800}[stage]
    in_float32 = job(world_size=4, element=4)
    assert zero_bytes(zero, in_float32) == zero_bytes(ZeroSettings(stage=stage, overlap_comm=stage == 3), in_float32)


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
