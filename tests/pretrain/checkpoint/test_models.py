"""Models out of checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from data_pipeline import Manifest, UserError
from pretrain.checkpoint import MOMENTS, CheckpointTensors, find_checkpoint, load_model, read_info, sealed
from tests.pretrain.checkpoint.test_store import save


def test_a_checkpoint_gives_back_the_model(tmp_path: Path, data: Manifest) -> None:
    path, model = save(tmp_path, data, 3)
    assert find_checkpoint(tmp_path) == find_checkpoint(path) == path
    loaded = load_model(path)
    ids = torch.randint(17, (2, 9))
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert not loaded.training
    assert read_info(path).step == 3
    tensors = CheckpointTensors(path)
    assert tensors.shapes == {name: parameter.shape for name, parameter in model.named_parameters()}
    assert all(
        tensors.whole(name, moment).shape == shape for name, shape in tensors.shapes.items() for moment in MOMENTS
    )
    assert {file.name for file in path.iterdir()} == {
        "checkpoint.json", "rank-00000-of-00001.safetensors", "tokenizer.model"
    }  # fmt: skip


def test_weights_of_another_model_are_refused(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path, data, 1)
    index = json.loads((path / "checkpoint.json").read_text())
    index["model"]["d_ff"] = 12
    (path / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="does not match its own checksum"):
        read_info(path)
    (path / "checkpoint.json").write_text(json.dumps(sealed(index)))
    with pytest.raises(UserError, match="is not of the model of its configuration"):
        load_model(path)
    index["model"]["warp"] = 9
    (path / "checkpoint.json").write_text(json.dumps(sealed(index)))
    with pytest.raises(UserError, match="this version cannot build the checkpoint's model"):
        load_model(path)
