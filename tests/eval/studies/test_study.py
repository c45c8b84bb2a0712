"""The file of a study: shipped ones compare models of one size; mistakes are named."""

from pathlib import Path

import pytest
import torch
import yaml

from data_pipeline import UserError
from eval.studies.study import Study
from maha_model import CausalLM
from tests.conftest import ROOT
from tests.eval.studies.example import VALUES


@pytest.mark.parametrize("path", sorted((ROOT / "eval/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_all_models_of_a_shipped_study_have_the_same_size_within_one_percent(path: Path) -> None:
    study = Study.load(path)
    with torch.device("meta"):
        sizes = {
            (model, context): CausalLM(study.model_config(model, context, study.vocab_size)).num_parameters()
            for group in study.groups
            for model in group.models
            for context in group.context_lengths
        }
    assert {model for model, _ in sizes} == study.models.keys()
    assert max(sizes.values()) < 1.01 * min(sizes.values()), sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokes": 3}, "unknown key tokes; did you mean tokens"),
        ({"figurs": []}, "unknown key figurs; did you mean figures"),
        ({"criteria": []}, "unknown key criteria"),
        ({"experiment": None}, "experiment is missing"),
        ({"groups": {"a": {"models": ["plan"], "context_lengths": [32], "learning_rates": [1]}}}, "did you mean plain"),
        ({"groups": {"a": {"models": ["plain"], "context_lengths": [48], "learning_rates": [1]}}}, "does not divide"),
        ({"groups": {"a": {"models": ["plain"], "context_lengths": [32]}}}, "give learning_rates"),
        ({"groups": {"a": {"models": ["plain"], "context_lengths": [32], "best_of": "b"}}}, "no group is called 'b'"),
    ],
)
def test_mistakes_in_the_file_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in {**VALUES, **change}.items() if value is not None}))
    with pytest.raises(UserError, match=message):
        Study.load(path)
