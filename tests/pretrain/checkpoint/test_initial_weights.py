"""A fresh engine of any ZeRO stage starts from a checkpoint's weights, bit for bit, with more scales too."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from data_pipeline import Manifest, UserError
from maha_model import CausalLM
from pretrain.checkpoint import CheckpointTensors, InitialWeights
from pretrain.export import export
from tests.integration.forked import ForkedRun
from tests.pretrain.checkpoint.test_engine_state import MODEL
from tests.pretrain.checkpoint.test_store import save

TRAINED = dataclasses.replace(MODEL, attention="maha", num_scales=2, ratio=2)
MORE = dataclasses.replace(TRAINED, num_scales=3)
SETTINGS = ("0 float32", "1 bfloat16", "2 float32", "3 bfloat16")


def start_each() -> None:
    """On each rank: an engine of each setting from the same weights."""
    from pretrain.checkpoint.engine_state import load_weights, own_pieces
    from pretrain.config import RunConfig
    from pretrain.distributed import join_process_group
    from pretrain.engine import build_engine

    path, rank = Path(sys.argv[1]), join_process_group(60.0)
    shapes = {name: parameter.shape for name, parameter in CausalLM(MORE).named_parameters()}
    expected = InitialWeights(path, MORE, shapes)
    for setting in sys.argv[2:]:
        zero, precision = setting.split()
        config = RunConfig(
            model=MORE, global_batch_size=rank.world_size, micro_batch_size=1, precision=precision,
            deepspeed=Path(f"ds_configs/zero{zero}.json"),
        )  # fmt: skip
        engine = build_engine(config, rank.world_size)
        load_weights(engine, path, MORE)
        for name, parameter in engine.module.named_parameters():
            if not hasattr(parameter, "ds_tensor"):  # what it computes with
                assert torch.equal(parameter, expected.whole(name).to(parameter.dtype)), (setting, name)
        ids = torch.ones(1, 8, dtype=torch.int64)
        engine.backward(engine(ids, ids).loss)
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.0
        engine.step()  # makes the moments, which a checkpoint has
        for piece in own_pieces(engine):  # what it updates
            end = piece.start + piece.values[0].numel()
            assert torch.equal(piece.values[0], expected.whole(piece.name).flatten()[piece.start : end]), setting
        engine.destroy()
    rank.print("all alike")


def test_every_stage_starts_from_the_same_weights(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path / "run", data, 1, config=TRAINED)
    export(path, tmp_path / "export")
    options = (str(tmp_path / "export"), *SETTINGS)
    result = ForkedRun(2, *options, module=__name__, function=start_each.__name__).wait()
    assert result.returncode == 0, result.stdout
    assert "all alike" in result.stdout


def test_weights_of_a_model_with_more_scales_are_read_in_ranges(tmp_path: Path, data: Manifest) -> None:
    path, trained = save(tmp_path / "run", data, 1, config=TRAINED)
    shapes = {name: parameter.shape for name, parameter in CausalLM(MORE).named_parameters()}
    weights, name = InitialWeights(path, MORE, shapes), "transformer.blocks.1.attention.aggregate.utility.weight"
    heads = MORE.num_heads
    whole = weights.whole(name)
    assert whole.shape == shapes[name]
    assert torch.equal(whole[: 2 * heads], dict(trained.named_parameters())[name])
    assert torch.equal(whole[2 * heads :], whole[heads : 2 * heads])
    assert torch.equal(weights.read(name, 5, 30), whole.flatten()[5:35])
    new = "transformer.blocks.0.attention.decompose.convs.1.weight"
    assert torch.equal(weights.whole(new), CheckpointTensors(path).whole(new.replace("convs.1", "convs.0")))


def test_another_models_weights_are_refused_by_the_name_of_a_parameter(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path / "run", data, 1, config=TRAINED)
    for changes, message in (({"d_ff": 18}, "has transformer.blocks.0.ffn"), ({"gating": True}, "has no transformer")):
        other = dataclasses.replace(TRAINED, **changes)
        shapes = {name: parameter.shape for name, parameter in CausalLM(other).named_parameters()}
        with pytest.raises(UserError, match=rf"{message}.* is of another model"):
            InitialWeights(path, other, shapes)
