"""Any ZeRO stage and number of processes restores what another one has saved, bit for bit."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from data_pipeline import Manifest
from maha_model.hidden import hidden_matrices
from pretrain.checkpoint import MOMENTS, MUON_MOMENTS, CheckpointTensors, find_checkpoint, read_info
from tests.integration.forked import ForkedRun
from tests.pretrain.checkpoint.test_store import CONFIG, save

MODEL = dataclasses.replace(CONFIG, d_model=12, num_layers=2, d_ff=10)
"""Whose parameters three processes cannot share equally."""
SETTINGS = ("0 float32", "1 float32", "2 float32", "3 float32", "1 bfloat16", "2 bfloat16", "3 bfloat16")


def pass_on() -> None:
    """On each rank: a fresh engine of each setting restores what the one before has saved, and saves it."""
    from pretrain.callbacks.checkpointing import Checkpointing
    from pretrain.config import OptimizerConfig, RunConfig
    from pretrain.distributed import join_process_group
    from pretrain.engine import build_engine
    from pretrain.progress import Progress
    from pretrain.trainer import Trainer

    data, out, optimizer, *settings = sys.argv[1:]
    rank = join_process_group(60.0)
    for number, setting in enumerate(settings):
        zero, precision = setting.split()
        config = RunConfig(
            model=MODEL, global_batch_size=rank.world_size, micro_batch_size=1, precision=precision, out=Path(out),
            deepspeed=Path(f"ds_configs/zero{zero}.json"), keep_checkpoints=99,
            optimizer=OptimizerConfig(name=optimizer),
        )  # fmt: skip
        torch.manual_seed(number)
        engine = build_engine(config, rank.world_size)
        checkpointing = Checkpointing(Manifest.load(Path(data)), 0)
        trainer = Trainer(config, rank, engine, lambda sample, windows: [], Progress(), [checkpointing])
        checkpointing.roll_back(trainer)
        restored = CheckpointTensors(rank.on_main(lambda: find_checkpoint(out)))
        for name, parameter in engine.module.named_parameters():
            if not hasattr(parameter, "ds_tensor"):  # what it computes with, too
                assert torch.equal(parameter, restored.whole(name).to(parameter.dtype)), name
        trainer.progress.step += 1
        checkpointing.save(trainer)
        checkpointing.wait(trainer)
        engine.destroy()


@pytest.mark.parametrize(("processes", "optimizer"), [(1, "adamw"), (2, "muon"), (3, "adamw")])
def test_every_stage_saves_what_another_has_saved(
    tmp_path: Path, data: Manifest, processes: int, optimizer: str
) -> None:
    run = tmp_path / "run"
    first, built = save(run, data, 1, config=MODEL, optimizer=optimizer)
    result = ForkedRun(
        processes, str(data.folder), str(run), optimizer, *SETTINGS, module=__name__, function=pass_on.__name__
    ).wait()
    assert result.returncode == 0, result.stdout
    last = find_checkpoint(run)
    assert (read_info(last).step, read_info(last).optimizer) == (1 + len(SETTINGS), optimizer)
    hidden = {id(matrix) for matrix in hidden_matrices(built)} if optimizer == "muon" else set()
    expected, found = CheckpointTensors(first), CheckpointTensors(last)
    assert found.shapes == expected.shapes
    for name, parameter in built.named_parameters():
        for moment in ("", *(MUON_MOMENTS if id(parameter) in hidden else MOMENTS)):
            assert torch.equal(found.whole(name, moment), expected.whole(name, moment)), (name, moment)
    parts = [path.stat().st_size for path in last.glob("rank-*")]
    assert len(parts) == processes
