"""The process group: this process's rank under any launcher (deepspeed, torchrun, mpirun, srun) or none."""

import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from data_pipeline import UserError, number_in_environment, user_errors
from maha_model.device import gpu_count, unusable_gpus
from pretrain.output import write_line

T = TypeVar("T")


class DeviceError(UserError):
    """A mistake about the GPU of one process; others of its machine need not meet it."""


class MainProcessError(Exception):
    """The cause of an error that `Rank.on_main` raises on every process but the main one."""


@dataclass(frozen=True)
class Rank:
    """This process among all of them, and its device."""

    rank: int
    world_size: int
    device: torch.device
    store: dist.TCPStore
    """The rendezvous."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def print(self, line: str) -> None:
        """Print a line, at once, if this is the main process; see `write_line` for an output that is gone."""
        if self.is_main:
            write_line(line, sys.stdout)

    def sum(self, *values: float | torch.Tensor) -> list[float]:
        """The sums over all processes, in float64; every process gets the same bits.

        A GPU is waited for once, to read them: tensors of it are not read before, and numbers not copied to it.
        """
        total = torch.empty(len(values), dtype=torch.float64, device=self.device)
        for place, value in zip(total, values, strict=True):
            place.copy_(value) if isinstance(value, torch.Tensor) else place.fill_(value)
        dist.all_reduce(total)
        return total.tolist()

    def on_main(self, function: Callable[[], T]) -> T:
        """Run `function` on the main process; every process gets its result, or raises what it raised.

        All but the main process raise it from MainProcessError.

        So a mistake or a full disk that shows on the main process alone ends all of them, and none waits for ever.
        """
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = function()
            except (UserError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1] from outcome[1].__cause__ if self.is_main else MainProcessError()
        return outcome[0]


def rank_from_environment() -> int:
    """This process's rank before any process group exists; 0 without a launcher.

    Raises:
        UserError: if there can be none of this rank.
    """
    # torch's name, which deepspeed and torchrun set, then mpirun's, then srun's
    rank = number_in_environment("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", default=0)
    if rank >= (count := world_size_from_environment()):
        raise UserError(
            f"this process is rank {rank} (counted from 0) of {count} in the environment; a launcher sets RANK and "
            "WORLD_SIZE: correct or unset both"
        )
    return rank


def world_size_from_environment() -> int:
    """The number of processes that the launcher started. Raises UserError if it is none."""
    # not SLURM_NTASKS, which a batch script also has, before it starts several
    return number_in_environment("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", default=1, least=1)


@contextmanager
def rank_errors(*also: type[Exception]) -> Iterator[None]:
    """`user_errors` of one process among several: it begins with the process's name, and is printed by few of them."""
    with user_errors():  # that say who this process is not
        quiet, process = is_printed_elsewhere(), process_name()
    with user_errors(*also, quiet=quiet, process=process):
        yield


def process_name() -> str:
    """Rank and host, of all but rank 0, which has no name: "rank 3 (HOST)"."""
    rank = rank_from_environment()
    return f"rank {rank} ({host_name()})" if rank else ""


def host_name() -> str:
    """This machine's name; under Slurm the node's, by which Slurm can exclude it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def is_printed_elsewhere() -> Callable[[BaseException], bool]:
    """Whether another process prints an error too, as a function of the error; call it before `join_process_group`.

    Rank 0 prints its errors. Of the others, those about a process's own GPU are printed by that process, and any
    more by the first process of each machine, since files and software are the machine's; unless they are rank 0's.
    """
    rank, local_rank = rank_from_environment(), _local_rank()

    def printed_elsewhere(error: BaseException) -> bool:
        if rank == 0 or isinstance(error, DeviceError):
            return False
        return local_rank != 0 or isinstance(error.__cause__, MainProcessError)

    return printed_elsewhere


def local_device() -> torch.device:
    """This process's GPU among those of its machine, or the CPU if it may use none.

    Raises:
        DeviceError: if the machine's processes are more than the GPUs that they see, or torch can use none of those
            that Slurm has given.
    """
    rank, gpus = _local_rank(), gpu_count()
    if gpus == 0:
        if reason := unusable_gpus():
            raise DeviceError(reason)
        return torch.device("cpu")
    if gpus == 1 and _is_task_of_slurm():  # which can see its own GPU only, as the first (--gpus-per-task, --gpu-bind)
        return torch.device("cuda", 0)
    if rank >= gpus:
        raise DeviceError(
            f"process {rank} of this machine (counted from 0) has no GPU of its own, it sees {gpus}; start at most "
            f"{gpus} here, or set DS_ACCELERATOR=cpu to train on the CPU"
        )
    return torch.device("cuda", rank)


def take_local_device() -> torch.device:
    """`local_device`, which DeepSpeed takes too: it reads LOCAL_RANK, and under mpirun insists that both are equal."""
    device = local_device()
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index)
        if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:
            os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = str(device.index)
    else:
        os.environ["LOCAL_RANK"] = str(_local_rank())
    return device


def _local_rank() -> int:
    return number_in_environment("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", default=0)


def _is_task_of_slurm() -> bool:
    """Whether srun itself started this process, and no other launcher inside one of its tasks."""
    return "SLURM_LOCALID" in os.environ and not {"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"} & os.environ.keys()


def join_process_group(timeout: float = 1800.0) -> Rank:
    """Join the group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe; alone by default.

    Under mpirun and srun the first three are theirs. The rendezvous listens on MASTER_ADDR only. No collective waits
    longer than `timeout` seconds; torch's flight recorder keeps the last ones.
    """
    from pretrain.lean_deepspeed import deepspeed, set_log_level  # (its import takes seconds, which others do without)

    set_log_level()
    rank, world_size = rank_from_environment(), world_size_from_environment()
    device = take_local_device()
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # collectives that torch's flight recorder keeps
    store = rendezvous(rank, world_size, timeout)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    backend = open_process_group(store, store.host, rank, world_size, device, timeout)
    # DeepSpeed's collectives have these names up to 0.19.8; every rank would print the warning in its first step
    warnings.filterwarnings(
        "ignore", r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated", FutureWarning
    )
    if device.type == "cpu":
        # DeepSpeed would compile an all-reduce of its own here, which only inference calls: a minute, again on every
        # change of ninja or compiler; a build that is killed leaves a lock at which all later starts wait for ever.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)  # takes over the group there is
    return Rank(rank, world_size, device, store)


def open_process_group(
    store: dist.Store, host: str, rank: int, world_size: int, device: torch.device, timeout: float
) -> str:
    """Make torch's default group over a store that `host` serves: NCCL between GPUs, else gloo. The backend's name."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif "GLOO_SOCKET_IFNAME" not in os.environ and (interface := _interface_towards(host)):
        os.environ["GLOO_SOCKET_IFNAME"] = interface  # gloo's own choice follows the host's name, often to loopback
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout))
    return backend


def neighbours(count: int, timeout: float) -> dist.ProcessGroup:
    """This process's group of `count` neighbouring ranks, which share windows. Collective; `count` divides the world.

    No collective in it waits longer than `timeout` seconds.
    """
    group, _ = dist.new_subgroups(count, timeout=timedelta(seconds=timeout))
    return group


def is_communication_error(error: BaseException) -> bool:
    """Whether a collective failed (gloo, NCCL or the rendezvous), rather than our code."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def rendezvous(rank: int, world_size: int, seconds: float) -> dist.TCPStore:
    """The key-value store through which processes find each other; rank 0, or torchrun's agent, serves it.

    Raises:
        UserError: for several processes without MASTER_ADDR and MASTER_PORT, a port that is none, or where rank 0
            cannot listen there.
        torch.distributed.DistError: if the store cannot be reached for that many seconds.
    """
    if world_size > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(
            f"{world_size} processes were launched without MASTER_ADDR and MASTER_PORT; "
            "export rank 0's address and a free port of it, or use launch/pretrain.sh"
        )
    timeout = timedelta(seconds=seconds)
    host = os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    port = number_in_environment("MASTER_PORT", default=0, least=min(world_size - 1, 1), most=65535)
    if rank != 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return dist.TCPStore(host, port, world_size, is_master=False, timeout=timeout)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # A host's own name can mean loopback to itself (Debian) and its address to others: then listen everywhere.
        named = host != "localhost" and not host.startswith("127.") and str(address[0]).startswith("127.")
        listener = socket.create_server(("", port) if named else address[:2], family=family, backlog=4096)
    except OSError as error:
        raise UserError(
            f"cannot listen at MASTER_ADDR {host}, MASTER_PORT {port}: {error.strerror}; "
            "give rank 0's own address and a free port"
        ) from error
    os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
    return dist.TCPStore(
        host,
        listener.getsockname()[1],
        world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _interface_towards(host: str) -> str | None:
    """The network interface whose address this machine uses to reach `host`; None if there is no telling."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # chooses a route, sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, addresses in interfaces if own in [entry.address for entry in addresses]), None)
