"""A session as benchmarks use it: steps, saves and their end, one process, a real engine."""

import json
from collections.abc import Callable
from pathlib import Path

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.integration.runs import MODEL, TRAINING

SCRIPT = """
import sys
from pretrain.session import Checkpointing, parse_config, training_session
with training_session(parse_config(sys.argv[1:])) as trainer:
    saving = trainer.callback(Checkpointing)
    for step in range(3):
        trainer.train_step()
    saving.save(trainer)
    saving.wait(trainer)
    trainer.train_step()
    assert len(trainer.batches(0)) == 4
    trainer.finish()
"""

SECOND_START = """
import subprocess, sys
from pathlib import Path
from pretrain.session import parse_config, training_session
def files():
    return {path: path.read_bytes() for path in Path("RUN").rglob("*") if path.is_file()}
with training_session(parse_config(sys.argv[1:])) as trainer:
    for module, resume in (("pretrain.preflight", "--resume=none"), ("pretrain.train", "--resume=auto")):
        before = files()
        second = subprocess.run([sys.executable, "-m", module, *sys.argv[1:], resume], capture_output=True, text=True)
        assert files() == before, second
        assert second.returncode == 2, second
        assert "Traceback" not in second.stderr
        print(second.stderr.splitlines()[-1])
    trainer.run()
"""


def test_a_second_start_into_the_folder_of_a_run_is_one_line_and_changes_nothing(
    tmp_path: Path, data: Manifest, run_command: Callable
) -> None:
    run = tmp_path / "run"
    options = [f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING, "--steps=2"]
    script = SECOND_START.replace("RUN", str(run))
    result = run_command("-c", script, *options, DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert all(line.startswith(f"error: --out {run} is in use: process ") for line in lines), lines
    assert result.stdout.splitlines()[-1] == f"finished at step 2: {run}"
    assert not (run / ".lock").exists()


def test_a_start_that_fails_in_tracking_can_be_repeated(tmp_path: Path, data: Manifest, run_command: Callable) -> None:
    run = tmp_path / "run"
    options = [f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING, "--steps=1"]
    alone = {"DS_ACCELERATOR": "cpu", "RANK": "0", "WORLD_SIZE": "1"}
    failed = run_command("-m", "pretrain.train", *options, MLFLOW_TRACKING_URI=str(tmp_path / "mlruns"), **alone)
    assert failed.returncode == 2, failed.stderr
    assert "mlruns is a folder, to which MLflow no longer writes" in failed.stderr
    assert not run.exists()
    repeated = run_command("-m", "pretrain.train", *options, **alone)
    assert repeated.returncode == 0, repeated.stderr


def test_steps_and_saves_without_run_and_an_orderly_end(tmp_path: Path, data: Manifest, run_command: Callable) -> None:
    run = tmp_path / "run"
    options = [f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING]
    result = run_command("-c", SCRIPT, *options, DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"stopped at step 4: {run}"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert read_info(find_checkpoint(run)).samples == 4 * 8
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert list(lines[0]) == ["step", "loss", "lr", "grad_norm", "tokens"]


STOPPED = """
import sys
from pretrain.session import parse_config, training_session
with training_session(parse_config(sys.argv[1:])) as trainer:
    for step in (1, 2, 3):
        trainer.stop_requested = step == 3
        trainer.train_step()
    trainer.finish()
"""


def test_a_stop_at_an_evaluation_leaves_it_to_the_resumed_run_which_repeats_it_bitwise(
    tmp_path: Path, data: Manifest, run_command: Callable
) -> None:
    def run(name: str, *more: str) -> list[list[float | None]]:
        """The metrics so far."""
        options = [f"--data={data.folder}", f"--out={tmp_path / name}", *MODEL, *TRAINING, "--steps=5"]
        result = run_command(*more, *options, "--eval_interval=3", "--resume=auto", DS_ACCELERATOR="cpu")
        assert result.returncode == 0, result.stderr
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [[line.get(value) for value in ("step", "loss", "eval_loss")] for line in lines]

    undisturbed = run("undisturbed", "-m", "pretrain.train")
    assert [step for step, _, evaluated in undisturbed if evaluated] == [3, 5]
    assert run("stopped", "-c", STOPPED) == undisturbed[:3]
    assert find_checkpoint(tmp_path / "stopped").name == "step-00000003"
    assert run("stopped", "-m", "pretrain.train") == undisturbed
