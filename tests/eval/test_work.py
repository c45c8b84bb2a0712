"""The work that is counted is the work that is done; a dial that cannot turn is a user's mistake."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data_pipeline import UserError
from eval.work import ScoreWork, turn_dial
from maha_model import AggregationConfig, CausalLM, ConfigError, ModelConfig
from maha_model.kernels.descent import Geometry, pairs_seen
from maha_model.kernels.descent.reference import attend_level_reference


def build(**fields: Any) -> CausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "context_length": 256, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 8}
    shape = {"num_scales": 3, "ratio": 3, "span": 4, "descent": 2, "query": "fine", "positions": "token"}
    config = ModelConfig.from_dict({**sizes, **shape, "init_std": 0.5, **fields})
    model = CausalLM(config).eval()
    if config.attention == "maha":
        for block in model.transformer.blocks:
            if block.attention.aggregate.utility is not None:
                torch.nn.init.normal_(block.attention.aggregate.utility.weight, std=0.5)
    return model


class Calls(TorchDispatchMode):
    """Inside, the arguments of every scale's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.maha.attend_level.default:
            self.arguments.append(args)
        return func(*args, **(kwargs or {}))


BUDGET = {"domain": "budget", "redundancy": 0.0, "head_start": 0.0}


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 50.0])
def test_counted_pairs_are_those_of_the_masks_of_the_definition(sparsity: float, groups: int | None) -> None:
    """Every token that a wanted query gives weight counts, and no other."""
    model = build(descent_groups=groups, aggregation=BUDGET)
    turn_dial(model, sparsity)
    ids = torch.randint(11, (2, 75))
    with torch.no_grad(), Calls() as calls, ScoreWork() as work:
        model(ids)
    products = 0
    for q, k, _, parents, bias, geometry, wanted in calls.arguments:
        # With unit vectors for values outputs are the attention to each token; in float64 none is rounded to 0.
        q, k, bias = (None if x is None else x.double() for x in (q, k, bias))
        unit = torch.eye(k.shape[2], dtype=k.dtype).expand(*k.shape[:2], -1, -1)
        attention = attend_level_reference(q, k, unit, parents, bias, Geometry(*geometry), wanted)[0]
        products += k.shape[3] * int((attention > 0).sum())
    assert work.multiply_adds == products
    assert work.per_token(model) == pytest.approx(products / 150)
    assert (products == 0) == (sparsity == 50)


def test_the_products_of_an_index_count() -> None:
    """Beside what the choice leads to, which is counted as without one: of each of two layers 75 queries of width 5."""
    model, ids = build(choice="index", index_dim=5), torch.randint(11, (2, 75))
    with torch.no_grad(), Calls() as calls, ScoreWork() as work:
        model(ids)
    seen = sum(
        k.shape[3] * pairs_seen(q, k, parents, Geometry(*geometry), wanted[0] if wanted else None)
        for q, k, _, parents, _, geometry, *wanted in calls.arguments
    )
    assert work.multiply_adds - seen == 2 * 2 * 5 * sum(range(75 - 4 + 1))


def test_a_higher_price_is_less_work() -> None:
    model, ids, done = build(aggregation=BUDGET), torch.randint(11, (2, 75)), []
    for sparsity in (0.0, 0.5, 1.0, 2.0):
        turn_dial(model, sparsity)
        with torch.no_grad(), ScoreWork() as work:
            model(ids)
        done.append(work.multiply_adds)
    assert done == sorted(done, reverse=True)
    assert done[-1] < done[0] / 2


def test_a_price_is_that_of_a_model_made_with_it() -> None:
    ids = torch.randint(11, (1, 40))
    for aggregation, name in ((BUDGET, "sparsity"), ({"strategy": "gate"}, "threshold")):
        turned, made = build(aggregation=aggregation), build(aggregation={**aggregation, name: 0.4})
        turn_dial(turned, 0.4)
        assert torch.equal(turned(ids).logits, made(ids).logits)
        assert getattr(turned.config.aggregation, name) == getattr(AggregationConfig(), name)


@pytest.mark.parametrize(
    ("fields", "value", "error", "message"),
    [
        ({"descent": 0}, 0.1, UserError, "a model with a descent only"),
        ({"attention": "standard"}, 0.1, UserError, "a model with a descent only"),
        ({"aggregation": {"strategy": "mean"}}, 0.1, ConfigError, "strategy mean has no sparsity"),
        ({"aggregation": {"strategy": "gate"}}, 1.0, ConfigError, "at least 0 and below 1"),
        ({}, -0.1, ConfigError, "must not be negative"),
    ],
)
def test_a_dial_that_cannot_turn_is_a_mistake(
    fields: dict[str, Any], value: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        turn_dial(build(**fields), value)


def test_without_compiled_code_nothing_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.work.which", lambda *_, **__: "reference")
    with pytest.raises(UserError, match="install a C\\+\\+ compiler"):
        turn_dial(build(), 0.1)
