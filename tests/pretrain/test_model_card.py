"""An export's model card: what is found about the run, and nothing of the machine it ran on."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import Manifest, load_data
from pretrain.callbacks.settings import write_mixture
from pretrain.checkpoint import read_info, verify_checkpoint
from pretrain.export import export
from pretrain.model_card import card
from pretrain.progress import Progress
from tests.pretrain.checkpoint.test_store import save


def score(data: Manifest, perplexity: float) -> dict[str, Any]:
    values = {"split": "test", "context": 16, "token_perplexity": perplexity, "word_perplexity": 99, "bits_per_byte": 2}
    return {"key": {"data": data.fingerprint}, **values}


def card_of(run: Path, out: Path) -> tuple[dict[str, Any], str]:
    """The fields at the top, and the text."""
    export(run, out)
    _, fields, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(fields), text


def test_a_card_has_the_text_the_tokens_the_scores_and_a_licence_to_fill_in(tmp_path: Path, data: Manifest) -> None:
    run = tmp_path / "books"
    path, model = save(run, data, 7)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": str(data.folder)}))
    (run / "evaluations").mkdir()
    (run / "evaluations" / f"{path.name}-test-16-8.json").write_text(json.dumps(score(data, 123.4)))
    (run / "evaluations" / f"{path.name}-test-16-4.json").write_text("damaged")
    (run / "evaluations" / "step-00000006-test-16-8.json").write_text(json.dumps(score(data, 567.8)))
    fields, text = card_of(run, tmp_path / "out")
    assert fields["license"] == "unknown"
    assert "# books" in text
    assert f"{model.num_parameters():,} parameters" in text
    assert f"| text | {data.request['source']} |" in text
    assert "| tokens seen | 896 |" in text  # 7 steps of 128
    assert "| test | 16 | 123.4 | 99 | 2 |" in text
    assert "567.8" not in text
    assert str(tmp_path) not in text
    assert str(data.folder) not in text


def test_a_card_names_the_sources_of_a_mixture(tmp_path: Path, data: Manifest, other_data: Manifest) -> None:
    run, mix = tmp_path / "run", tmp_path / "mix.yaml"
    save(run, data, 7)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": str(mix)}))
    first, second = str(data.folder), str(other_data.folder)
    stages = {"sources": {first: 1}, "later": [{"after": 100, "sources": {first: 3, second: 1}}]}
    mix.write_text(yaml.safe_dump(stages, sort_keys=False))
    write_mixture(run, load_data(mix))
    mix.unlink()
    names = [f"{it.folder.name} {{}} (`{it.fingerprint[:12]}`)" for it in (data, other_data)]
    text = card_of(run, tmp_path / "out")[1]
    shares = (names[0].format(1), names[0].format(0.75), names[1].format(0.25))
    assert "| text | mixture of {}; from window 100 {}, {} |".format(*shares) in text
    assert str(data.folder) not in text


def test_a_card_names_what_the_weights_had_seen_before_the_run(tmp_path: Path, data: Manifest) -> None:
    first = read_info(save(tmp_path / "first", data, 7)[0])
    second = dataclasses.replace(first, step=9, origin=Progress.from_weights(first).origin)
    third = Progress.from_weights(second).origin
    lines = card(tmp_path / "run", dataclasses.replace(first, step=2, origin=third), 1).splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("| started from")] == [
        "| started from | step 9", "| started from | step 7"
    ]  # fmt: skip


def test_without_its_run_a_checkpoint_has_a_card_too(tmp_path: Path, data: Manifest) -> None:
    path, _ = save(tmp_path / "books", data, 1)
    shutil.move(path, tmp_path / "alone")
    _, text = card_of(tmp_path / "alone", tmp_path / "out")
    assert "| text | unknown |" in text
    assert "None was found" in text


def test_a_card_may_be_changed(tmp_path: Path, data: Manifest) -> None:
    save(tmp_path / "run", data, 1)
    card_of(tmp_path / "run", tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    verify_checkpoint(tmp_path / "out")
