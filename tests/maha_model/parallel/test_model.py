"""A model on the parts of a window, in several processes, against the whole window in one."""

import json
import re

import pytest
import torch

from maha_model import CausalLM, ModelConfig
from maha_model.parallel import ContextSplit, Traffic, part_sizes
from tests.integration.forked import ForkedRun
from tests.maha_model.parallel.model_ranks import CASES


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_loss_gradients_and_decoding_are_those_of_one_process(processes: int) -> None:
    """Every attention, query mode, way to make scales and recomputation, in float64; some targets are not scored.

    Decoding goes on from a prompt that the processes share.
    """
    result = ForkedRun(processes, module="tests.maha_model.parallel.model_ranks").wait(200)
    assert result.returncode == 0, result.stdout
    # wherever they stand: another process may have written a part of a line before
    errors = dict(map(json.loads, re.findall(r'ERROR (\["[^"]*", [^\]]*\])', result.stdout)))
    assert errors.keys() == {name + of for name in CASES for of in ("", ", decoding")}
    assert {name: error for name, error in errors.items() if not error < 1e-12} == {}


def sent_bytes(length: int, place: int, **options: object) -> int:
    """By one of 8 processes, forward and backward of a model of one layer, on shapes alone."""
    config = ModelConfig.named("paper", vocab_size=8, num_layers=1, **options)
    with torch.device("meta"):
        model = CausalLM(config)
        model.context_parallel = ContextSplit(part_sizes(length, 8, config.context_unit), place)
        ids = torch.zeros(1, model.context_parallel.sizes[place], dtype=torch.long)
    with Traffic() as traffic:
        loss = model(ids, ids).loss
        assert loss is not None
        loss.backward()
    return traffic.sent


def test_without_a_descent_the_bytes_do_not_grow_with_the_window() -> None:
    assert sent_bytes(2**14, 3) == sent_bytes(2**16, 3) > 0
    descent = {"query": "fine", "positions": "token", "descent": 8}
    assert sent_bytes(2**16, 3, **descent) > 3 * sent_bytes(2**14, 3, **descent)
