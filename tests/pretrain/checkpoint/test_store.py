"""Checkpoints are whole or absent, and a damaged one is never used silently."""

import dataclasses
import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch

from data_pipeline import Manifest, UserError
from maha_model import CausalLM, ModelConfig
from pretrain.checkpoint import (
    CheckpointInfo,
    find_checkpoint,
    save_checkpoint,
)

CONFIG = ModelConfig(vocab_size=17, context_length=16, d_model=8, num_layers=1, num_heads=2, d_ff=8)


def save(
    run: Path, data: Manifest, step: int, keep: int = 9, config: ModelConfig = CONFIG, keep_every: int = 0
) -> tuple[Path, CausalLM]:
    torch.manual_seed(step)
    model = CausalLM(config)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = {f"{name}.{key}": torch.rand_like(w) for name, w in weights.items() for key in ("exp_avg", "exp_avg_sq")}
    info = CheckpointInfo(step, 8 * step, 128 * step, 0, config.to_dict(), data.fingerprint, data.tokenizer_sha256)
    return save_checkpoint(run, info, weights, moments, data.tokenizer_path, keep, keep_every), model


def test_the_newest_checkpoints_are_kept(tmp_path: Path, data: Manifest) -> None:
    for step in (1, 2, 10, 11):
        save(tmp_path, data, step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000011"]


def test_every_so_many_steps_one_stays_for_good(tmp_path: Path, data: Manifest) -> None:
    for step in range(1, 8):
        save(tmp_path, data, step, keep=2, keep_every=3)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006", "step-00000007"]


def test_resuming_an_earlier_checkpoint_drops_the_branch_that_it_leaves(tmp_path: Path, data: Manifest) -> None:
    for step in (100, 200, 300):
        save(tmp_path, data, step)
    (tmp_path / "checkpoints" / "step-00000300" / "model.safetensors").write_bytes(b"damaged")
    path, _ = save(tmp_path, data, 150, keep=1)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000150"]
    assert find_checkpoint(tmp_path) == path


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "tokenizer.model", "checkpoint.json"])
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


def test_what_a_kill_leaves_is_ignored_and_replaced(tmp_path: Path, data: Manifest) -> None:
    whole, _ = save(tmp_path, data, 1)
    rubbish = tmp_path / "checkpoints" / ".step-00000002.tmp"
    rubbish.mkdir()
    (rubbish / "model.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path) == whole
    path, _ = save(tmp_path, data, 2)
    assert find_checkpoint(tmp_path) == path
    assert not rubbish.exists()


def test_missing_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


def test_the_module_needs_neither_deepspeed_nor_mlflow(run_command) -> None:
    script = (
        "import sys, pretrain.checkpoint; print([n for n in ('deepspeed', 'mlflow', 'datasets') if n in sys.modules])"
    )
    assert run_command("-c", script).stdout.strip() == "[]"
