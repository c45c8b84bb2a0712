"""What a save is planned to take is what it takes."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import retry
from pretrain.memory import Job, ZeroSettings, checkpoint_bytes, checkpoint_table, parameter_sizes
from tests.pretrain.checkpoint.test_store import CONFIG, save

MODEL = dataclasses.replace(CONFIG, d_model=64, d_ff=2000)


def job(world_size: int) -> Job:
    matrices, vectors = parameter_sizes(MODEL)
    return Job(
        matrices=matrices, vectors=vectors, element=4, world_size=world_size, accumulates=False, device="cpu"
    )  # fmt: skip


@pytest.mark.parametrize("stage", range(4))
def test_every_process_writes_an_equal_share_of_twelve_bytes_a_parameter(stage: int) -> None:
    elements = job(1).elements
    for world_size in (1, 2, 8):
        planned = checkpoint_bytes(ZeroSettings(stage=stage), job(world_size), keep=1)
        assert 12 * elements / world_size <= planned.rank <= 12 * (elements / world_size + 2 * 40)
        assert 12 * elements < planned.checkpoint == planned.disk / 2


def test_saves_take_the_planned_space_on_disk_and_no_less(
    tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two saves never overlap: a file system of the planned bytes is enough for any number of them."""
    monkeypatch.setattr(retry, "PAUSES", ())
    planned = checkpoint_bytes(ZeroSettings(), job(1), keep=2)
    for size, fits in ((planned.disk, True), (planned.disk - planned.checkpoint, False)):
        folder = tmp_path / str(fits)
        folder.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            pytest.skip("needs the right to mount a small file system (root)")
        try:
            for step in (1, 2):
                save(folder, data, step, keep=2, config=MODEL)
            if fits:
                for step in range(3, 6):
                    save(folder, data, step, keep=2, config=MODEL)
            else:
                with pytest.raises(OSError, match="No space left"):
                    save(folder, data, 3, keep=2, config=MODEL)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_the_table_is_bound_by_a_process_or_by_the_storage() -> None:
    rows = {(row["parameters"], row["ranks"]): row for row in checkpoint_table(1e9, 20e9)}
    assert len(rows) == 3 * 7
    assert rows[70 * 10**9, 8] == {
        "parameters": 70 * 10**9, "ranks": 8, "rank_bytes": 105 * 10**9, "checkpoint_bytes": 840 * 10**9,
        "seconds": 105.0,
    }  # fmt: skip
    assert rows[70 * 10**9, 512]["seconds"] == 42.0
