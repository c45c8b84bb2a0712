"""Checkpoints are whole or absent, and a damaged one is never used silently."""

import dataclasses
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline import Manifest, UserError
from maha_model import CausalLM, ModelConfig
from maha_model.hidden import hidden_matrices
from pretrain.checkpoint import (
    MOMENTS,
    MUON_MOMENTS,
    CheckpointInfo,
    find_checkpoint,
    prepare_to_continue,
    save_checkpoint,
    sealed,
    whole_pieces,
)

PART = "rank-00000-of-00001.safetensors"
CONFIG = ModelConfig(vocab_size=17, context_length=16, d_model=8, num_layers=1, num_heads=2, d_ff=8)


def save(
    run: Path,
    data: Manifest,
    step: int,
    keep: int = 9,
    config: ModelConfig = CONFIG,
    keep_every: int = 0,
    model: dict[str, Any] | None = None,
    optimizer: str = "adamw",
) -> tuple[Path, CausalLM]:
    """A checkpoint of a fresh model of `config`; its index has `model`, if that is given."""
    torch.manual_seed(step)
    built = CausalLM(config)
    weights = {name: parameter.detach().clone() for name, parameter in built.named_parameters()}
    hidden = {id(matrix) for matrix in hidden_matrices(built)} if optimizer == "muon" else set()
    moments = {
        f"{name}.{key}": torch.rand_like(parameter)
        for name, parameter in built.named_parameters()
        for key in (MUON_MOMENTS if id(parameter) in hidden else MOMENTS)
    }
    entry = model or config.to_dict()
    info = CheckpointInfo(
        step, 8 * step, 128 * step, 0, entry, data.fingerprint, data.tokenizer_sha256, optimizer=optimizer
    )
    return save_checkpoint(run, info, whole_pieces(weights, moments), data.tokenizer_path, keep, keep_every), built


def test_the_newest_checkpoints_are_kept(tmp_path: Path, data: Manifest) -> None:
    for step in (1, 2, 10, 11):
        save(tmp_path, data, step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000011"]


def test_every_so_many_steps_one_stays_for_good(tmp_path: Path, data: Manifest) -> None:
    for step in range(1, 8):
        save(tmp_path, data, step, keep=2, keep_every=3)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006", "step-00000007"]


@pytest.mark.parametrize("later", [0, 4, 5])
def test_what_was_kept_for_good_stays_whatever_later_saves_keep(tmp_path: Path, data: Manifest, later: int) -> None:
    for step in range(1, 7):
        save(tmp_path, data, step, keep=1, keep_every=2)
    for step in range(7, 10):
        save(tmp_path, data, step, keep=1, keep_every=later)
    kept = [2, 4, 6, 9] if later != 4 else [2, 4, 6, 8, 9]
    assert names(tmp_path) == [f"step-{step:08d}" for step in kept]


def test_a_checkpoint_without_a_mark_is_pruned_and_one_whose_mark_is_unreadable_is_not(
    tmp_path: Path, data: Manifest
) -> None:
    """Those of before there was a mark have none."""
    for step in (1, 2):
        path, _ = save(tmp_path, data, step, keep=9)
        index = path / "checkpoint.json"
        values = json.loads(index.read_bytes())
        del values["kept"]
        index.write_text(json.dumps(sealed(values)) if step == 1 else "damaged")
    save(tmp_path, data, 3, keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_save_deletes_no_later_checkpoint_and_replaces_none(tmp_path: Path, data: Manifest) -> None:
    for step in (100, 200, 300):
        save(tmp_path, data, step)
    save(tmp_path, data, 150, keep=1)
    assert names(tmp_path) == ["step-00000150", "step-00000200", "step-00000300"]
    with pytest.raises(FileExistsError):
        save(tmp_path, data, 200)
    assert names(tmp_path) == ["step-00000150", "step-00000200", "step-00000300"]


def test_a_damaged_checkpoint_stays_and_counts_no_longer(
    tmp_path: Path, data: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (100, 200, 300):
        save(tmp_path, data, step)
    for number in ("", "1"):
        (tmp_path / "checkpoints" / "step-00000300" / PART).write_bytes(b"damaged")
        prepare_to_continue(tmp_path, 200)
        assert f"step-00000300.damaged{number}" in capsys.readouterr().err
        path, _ = save(tmp_path, data, 300, keep=2)
    assert find_checkpoint(tmp_path) == path
    kept = ["step-00000200", "step-00000300", "step-00000300.damaged", "step-00000300.damaged1"]
    assert names(tmp_path) == kept
    prepare_to_continue(tmp_path, 200)  # a whole one is never renamed
    assert names(tmp_path) == kept


@pytest.mark.parametrize("name", [PART, "tokenizer.model", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, data: Manifest, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = save(tmp_path, data, 1)
    newest, _ = save(tmp_path, data, 2)
    file = newest / name
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    else:
        raw = bytearray(file.read_bytes())
        raw[0 if name == "checkpoint.json" else -1] ^= 0xFF
        file.write_bytes(raw)
    assert find_checkpoint(tmp_path) == whole
    assert f"{newest.name}" in capsys.readouterr().err
    with pytest.raises(UserError):
        find_checkpoint(newest)


def test_an_interrupted_save_leaves_earlier_checkpoints_and_no_rubbish(
    tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = save(tmp_path, data, 1)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, data, 2)
    monkeypatch.undo()
    assert find_checkpoint(tmp_path) == whole
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_full_disk_is_an_ordinary_error_and_leaves_earlier_checkpoints(tmp_path: Path, data: Manifest) -> None:
    """On a real small file system."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        whole, _ = save(tmp_path, data, 1)
        with pytest.raises(OSError, match="No space left") as raised:
            save(tmp_path, data, 2, config=dataclasses.replace(CONFIG, d_ff=4000))
        assert raised.value.errno == errno.ENOSPC
        assert find_checkpoint(tmp_path) == whole
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("how", ["save", "start"])
def test_what_a_kill_leaves_is_ignored_and_removed(tmp_path: Path, data: Manifest, step: int, how: str) -> None:
    """Also where its step, of another checkpoint_interval, is never saved again."""
    whole, _ = save(tmp_path, data, 1)
    rubbish = tmp_path / "checkpoints" / ".step-00000002.tmp"
    rubbish.mkdir()
    (rubbish / PART).write_bytes(b"half")
    assert find_checkpoint(tmp_path) == whole
    if how == "save":
        whole, _ = save(tmp_path, data, step)
    else:
        prepare_to_continue(tmp_path, 1)
    assert find_checkpoint(tmp_path) == whole
    assert not rubbish.exists()


def test_missing_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


def test_the_module_needs_neither_deepspeed_nor_mlflow_nor_torchs_compiler(run_command) -> None:
    script = (
        "import sys, pretrain.checkpoint; "
        "print([n for n in ('deepspeed', 'mlflow', 'datasets', 'torch._dynamo') if n in sys.modules])"
    )
    assert run_command("-c", script).stdout.strip() == "[]"
