"""The training command among several processes: a mistake reaches the user, whichever process meets it."""

import os
import socket
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.train import main
from tests.conftest import Run
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING

ON_TWO_GPUS = """
import pretrain.distributed
from pretrain.train import main
pretrain.distributed.gpu_count = lambda: 2
main()
"""


def test_a_process_without_a_gpu_of_its_own_prints_it(
    tmp_path: Path, data: Manifest, run_command: Run, assert_user_error
) -> None:
    options = [f"--data={data.folder}", f"--out={tmp_path / 'run'}", *MODEL, *TRAINING, "--micro_batch_size=1"]
    place = {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    result = run_command("-c", ON_TWO_GPUS, *options, **place)
    assert_user_error(result, f"error: rank 2 ({socket.gethostname()}): process 2 of this machine (counted from 0) has")


@pytest.mark.parametrize(("local_rank", "prints"), [("0", True), ("1", False)])
def test_data_missing_on_another_machine_are_named_by_its_first_process(
    tmp_path: Path, run_command: Run, assert_user_error, local_rank: str, prints: bool
) -> None:
    place = {"RANK": "3", "LOCAL_RANK": local_rank, "WORLD_SIZE": "4", "DS_ACCELERATOR": "cpu"}
    result = run_command("-m", "pretrain.train", f"--data={tmp_path / 'gone'}", f"--out={tmp_path / 'run'}", **place)
    if prints:
        assert_user_error(result, f"error: rank 3 ({socket.gethostname()}): {tmp_path / 'gone'}")
    else:
        assert (result.returncode, result.stderr) == (2, "")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "error: RANK is 'x' in the environment, not a whole number of at least 0"),
        ({"WORLD_SIZE": "0"}, "error: WORLD_SIZE is '0' in the environment, not a whole number of at least 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "error: this process is rank 2 (counted from 0) of 2 in the environment"),
        ({"LOCAL_RANK": "-1"}, "error: LOCAL_RANK is '-1' in the environment"),
    ],
)
def test_variables_that_no_launcher_sets_are_one_line(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["train"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert printed.count("\n") == 1


def main_on_a_machine_of_its_own() -> None:
    os.environ["LOCAL_RANK"] = "0"
    main()


def test_a_mistake_of_the_main_process_is_one_line_on_two_machines(
    tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's store is a folder, which only the process that writes to it finds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    options = (f"--data={data.folder}", f"--out={tmp_path / 'run'}", *MODEL, *TRAINING)
    run = ForkedRun(2, *options, module=__name__, function=main_on_a_machine_of_its_own.__name__)
    result = run.wait()
    assert [rank.exitcode for rank in run._ranks] == [2, 2], result.stdout
    (line,) = [line for line in result.stdout.splitlines() if "error: " in line]
    assert "mlruns is a folder" in line
