"""Speed, MFU and time left while batch and windows grow, on a device whose every FLOP takes as long."""

import pytest

from maha_model import ModelConfig, flops_per_token
from pretrain.callbacks.throughput import StepWork, Throughput
from pretrain.config import RunConfig, WarmupConfig
from pretrain.warmup import batch_size, window_length

MODEL = ModelConfig(
    vocab_size=64, context_length=64, d_model=16, num_layers=1, num_heads=2, d_ff=16, attention="standard"
)  # fmt: skip
PER_S = 1e6
"""FLOPs a second of the device."""


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    "warmups",
    [
        {},
        {"batch_warmup": WarmupConfig(start=2, steps=6)},
        {"length_warmup": WarmupConfig(start=16, steps=8)},
        {"batch_warmup": WarmupConfig(start=4, steps=4), "length_warmup": WarmupConfig(start=16, steps=8)},
        {"batch_warmup": WarmupConfig(start=2, steps=30)},
    ],
    ids=["none", "batch", "length", "both", "longer than the run"],
)
def test_mfu_is_constant_and_the_time_left_is_what_the_rest_takes(warmups: dict[str, WarmupConfig]) -> None:
    config = RunConfig(model=MODEL, steps=12, global_batch_size=8, micro_batch_size=2, **warmups)

    def seconds(step: int) -> float:
        tokens = batch_size(config, step) * MODEL.context_length
        return tokens * flops_per_token(MODEL, window_length(config, step)) / PER_S

    each = [seconds(step) for step in range(config.steps)]
    clock = Clock()
    throughput = Throughput(StepWork(config), 4 * PER_S, clock)
    for step, spent in enumerate(each):
        throughput.start_step()
        clock.seconds += spent
        throughput.end_step(step)
        clock.seconds += 100  # an evaluation
        if step % 2:
            read = throughput.read(step + 1)
            assert read["mfu"] == pytest.approx(0.25)
            assert read["eta_s"] == pytest.approx(sum(each[step + 1 :]), abs=1e-9)
            tokens = sum(batch_size(config, done) for done in (step - 1, step)) * MODEL.context_length
            assert read["tokens_per_s"] == pytest.approx(tokens / sum(each[step - 1 : step + 1]))
    if warmups:
        assert len({round(spent, 9) for spent in each}) > 1
