"""Ranges of tensors out of checkpoints of any layout."""

import itertools
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import given

from data_pipeline import Manifest, UserError
from data_pipeline.files import sha256_of
from maha_model import CausalLM
from pretrain.checkpoint import (
    MOMENTS,
    CheckpointInfo,
    CheckpointTensors,
    Piece,
    begin_checkpoint,
    find_checkpoint,
    finish_checkpoint,
    load_model,
    part_name,
    read_info,
    save_checkpoint,
    sealed,
    verify_checkpoint,
    whole_pieces,
    write_part,
)
from tests.pretrain.checkpoint.test_store import CONFIG

SHAPE = (4, 3, 5)


def info(data: Manifest) -> CheckpointInfo:
    return CheckpointInfo(7, 56, 896, 0, CONFIG.to_dict(), data.fingerprint, data.tokenizer_sha256)


def save_in_ranges(run: Path, data: Manifest, values: list[torch.Tensor], cuts: list[int]) -> Path:
    """A checkpoint of one parameter "a" (weights, moments), of as many ranks as there are ranges."""
    draft = begin_checkpoint(run, 7)
    bounds = [0, *sorted(cuts), values[0].numel()]
    parts = []
    for rank, (start, end) in enumerate(itertools.pairwise(bounds)):
        pieces = [Piece("a", SHAPE, start, [value.flatten()[start:end].clone() for value in values])]
        parts.append(write_part(draft.folder, part_name(rank, len(bounds) - 1), pieces if end > start else []))
    return finish_checkpoint(run, draft, info(data), parts, data.tokenizer_path, keep=1)


@given(
    cuts=st.lists(st.integers(0, 60), max_size=5), start=st.integers(0, 59), count=st.integers(1, 60),
    moment=st.sampled_from(["", *MOMENTS]),
)  # fmt: skip
def test_a_range_is_the_same_however_ranks_have_shared_the_parameter(
    tmp_path_factory: pytest.TempPathFactory, data: Manifest, cuts: list[int], start: int, count: int, moment: str
) -> None:
    values = [torch.rand(SHAPE) for _ in range(3)]
    path = save_in_ranges(tmp_path_factory.mktemp("run"), data, values, cuts)
    verify_checkpoint(path)
    expected, tensors = values[["", *MOMENTS].index(moment)], CheckpointTensors(path)
    count = min(count, 60 - start)
    assert torch.equal(tensors.read("a", start, count, moment), expected.flatten()[start : start + count])
    assert torch.equal(tensors.whole("a", moment), expected)


def test_only_the_files_of_a_range_are_read(tmp_path: Path, data: Manifest) -> None:
    path = save_in_ranges(tmp_path, data, [torch.rand(SHAPE) for _ in range(3)], [20, 40])
    for other in (0, 2):
        (path / part_name(other, 3)).unlink()
    assert len(CheckpointTensors(path).read("a", 20, 20, "exp_avg")) == 20
    with pytest.raises(UserError, match=part_name(2, 3)):
        CheckpointTensors(path).read("a", 20, 21)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_missing_or_damaged_file_of_a_rank_is_named(tmp_path: Path, data: Manifest, rank: int, damage: str) -> None:
    path = save_in_ranges(tmp_path, data, [torch.rand(SHAPE) for _ in range(3)], [20, 40])
    file = path / part_name(rank, 3)
    if damage == "missing":
        file.unlink()
    else:
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    with pytest.raises(UserError, match=f"{part_name(rank, 3)} is {damage}"):
        find_checkpoint(path)


def write_format_1(path: Path, data: Manifest, model: CausalLM, moments: dict[str, torch.Tensor]) -> None:
    """As the versions up to November 2026 did."""
    path.mkdir(parents=True)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    safetensors.torch.save_file(weights, path / "model.safetensors")
    safetensors.torch.save_file(moments, path / "optimizer.safetensors")
    shutil.copy(data.tokenizer_path, path / "tokenizer.model")
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in path.iterdir()}
    index = {"format": 1, **asdict(info(data)), "files": files}
    (path / "checkpoint.json").write_text(json.dumps(sealed(index), indent=1))


def test_a_checkpoint_of_format_1_is_read_and_saved_anew(tmp_path: Path, data: Manifest) -> None:
    model = CausalLM(CONFIG)
    weights = dict(model.named_parameters())
    moments = {f"{name}.{key}": torch.rand_like(w) for name, w in weights.items() for key in MOMENTS}
    old = tmp_path / "run" / "checkpoints" / "step-00000007"
    write_format_1(old, data, model, moments)
    assert find_checkpoint(tmp_path / "run") == old
    assert read_info(old) == info(data)
    ids = torch.randint(17, (2, 9))
    assert torch.equal(load_model(old)(ids).logits, model.eval()(ids).logits)
    tensors = CheckpointTensors(old)
    assert tensors.shapes == {name: parameter.shape for name, parameter in weights.items()}
    for name, weight in weights.items():
        assert torch.equal(tensors.read(name, 1, 2), weight.flatten()[1:3])
        assert all(torch.equal(tensors.whole(name, key), moments[f"{name}.{key}"]) for key in MOMENTS)
    again = save_checkpoint(
        tmp_path / "new", info(data), whole_pieces(weights, moments), data.tokenizer_path, keep=1
    )  # fmt: skip
    assert all(torch.equal(CheckpointTensors(again).whole(name), weight) for name, weight in weights.items())
