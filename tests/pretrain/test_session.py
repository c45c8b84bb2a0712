"""A session as benchmarks use it: steps, saves and their end, one process, a real engine."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING


def call(function: Callable[[], None], *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `function` of this module as a command with `options`."""
    return ForkedRun(1, *options, module=__name__, function=function.__name__).wait()


def start_again_beside() -> None:
    from pretrain.session import parse_config, training_session

    config = parse_config(sys.argv[1:])

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}

    with training_session(config) as trainer:
        for module, resume in (("pretrain.preflight", "--resume=none"), ("pretrain.train", "--resume=auto")):
            before = files()
            command = [sys.executable, "-m", module, *sys.argv[1:], resume]
            second = subprocess.run(command, capture_output=True, text=True)
            assert files() == before, second
            assert second.returncode == 2, second
            assert "Traceback" not in second.stderr
            print(second.stderr.splitlines()[-1])
        trainer.run()


def test_a_second_start_into_the_folder_of_a_run_is_one_line_and_changes_nothing(
    tmp_path: Path, data: Manifest
) -> None:
    run = tmp_path / "run"
    result = call(start_again_beside, f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING, "--steps=2")
    assert result.returncode == 0, result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert all(line.startswith(f"error: --out {run} is in use: process ") for line in lines), lines
    assert f"finished at step 2: {run}" in result.stdout.splitlines()
    assert not (run / ".lock").exists()


def test_a_start_that_fails_in_tracking_can_be_repeated(
    tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    options = [f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING, "--steps=1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    failed = ForkedRun(1, *options).wait()
    assert failed.returncode == 2, failed.stdout
    assert "mlruns is a folder, to which MLflow no longer writes" in failed.stdout
    assert not run.exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    repeated = ForkedRun(1, *options).wait()
    assert repeated.returncode == 0, repeated.stdout


def step_and_save() -> None:
    from pretrain.session import Checkpointing, parse_config, training_session

    with training_session(parse_config(sys.argv[1:])) as trainer:
        saving = trainer.callback(Checkpointing)
        for _ in range(3):
            trainer.train_step()
        saving.save(trainer)
        saving.wait(trainer)
        trainer.train_step()
        assert len(trainer.batches(0, trainer.config.global_batch_size)) == 4
        trainer.finish()


def test_steps_and_saves_without_run_and_an_orderly_end(tmp_path: Path, data: Manifest) -> None:
    run = tmp_path / "run"
    result = call(step_and_save, f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING)
    assert result.returncode == 0, result.stdout
    assert f"stopped at step 4: {run}" in result.stdout.splitlines()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert read_info(find_checkpoint(run)).samples == 4 * 8
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert list(lines[0]) == ["step", "loss", "lr", "grad_norm", "tokens"]


def train() -> None:
    from pretrain.train import main

    main()


def stop_at_step_3() -> None:
    from pretrain.session import parse_config, training_session

    with training_session(parse_config(sys.argv[1:])) as trainer:
        for step in (1, 2, 3):
            trainer.stop_requested = step == 3
            trainer.train_step()
        trainer.finish()


def test_a_stop_at_an_evaluation_leaves_it_to_the_resumed_run_which_repeats_it_bitwise(
    tmp_path: Path, data: Manifest
) -> None:
    """Also where the steps around the stop are profiled."""
    profile = tmp_path / "stopped" / "profile"

    def run(name: str, function: Callable[[], None] = train) -> list[list[float | None]]:
        """The metrics so far."""
        options = [f"--data={data.folder}", f"--out={tmp_path / name}", *MODEL, *TRAINING, "--steps=5"]
        profiled = ["--profile=2:4"] if name == "stopped" else []
        result = call(function, *options, *profiled, "--eval_interval=3", "--resume=auto")
        assert result.returncode == 0, result.stdout
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [[line.get(value) for value in ("step", "loss", "eval_loss")] for line in lines]

    undisturbed = run("undisturbed")
    assert [step for step, _, evaluated in undisturbed if evaluated] == [3, 5]
    assert run("stopped", stop_at_step_3) == undisturbed[:3]
    assert find_checkpoint(tmp_path / "stopped").name == "step-00000003"
    shares = [
        float(share) for share in re.findall(r"([\d.]+)%$", (profile / "steps-2-3.txt").read_text(), re.MULTILINE)
    ]
    assert sum(shares[:-1]) > 90  # the last is of what has no name
    assert run("stopped") == undisturbed
    assert "feed-forward" in (profile / "steps-4-4.txt").read_text()
    assert json.loads((profile / "steps-4-4-trace.json").read_text())["traceEvents"]
    assert not (tmp_path / "undisturbed" / "profile").exists()
