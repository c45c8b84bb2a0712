"""The comparison of trainers: every one makes the same steps, and each figure is ours over a peer's."""

import importlib.util
from pathlib import Path

import pytest

from data_pipeline import Manifest, UserError
from eval.bench.peers.training import (
    LITGPT,
    OURS,
    TRANSFORMERS,
    bench_training,
    check_options,
    criteria_of,
    has_litgpt,
    trainers,
)

SMALL = [
    "--model.context_length=32", "--model.d_model=16", "--model.num_layers=1", "--model.num_heads=2",
    "--model.d_ff=24", "--optimizer.lr=0.01",
]  # fmt: skip


@pytest.mark.parametrize("peer", [TRANSFORMERS, *([LITGPT] if importlib.util.find_spec("litgpt") else [])])
def test_trainers_start_and_end_at_the_same_loss(peer: str, data: Manifest, tmp_path: Path) -> None:
    commands = trainers(tmp_path, None)
    both = {name: commands[name] for name in (OURS, peer)}
    measured = bench_training(tmp_path, data.folder, SMALL, 2, 2, 1, both)
    ours, theirs = (measured["trainers"][name] for name in (OURS, peer))
    assert ours["parameters"] == theirs["parameters"]
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    assert ours["losses"][1] < ours["losses"][0] - 0.05, "nothing was trained"
    assert measured["tokens"] == 2 * 4 * 32
    assert len(ours["seconds"]) == len(theirs["seconds"]) == 2


def test_figures_are_ratios_of_the_fastest_turns_and_missing_peers_fail() -> None:
    def row(*seconds: float) -> dict:
        return {"parameters": 7, "losses": [2.0, 1.0], "seconds": list(seconds)}

    speed = {c.name: c for c in criteria_of({"trainers": {OURS: row(2, 3), TRANSFORMERS: row(5, 4)}})}
    assert speed[f"tokens/s of training, {OURS} over {TRANSFORMERS}"].value == 2
    missing = [c for name, c in speed.items() if "litgpt" in name]
    assert [(c.value, c.passed) for c in missing] == [(None, False)]


def test_a_python_that_is_not_there_or_cannot_load_litgpt_is_refused(tmp_path: Path) -> None:
    def python(message: str, status: int) -> Path:
        path = tmp_path / f"python-{status}-{len(message)}"
        path.write_text(f'#!/bin/sh\necho "{message}" >&2\nexit {status}\n')
        path.chmod(0o755)
        return path

    with pytest.raises(UserError, match=r"--litgpt-python /no/python cannot be run"):
        has_litgpt(Path("/no/python"))
    with pytest.raises(UserError, match=r"litgpt does not load .* \(ImportError: no lightning\); install it anew"):
        has_litgpt(python("ImportError: no lightning", 1))
    none = python("ModuleNotFoundError: No module named 'litgpt'", 1)
    assert not has_litgpt(none)
    with pytest.raises(UserError, match=rf"--litgpt-python {none} has no litgpt; install it there \({none} -m pip"):
        trainers(tmp_path, none)
    assert has_litgpt(python("", 0))


def test_a_vocabulary_smaller_than_the_tokenizers_is_found_at_the_start() -> None:
    check_options([*SMALL, "--model.vocab_size=8192"], 8192)
    check_options(SMALL, 8192)
    with pytest.raises(UserError, match=r"model.vocab_size 300 is less than the 8192 tokens .*; leave it out"):
        check_options([*SMALL, "--model.vocab_size=300"], 8192)
