"""Sizes that grow over the first steps."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import UserError
from maha_model import ConfigError, ModelConfig
from pretrain.batches import Batch
from pretrain.config import RunConfig, WarmupConfig
from pretrain.progress import Progress
from pretrain.trainer import Trainer
from pretrain.warmup import batch_size, window_length
from tests.pretrain.test_trainer import AloneRank, Engine


def test_a_batch_grows_by_its_start_and_a_window_doubles() -> None:
    config = RunConfig(
        model=ModelConfig(context_length=64), global_batch_size=16, micro_batch_size=4,
        batch_warmup=WarmupConfig(start=4, steps=9), length_warmup=WarmupConfig(start=16, steps=4),
    )  # fmt: skip
    assert [batch_size(config, step) for step in range(11)] == [4, 4, 4, 8, 8, 8, 12, 12, 12, 16, 16]
    assert [window_length(config, step) for step in range(6)] == [16, 16, 32, 32, 64, 64]
    plain = RunConfig(model=ModelConfig(context_length=64), global_batch_size=16)
    assert (batch_size(plain, 0), window_length(plain, 0)) == (16, 64)


@given(start=st.integers(1, 6), times=st.integers(2, 9), doublings=st.integers(1, 5), steps=st.integers(1, 40))
def test_sizes_never_shrink_and_are_full_after_the_steps(start: int, times: int, doublings: int, steps: int) -> None:
    config = RunConfig(
        model=ModelConfig(context_length=16 * 2**doublings), global_batch_size=start * times, micro_batch_size=1,
        batch_warmup=WarmupConfig(start=start, steps=steps), length_warmup=WarmupConfig(start=16, steps=steps),
    )  # fmt: skip
    for of_step, first, full in ((batch_size, start, start * times), (window_length, 16, 16 * 2**doublings)):
        sizes = [of_step(config, step) for step in range(steps + 2)]
        assert sizes[0] == first
        assert sizes == sorted(sizes)
        assert sizes[steps - 1] < full == sizes[steps]
        assert all(full % first == size % first == 0 for size in sizes)


def test_a_step_has_the_windows_that_follow_those_before_cut_to_its_length() -> None:
    """With a batch that is skipped in between."""
    config = RunConfig(
        model=ModelConfig(context_length=32), steps=3, global_batch_size=4, micro_batch_size=2,
        batch_warmup=WarmupConfig(start=2, steps=2), length_warmup=WarmupConfig(start=16, steps=1),
    )  # fmt: skip
    seen: list[tuple[str, object]] = []

    class Growing(Engine):
        def __call__(self, ids: torch.Tensor, targets: torch.Tensor) -> SimpleNamespace:
            assert ids.shape == targets.shape
            seen.append(("forward", tuple(ids.shape)))
            return super().__call__(ids, targets)

        def set_train_batch_size(self, windows: int) -> None:
            seen.append(("batch", windows))

        def gradient_accumulation_steps(self) -> int:
            return 1

        def set_gradient_accumulation_boundary(self, is_last: bool) -> None:
            seen.append(("last", is_last))

    def batches(first: int, windows: int) -> list[Batch]:
        seen.append(("windows", range(first, first + windows)))
        return [Batch(torch.zeros(2, 32), torch.zeros(2, 32))] * (windows // 2)

    Trainer(config, AloneRank(), Growing([1.0, float("nan"), 1.0, 1.0, 1.0]), batches, Progress(), []).run()
    one = [("batch", 2), ("last", True)]
    assert seen == [
        ("windows", range(2)), *one, ("forward", (4, 16)),
        ("windows", range(2, 4)), *one, ("forward", (2, 32)),
        ("windows", range(4, 6)), *one, ("forward", (2, 32)),
        ("windows", range(6, 10)), ("batch", 4), ("last", False), ("forward", (2, 32)), ("last", True),
        ("forward", (2, 32)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_warmup": WarmupConfig(start=3, steps=9)}, "is 3; it must divide global_batch_size 8 and be less"),
        ({"batch_warmup": WarmupConfig(start=4)}, "batch_warmup needs both start and steps"),
        ({"batch_warmup": WarmupConfig(start=-4, steps=2)}, "and batch_warmup.steps must not be negative"),
        ({"length_warmup": WarmupConfig(start=20, steps=9)}, "it must divide context_length 96 and be less"),
        ({"length_warmup": WarmupConfig(start=32, steps=9)}, "is 32, which does not double to context_length 96"),
        ({"length_warmup": WarmupConfig(start=48, steps=9), "context_parallel": 2}, "leave one of them out"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_grow_to_the_full_one_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(model=ModelConfig(context_length=96), **fields)


def test_a_start_that_does_not_fit_the_processes_is_refused() -> None:
    config = RunConfig(global_batch_size=24, micro_batch_size=2, batch_warmup=WarmupConfig(start=4, steps=9))
    assert config.accumulation_steps(2) == 6
    with pytest.raises(UserError, match=r"batch_warmup.start 4 is not a multiple .* --batch_warmup.start 6"):
        config.accumulation_steps(3)
