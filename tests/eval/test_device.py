"""A device that this machine lacks is a mistake of the user, and so is one that Slurm gives and torch cannot use."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run


@pytest.mark.parametrize("name", ["warp", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(name: str, run_command: Run, tmp_path: Path) -> None:
    result = run_command("-m", "eval.ppl", "--checkpoint", tmp_path, "--data", tmp_path, "--device", name)
    assert result.returncode == 2
    assert f"'{name}' is no device of this machine; give cpu or cuda" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["eval.ppl --data DATA", "eval.generate --prompt a"])
def test_gpus_of_slurm_that_torch_cannot_use_are_one_line(
    command: str, run_command: Run, assert_user_error: Callable[..., None], tmp_path: Path
) -> None:
    """Not scores on the CPU, which take days."""
    module, *options = command.replace("DATA", str(tmp_path)).split()
    arguments = ("-m", module, "--checkpoint", tmp_path / "none", *options)
    given = {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "99"}  # no GPU of this machine, if it has some
    lost = f"Slurm has given 4 GPU(s) on {socket.gethostname()}, and torch can use none"
    assert_user_error(run_command(*arguments, **given), lost)
    for result in (
        run_command(*arguments, "--device", "cpu", **given),
        run_command(*arguments, **given, DS_ACCELERATOR="cpu"),
        run_command(*arguments, **given | {"SLURM_GPUS_ON_NODE": "0"}),
    ):
        assert lost not in result.stderr
        assert_user_error(result, str(tmp_path / "none") if module == "eval.generate" else str(tmp_path))
