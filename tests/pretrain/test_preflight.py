"""What may be continued where: no checkpoint that is kept is replaced, and an old one stays good."""

import dataclasses
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline import Manifest, UserError
from maha_model import CausalLM, ModelConfig
from pretrain.checkpoint import read_info
from pretrain.checkpoint.engine_state import restore_checkpoint
from pretrain.config import OptimizerConfig, RunConfig, WarmupConfig
from pretrain.export import export
from pretrain.preflight import (
    check_resume,
    check_run,
    find_resume,
    warn_of_past_profile,
    warn_of_small_disk,
    warnings_of_warmups,
)
from tests.pretrain.checkpoint.test_store import CONFIG, PART, save


def resume(out: Path, checkpoint: Path | str) -> Path | None:
    return find_resume(RunConfig(out=out, resume=str(checkpoint)))


def test_an_older_checkpoint_is_refused_where_later_ones_are_kept(tmp_path: Path, data: Manifest) -> None:
    run = tmp_path / "run"
    older, newest = (save(run, data, step)[0] for step in (100, 200))
    with pytest.raises(
        UserError, match=r"later checkpoints than step-00000100 \(newest step-00000200\).*another --out"
    ):
        resume(run, older)
    assert resume(run, newest) == newest
    assert resume(run, "auto") == newest
    assert resume(tmp_path / "branch", older) == older
    (newest / PART).write_bytes(b"damaged")
    assert resume(run, older) == older
    assert resume(run, "auto") == older


def test_a_folder_with_another_runs_checkpoints_is_refused(tmp_path: Path, data: Manifest) -> None:
    """They would be pruned as if they were this run's."""
    older = save(tmp_path / "run", data, 100)[0]
    save(tmp_path / "other", data, 50)
    with pytest.raises(UserError, match=r"other holds checkpoints already, not those of --resume .*--resume auto"):
        resume(tmp_path / "other", older)


def test_a_profile_of_steps_that_never_come_is_found_before_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    config = RunConfig(steps=22, profile="20:25")
    with pytest.raises(UserError, match="profile 20:25 has steps after the last, 22"):
        check_run(config, 1)
    warn_of_past_profile(config, 24)
    assert capsys.readouterr().err == ""
    warn_of_past_profile(config, 25)
    assert "nothing is profiled; give steps from 26 on" in capsys.readouterr().err


def test_a_warmup_that_is_longer_than_the_run_is_known_at_the_start() -> None:
    def warned(**fields: Any) -> list[str]:
        model = ModelConfig(context_length=64)
        return warnings_of_warmups(RunConfig(model=model, steps=20, global_batch_size=16, micro_batch_size=4, **fields))

    short = {"batch_warmup": WarmupConfig(start=4, steps=19), "length_warmup": WarmupConfig(start=16, steps=9)}
    assert warned() == warned(**short) == []
    assert warned(batch_warmup=WarmupConfig(start=4, steps=40)) == [
        "warning: --batch_warmup.steps 40 are not over in the run's 20 steps: global_batch_size 16 is never reached, "
        "the last step has 8; give fewer, or more --steps"
    ]
    (long,) = warned(length_warmup=WarmupConfig(start=16, steps=30))
    assert "model.context_length 64 is never reached, the last step has 32" in long


def test_a_disk_that_is_too_small_for_the_checkpoints_is_known_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a real small file system."""
    config = RunConfig(out=tmp_path / "disk" / "run", model=dataclasses.replace(CONFIG, d_model=64, d_ff=4000))
    warn_of_small_disk(config, 1)
    assert capsys.readouterr().err == ""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", tmp_path / "disk"]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        warn_of_small_disk(config, 1)
        assert re.search(r"disk has 0.0[12]\d* GB free, .* take up to 0.03\d* GB more", capsys.readouterr().err)
        warn_of_small_disk(dataclasses.replace(config, keep_checkpoints=1, deepspeed=Path("ds_configs/zero3.json")), 1)
        assert "up to 0.02" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_a_field_that_the_configuration_has_got_since_counts_as_its_default(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path, data, 1)
    info = read_info(path)
    del info.model["recency"], info.model["aggregation"]["strategy"]
    model = ModelConfig.from_dict(info.model)
    older = save(tmp_path / "older", data, 1, model=info.model)[0]
    check_resume(older, RunConfig(model=model), data)
    other = dataclasses.replace(CONFIG, recency=0.0)
    with pytest.raises(UserError, match=r"is of another model \(--model.recency null\)"):
        check_resume(older, RunConfig(model=other), data)


@pytest.mark.parametrize("attention", ["maha", "standard", "longformer"])
def test_options_of_a_descent_make_no_other_model_without_one(attention: str, tmp_path: Path, data: Manifest) -> None:
    """A run's own config.yaml of before they were there continues it."""
    model = dataclasses.replace(CONFIG, attention=attention)
    later = ("key_summary", "coarse_span", "chosen_share")
    saved = {name: value for name, value in model.to_dict().items() if name not in later}
    path = save(tmp_path, data, 1, model=saved)[0]
    check_resume(path, RunConfig(model=model), data)


def test_a_model_without_the_options_of_the_configured_one_is_refused(tmp_path: Path, data: Manifest) -> None:
    path = save(tmp_path, data, 1, model=dataclasses.replace(CONFIG, attention="standard").to_dict())[0]
    model = dataclasses.replace(CONFIG, attention="maha", descent=1, query="fine", positions="token", span=8)
    with pytest.raises(UserError, match=r'is of another model \(--model\.attention "standard"'):
        check_resume(path, RunConfig(model=model), data)


def test_the_options_that_a_descent_was_trained_with_are_given_as_they_are_typed(
    tmp_path: Path, data: Manifest
) -> None:
    model = dataclasses.replace(CONFIG, attention="maha", descent=1, query="fine", positions="token", span=8)
    later = ("key_summary", "coarse_span", "chosen_share")
    saved = {name: value for name, value in model.to_dict().items() if name not in later}
    path = save(tmp_path, data, 1, model=saved)[0]
    with pytest.raises(
        UserError, match=r'--model\.coarse_span null, --model\.key_summary "taps", --model\.chosen_share "abso'
    ):
        check_resume(path, RunConfig(model=model), data)


def test_a_default_that_has_other_parameters_is_refused_before_anything_is_restored(
    tmp_path: Path, data: Manifest
) -> None:
    path, _ = save(tmp_path, data, 1)
    other = SimpleNamespace(module=CausalLM(dataclasses.replace(CONFIG, gating=True)))
    with pytest.raises(UserError, match="is not of the model of its configuration"):
        restore_checkpoint(other, path)  # type: ignore[arg-type]


def test_an_export_is_refused_before_anything_is_restored(tmp_path: Path, data: Manifest) -> None:
    path, model = save(tmp_path, data, 1)
    export(path, tmp_path / "out")
    with pytest.raises(UserError, match="is an export, without the optimiser's state; continue from the run"):
        restore_checkpoint(SimpleNamespace(module=model), tmp_path / "out")  # type: ignore[arg-type]


def test_a_checkpoint_of_another_optimiser_is_refused_with_its_name(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path, data, 1, optimizer="muon")
    check_resume(path, RunConfig(model=CONFIG, optimizer=OptimizerConfig(name="muon")), data)
    with pytest.raises(UserError, match=r"has the moments of muon, not of adamw; give --optimizer\.name muon, or"):
        check_resume(path, RunConfig(model=CONFIG), data)


def test_a_checkpoint_of_another_packing_is_refused_with_its_name(tmp_path: Path, data: Manifest) -> None:
    """Also one from before there was a choice; a document mask may come and go."""
    path, _ = save(tmp_path, data, 1)
    check_resume(path, RunConfig(model=CONFIG, document_mask=True), data)
    with pytest.raises(UserError, match=r"has packing stream, not documents; .* give --packing stream, or start a new"):
        check_resume(path, RunConfig(model=CONFIG, packing="documents"), data)


def test_an_export_cannot_be_resumed_and_its_weights_can_be_started_from(tmp_path: Path, data: Manifest) -> None:
    path, model = save(tmp_path / "run", data, 1)
    export(path, tmp_path / "export")
    with pytest.raises(UserError, match=r"is an export, .* or start a new run from its weights with --init_from"):
        check_resume(tmp_path / "export", RunConfig(model=model.config), data)
