import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import maha_model.huggingface  # noqa: F401 - makes the model known to transformers
from data_pipeline import Manifest, UserError
from pretrain.checkpoint import CheckpointTensors, find_checkpoint, load_model, read_info
from pretrain.export import export
from tests.conftest import Run
from tests.pretrain.checkpoint.test_store import CONFIG, save


def test_an_export_is_weights_configuration_and_tokenizer_and_reads_like_a_checkpoint(
    tmp_path: Path, data: Manifest
) -> None:
    save(tmp_path / "run", data, 2)
    newest, model = save(tmp_path / "run", data, 3)
    out = tmp_path / "deep" / "out"
    assert export(tmp_path / "run", out) == newest
    names = {path.name for path in out.iterdir()}
    assert names - {"README.md", "modeling_maha.py"} == {
        "checkpoint.json", "config.json", "model.safetensors", "tokenizer.model"
    }  # fmt: skip
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # the same readers for all files
    weights = safetensors.torch.load_file(out / "model.safetensors")
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["d_model"]) == ("maha", 8)
    assert (out / "tokenizer.model").read_bytes() == data.tokenizer_path.read_bytes()
    assert find_checkpoint(out) == out
    assert read_info(out) == read_info(newest)
    ids = torch.randint(17, (2, 9))
    assert torch.equal(load_model(out)(ids).logits, load_model(newest)(ids).logits)
    with pytest.raises(UserError, match="is an export, without the optimiser's state"):
        CheckpointTensors(out).whole(next(iter(weights)), "exp_avg")


def test_an_export_never_overwrites_and_a_damaged_one_is_refused(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path / "run", data, 1)
    out = tmp_path / "out"
    export(path, out)
    with pytest.raises(UserError, match="exists already"):
        export(path, out)
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        find_checkpoint(out)


def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path / "run", data, 1, config=replace(CONFIG, vocab_size=data.vocab_size))
    saved = tmp_path / "saved"
    export(path, saved)
    (saved / "checkpoint.json").unlink()  # as transformers saves it
    weights = safetensors.torch.load_file(saved / "model.safetensors")
    weights["transformer.norm.weight"][0] = float("nan")
    safetensors.torch.save_file(weights, saved / "model.safetensors")
    with pytest.raises(UserError, match=r"transformer.norm.weight of .*saved has NaN or infinite values"):
        export(saved, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "saved"}


def test_a_large_export_is_of_several_files_that_both_readers_read(tmp_path: Path, data: Manifest) -> None:
    path, model = save(tmp_path / "run", data, 1)
    out = tmp_path / "out"
    export(path, out, file_bytes=1000)
    files = sorted(file.name for file in out.glob("model-*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert not (out / "model.safetensors").exists()
    assert find_checkpoint(out) == out
    ids = torch.randint(17, (2, 9))
    expected = model.eval()(ids).logits
    assert torch.equal(load_model(out)(ids).logits, expected)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(out)(ids).logits, expected)
    (out / files[1]).unlink()
    with pytest.raises(UserError, match=f"{files[1]} is missing"):
        find_checkpoint(out)


def test_the_command(tmp_path: Path, data: Manifest, run_command: Run) -> None:
    save(tmp_path / "run", data, 1)
    done = run_command("-m", "pretrain.export", tmp_path / "run", "--out", tmp_path / "out", "--file-gb", "0.000001")
    assert done.returncode == 0, done.stderr
    assert "exported to" in done.stdout
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
    for wrong_size in ("inf", "nan", "-1", "0"):
        refused = run_command(
            "-m", "pretrain.export", tmp_path / "run", "--out", tmp_path / "x", "--file-gb", wrong_size
        )
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    wrong = run_command("-m", "pretrain.export", tmp_path / "nothing", "--out", tmp_path / "other")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()
