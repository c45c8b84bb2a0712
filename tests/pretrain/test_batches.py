"""What a step's batches hold: windows by the order of the run, documents set apart, weights by scored tokens."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline import Data, Manifest, MixedOrder, load_data, open_windows
from data_pipeline.mixed_order import BLOCK, Stage
from data_pipeline.windows import UNSCORED
from maha_model import ConfigError, ModelConfig
from pretrain.batches import Batch, TrainingBatches
from pretrain.config import RunConfig, WarmupConfig
from tests.pretrain.test_mixtures import write

MODEL = ModelConfig(context_length=64, d_model=8, num_heads=2, num_scales=2)


def read(data: Data, size: int, processes: int, micro: int, **fields: Any) -> list[list[Batch]]:
    """The batches of the first `size` windows, by process."""
    config = RunConfig(model=MODEL, global_batch_size=size, micro_batch_size=micro, **fields)
    ranks = [SimpleNamespace(rank=rank, world_size=processes) for rank in range(processes)]
    return [TrainingBatches(data, config, rank)(0, size) for rank in ranks]  # type: ignore[arg-type]


@pytest.mark.parametrize(("processes", "micro"), [(1, 12), (1, 4), (2, 3), (3, 2)])
def test_the_weighted_mean_of_the_batches_is_that_of_all_scored_tokens(
    short_data: Manifest, processes: int, micro: int
) -> None:
    """However windows are shared out; of the stream all count alike."""
    ((whole,),) = read(short_data, 12, 1, 12, packing="documents")
    assert whole.weight == pytest.approx(1, abs=1e-15)
    assert (whole.targets == UNSCORED).any()
    batches = list(itertools.chain(*read(short_data, 12, processes, micro, packing="documents")))
    assert torch.equal(torch.cat([batch.ids for batch in batches]), whole.ids)
    expected = whole.targets[whole.targets != UNSCORED].double().mean()
    means = [batch.targets[batch.targets != UNSCORED].double().mean() * batch.weight for batch in batches]
    torch.testing.assert_close(sum(means) / len(means), expected)
    assert all(batch.weight is None for batch in itertools.chain(*read(short_data, 12, processes, micro)))


def test_a_mixture_is_packed_source_by_source(data: Manifest, short_data: Manifest, tmp_path: Path) -> None:
    mix = load_data(write(tmp_path / "mix.yaml", [(data, 1), (short_data, 1)]))
    ((whole,),) = read(mix, 12, 1, 12, packing="documents", document_mask=True)
    halves = itertools.chain(*read(mix, 12, 2, 6, packing="documents", document_mask=True))
    assert torch.equal(torch.cat([batch.ids for batch in halves]), whole.ids)
    windows = [open_windows(source, "train", 64, "documents") for source in (data, short_data)]
    known = [{tuple(source[number][0]) for number in range(len(source))} for source in windows]
    found = [[tuple(row) in rows for rows in known] for row in whole.ids.tolist()]
    assert all(any(row) for row in found)
    assert 0 < sum(of_short for _, of_short in found) < 12


@pytest.mark.parametrize("packing", ["stream", "documents"])
@pytest.mark.parametrize("stage", [1, 3])
def test_documents_of_a_batch_are_those_of_its_windows(short_data: Manifest, packing: Any, stage: int) -> None:
    options = {"packing": packing, "document_mask": True, "deepspeed": f"ds_configs/zero{stage}.json"}
    ((batch,),) = read(short_data, 24, 1, 24, **options)
    windows = open_windows(short_data, "train", 64, packing)
    order = MixedOrder([Stage(0, {0: BLOCK})], [len(windows)], 0)
    lengths = [windows.documents(order[sample][1]) for sample in range(24)]
    assert max(map(len, lengths)) > 1
    expected = [np.concatenate([np.arange(length) for length in window]) for window in lengths]
    documents = batch.documents
    assert documents is not None
    found = documents.map_apart(lambda x_RM1, _: x_RM1.cumsum(1) - 1, torch.ones(24, 64, 1))
    assert np.array_equal(found[..., 0].numpy(), np.stack(expected))
    assert min(M for _, M in documents.shapes) >= MODEL.context_unit
    assert stage == 1 or len(documents.shapes) == 4
    ((plain,),) = read(short_data, 24, 1, 24, packing=packing)
    assert torch.equal(plain.ids, batch.ids)
    assert plain.documents is None


@pytest.mark.parametrize(("fields", "message"), [
    ({"context_parallel": 2}, "context_parallel, which gives every process a part of a window"),
    ({"length_warmup": WarmupConfig(start=16, steps=2)}, "length_warmup, which cuts windows again"),
    ({"compile": True}, "compile, which compiles for each shape"),
])  # fmt: skip
def test_what_a_document_mask_does_not_go_with_is_one_line(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"document_mask does not go with {message}.*; leave one of them out"):
        RunConfig(model=MODEL, document_mask=True, **fields)
