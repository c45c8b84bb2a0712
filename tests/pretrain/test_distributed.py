"""How processes find each other."""

import json
import os
import socket
from collections.abc import Iterator
from unittest import mock

import pytest
import torch

from data_pipeline import UserError
from pretrain.distributed import (
    join_process_group,
    local_device,
    rank_from_environment,
    take_local_device,
    world_size_from_environment,
)
from tests.conftest import Run


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Afterwards: taking a device sets variables that a later test's commands would take for a launcher's."""
    with mock.patch.dict(os.environ):
        yield


SCRIPT = """
import json, psutil, torch.distributed as dist
from pretrain.distributed import join_process_group
rank = join_process_group()
assert rank.sum(3) == [3]
print("LISTENS", json.dumps([c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"]))
dist.destroy_process_group()
"""


def test_nothing_listens_beyond_the_master_address(run_command: Run) -> None:
    """The rendezvous and gloo: 127.0.0.1 is an address that no other machine reaches."""
    result = run_command("-c", SCRIPT, MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("LISTENS "))
    listening = json.loads(line.removeprefix("LISTENS "))
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


COLLECTIVES = """
import torch, deepspeed, torch.distributed as dist
from pretrain.distributed import join_process_group
join_process_group()
deepspeed.comm.all_gather_into_tensor(torch.empty(2), torch.ones(2))
deepspeed.comm.reduce_scatter_tensor(torch.empty(2), torch.ones(2))
dist.destroy_process_group()
"""


def test_the_collectives_of_deepspeed_warn_of_nothing(run_command: Run) -> None:
    result = run_command("-c", COLLECTIVES, DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stderr
    assert "FutureWarning" not in result.stderr


def test_an_address_of_another_machine_is_one_line(run_command: Run, assert_user_error) -> None:
    script = "from data_pipeline import user_errors\nfrom pretrain.distributed import join_process_group\n"
    script += "with user_errors(): join_process_group()"
    result = run_command("-c", script, MASTER_ADDR="192.0.2.1", MASTER_PORT="29500", DS_ACCELERATOR="cpu")
    assert_user_error(result, "cannot listen at MASTER_ADDR 192.0.2.1, MASTER_PORT 29500")


@pytest.mark.parametrize(
    ("launcher", "rank", "world_size"),
    [
        ({}, 0, 1),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 1, 2),  # torchrun in srun
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, 2, 4),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, 3, 8),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 0, 1),  # a batch script, before it launches anything
    ],
)
def test_every_launcher_says_who_a_process_is(
    monkeypatch: pytest.MonkeyPatch, launcher: dict[str, str], rank: int, world_size: int
) -> None:
    _set_launcher(monkeypatch, launcher)
    assert (rank_from_environment(), world_size_from_environment()) == (rank, world_size)


def test_several_processes_without_a_rendezvous_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a bare `srun -n2 python -m pretrain.train`: they must not train one by one in the same folder."""
    _set_launcher(monkeypatch, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"})
    with pytest.raises(UserError, match="2 processes were launched without MASTER_ADDR and MASTER_PORT"):
        join_process_group()


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_a_port_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    _set_launcher(monkeypatch, variables)
    with pytest.raises(UserError, match=f"MASTER_PORT is '{port}' in the environment, not a whole number from 1 to"):
        join_process_group()


@pytest.mark.parametrize(
    ("gpus", "launcher", "device"),
    [
        (0, {"SLURM_LOCALID": "3"}, "cpu"),
        (4, {}, "cuda:0"),
        (4, {"SLURM_LOCALID": "3"}, "cuda:3"),
        (1, {"SLURM_LOCALID": "3"}, "cuda:0"),  # --gpus-per-task: each task sees its own GPU, as the first
        (2, {"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, "cuda:1"),
    ],
)
def test_a_process_has_the_gpu_of_its_place_among_those_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, gpus: int, launcher: dict[str, str], device: str
) -> None:
    monkeypatch.setattr("pretrain.distributed.gpu_count", lambda: gpus)
    _set_launcher(monkeypatch, launcher)
    assert local_device() == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "launcher"),
    [
        (2, {"SLURM_LOCALID": "2"}),
        (1, {"LOCAL_RANK": "2"}),
        (1, {"OMPI_COMM_WORLD_LOCAL_RANK": "2"}),
        (1, {"LOCAL_RANK": "2", "SLURM_LOCALID": "0"}),  # torchrun in a task: its processes share the task's GPU
    ],
)
def test_a_process_too_many_for_the_gpus_is_one_line(
    monkeypatch: pytest.MonkeyPatch, gpus: int, launcher: dict[str, str]
) -> None:
    monkeypatch.setattr("pretrain.distributed.gpu_count", lambda: gpus)
    _set_launcher(monkeypatch, launcher)
    expected = rf"process 2 of this machine .* has no GPU of its own, it sees {gpus}; start at most {gpus} here"
    with pytest.raises(UserError, match=expected):
        local_device()


def test_gpus_of_slurm_that_torch_cannot_use_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a run on the CPU of one node, for which the others' GPUs would wait."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    _set_launcher(monkeypatch, {"SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "8"})
    with pytest.raises(
        UserError, match=rf"Slurm has given 8 GPU\(s\) on {socket.gethostname()}, and torch can use none"
    ):
        local_device()
    for name, value in (
        ("DS_ACCELERATOR", "cpu"),
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles"),
    ):  # on purpose
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert local_device() == torch.device("cpu")


def test_deepspeed_takes_the_same_index_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads LOCAL_RANK, and under mpirun insists that Open MPI's variable is equal."""
    monkeypatch.setattr("pretrain.distributed.gpu_count", lambda: 2)
    _set_launcher(monkeypatch, {"LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"})  # torchrun under mpirun
    assert take_local_device() == torch.device("cuda:1")
    assert (os.environ["LOCAL_RANK"], os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]) == ("1", "1")


def test_deepspeed_takes_the_gpu_that_slurm_binds_to_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.distributed.gpu_count", lambda: 1)
    _set_launcher(monkeypatch, {"SLURM_LOCALID": "3"})
    assert take_local_device() == torch.device("cuda:0")
    assert os.environ["LOCAL_RANK"] == "0"


def _set_launcher(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "MASTER_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
