"""Initial weights: modules with a start of their own are found by their method; parameters are whole meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from maha_model import AggregationConfig, CausalLM, ConfigError, ModelConfig
from maha_model.initialization import InitializesParameters, initialize

FIELDS = {"vocab_size": 11, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "span": 8}


class Ones(nn.Linear):
    """A start of its own."""

    def initialize_parameters(self) -> None:
        nn.init.ones_(self.weight)


def test_a_module_with_the_method_is_found_and_comes_last() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Ones(3, 3)))
    initialize(module, ModelConfig(**FIELDS))
    assert (module[1][0].weight == 1).all()
    assert 0 < module[0].weight.std() < 0.1
    assert (module[0].bias == 0).all()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"gating": True, "dilation": 1}, {"Aggregator", "CrossScaleGate", "Decomposition", "LocalContext"}),
        ({"aggregation": AggregationConfig(strategy="gate")}, {"Aggregator", "Decomposition"}),
        ({"attention": "longformer"}, set()),
    ],
)
def test_every_part_of_a_model_with_a_start_of_its_own_has_the_method(fields: dict, names: set[str]) -> None:
    model = CausalLM(ModelConfig(**FIELDS, **fields))
    found = {type(module).__name__ for module in model.modules() if isinstance(module, InitializesParameters)}
    assert found == names | ({"StandardAttention"} if "attention" in fields else {"ScaleProjections"})


def test_the_same_seed_gives_the_same_weights_whole_or_gathered_part_by_part() -> None:
    """As where weights are sharded over processes: what is outside `gather` is not there."""
    config = ModelConfig(**FIELDS, gating=True, dilation=1)
    torch.manual_seed(5)
    expected = CausalLM(config).state_dict()
    shards: dict[nn.Parameter, torch.Tensor] = {}

    @contextmanager
    def gather(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        parameters = list(parameters)
        for parameter in parameters:
            parameter.data = shards.get(parameter, parameter.data)
        yield
        for parameter in parameters:
            shards[parameter] = parameter.data
            parameter.data = torch.full_like(parameter.data, torch.nan)

    torch.manual_seed(5)
    model = CausalLM(config, gather)
    for name, parameter in model.named_parameters():
        assert torch.equal(shards.get(parameter, parameter.data), expected[name]), name


def test_hidden_matrices_of_a_wider_model_start_smaller_and_its_logits_are_divided() -> None:
    fields = {**FIELDS, "d_model": 64, "num_heads": 8}
    torch.manual_seed(5)
    plain = CausalLM(ModelConfig(**fields))
    torch.manual_seed(5)
    transferred = CausalLM(ModelConfig(**fields, base_width=16))
    own_start = ("norm", "bias", "gains", "convs", "utility")
    for (name, before), after in zip(plain.named_parameters(), transferred.parameters(), strict=True):
        ratio = 1.0 if "embedding" in name or any(part in name for part in own_start) else 0.5
        torch.testing.assert_close(after, before * ratio, msg=lambda text, name=name: f"{name}: {text}")
    hidden, targets = torch.randn(2, 5, 64), torch.randint(11, (2, 5))
    torch.testing.assert_close(4 * transferred.lm_head(hidden), plain.lm_head(hidden))
    logits = transferred.lm_head(hidden)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(transferred.lm_head(hidden, targets), expected)


def test_at_the_base_width_nothing_is_different() -> None:
    models = []
    for base_width in (None, 16):
        torch.manual_seed(5)
        models.append(CausalLM(ModelConfig(**FIELDS, base_width=base_width)))
    ids = torch.randint(11, (2, 9))
    assert torch.equal(*(model(ids).logits for model in models))


def test_a_base_width_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="base_width is 0; it must be at least 1, or null"):
        ModelConfig(**FIELDS, base_width=0)
