"""The profiler's events by part of the model: sums, names, and that nothing is left of it afterwards."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from maha_model import CausalLM, ModelConfig
from pretrain.profiling import PartTimes, recorded_parts, step_span, table, times_by_part
from pretrain.profiling.spans import OTHER


class Engine(torch.nn.Module):
    """What is used of DeepSpeed's engine."""

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.module, self.optimizer = model, torch.optim.SGD(model.parameters(), 0.1)

    def forward(self, *batch: torch.Tensor) -> Any:
        return self.module(*batch)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()


def trainer_of(**options: Any) -> Any:
    torch.manual_seed(0)
    model = CausalLM(ModelConfig(vocab_size=64, context_length=64, d_model=32, num_layers=2, num_heads=2, d_ff=48,
                                 span=16, **options))  # fmt: skip
    ids = torch.randint(64, (2, 64))
    config = SimpleNamespace(compile=False)
    return SimpleNamespace(engine=Engine(model), batches=lambda first, windows: [(ids, ids)], config=config)


def step(trainer: Any) -> float:
    (batch,) = trainer.batches(0, 1)
    loss = trainer.engine(*batch).loss
    trainer.engine.backward(loss)
    trainer.engine.step()
    return float(loss.detach())


def profiled(trainer: Any) -> PartTimes:
    step(trainer)
    with recorded_parts(trainer), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(2):
            with step_span():
                step(trainer)
            step(trainer)  # between two steps, such as an evaluation: no part of them
    return times_by_part(profiler.events(), on_gpu=False)


@pytest.mark.parametrize("policy", ["none", "block"])
def test_the_parts_are_the_whole_step(policy: str) -> None:
    trainer = trainer_of(gating=True)
    trainer.engine.module.activation_checkpointing = policy
    times = profiled(trainer)
    assert times.steps == 2
    assert sum(times.total.values()) == pytest.approx(times.wall, rel=1e-6)
    assert sum(seconds for part, seconds in times.total.items() if part != OTHER) > 0.9 * times.wall
    attention = {name for name in times.total if name.startswith("attention: ")}
    assert attention == {
        f"attention: {part}"
        for part in ("scores over spans", "local context", "decomposition", "gates", "queries and keys", "values",
                     "aggregation", "output")
    }  # fmt: skip
    for part in attention - {"attention: local context"} | {"feed-forward", "norms", "embedding", "head and loss"}:
        assert times.forward[part] > 0, part
        assert times.backward[part] > 0, part
    assert {"data", "optimiser", "residuals and dropout", "gradients, the rest"} <= times.total.keys()


def test_slow_work_is_in_the_part_that_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(400, 400)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            for _ in range(40):
                matrix @ matrix
            return grad

    trainer = trainer_of()
    ffn = trainer.engine.module.transformer.blocks[1].ffn
    forward = ffn.forward
    monkeypatch.setattr(ffn, "forward", lambda x: Slow.apply(forward(x)))
    times = profiled(trainer)
    assert max(times.backward, key=lambda part: times.backward[part]) == "feed-forward"
    assert times.backward["feed-forward"] > 0.5 * times.wall


def test_nothing_is_left_when_it_is_off() -> None:
    trainer, plain = trainer_of(), trainer_of()
    batches, reduce = trainer.batches, torch.distributed.all_reduce
    profiled(trainer)
    for _ in range(5):
        step(plain)
    for name, parameter in trainer.engine.module.named_parameters():  # five steps too
        assert torch.equal(parameter, plain.engine.module.get_parameter(name)), name
    assert (trainer.batches, torch.distributed.all_reduce) == (batches, reduce)
    assert "backward" not in vars(trainer.engine)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.engine.modules())


def test_a_compiled_model_is_one_part() -> None:
    trainer = trainer_of()
    trainer.config.compile = True
    parts = profiled(trainer).total.keys()
    assert "model, the rest" in parts
    assert not any(part.startswith("attention") for part in parts)


def test_the_table_has_milliseconds_of_a_step_and_shares() -> None:
    times = PartTimes({"norms": 0.2, OTHER: 0.1, "data": 0.1}, {"norms": 0.6}, steps=2, wall=1.0)
    lines = table(times, "steps 3 to 4").splitlines()
    assert lines[0] == "steps 3 to 4: 500.0 ms a step"
    assert [re.split(r"\s{2,}", line) for line in lines[2:]] == [
        ["norms", "100.00", "300.00", "80.0%"], ["data", "50.00", "0.00", "10.0%"], ["other", "50.00", "0.00", "10.0%"],
    ]  # fmt: skip
