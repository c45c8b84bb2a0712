"""A Slurm cluster of three nodes on this machine, of real daemons: munged, slurmctld and a slurmd for each node.

Jobs of the partition `urgent` preempt those of `main`, which have a minute to end and go back into the queue.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NODES = ("n1", "n2", "n3")
DAEMONS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")

CONFIG = """
ClusterName=maha
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=60
MessageTimeout=60
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str | None:
    """What this machine lacks for a cluster, or None."""
    absent = [name for name in DAEMONS if not _find(name)]
    if absent:
        return f"needs Slurm (apt-get install slurm-wlm munge); not found: {', '.join(absent)}"
    return None if os.geteuid() == 0 else "needs root to start Slurm's daemons"


class SlurmCluster:
    """Start with `with`; the daemons end with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "SlurmCluster":
        controller, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        nodes = (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 State=UNKNOWN"
            for name, port in zip(NODES, ports, strict=True)
        )
        (self.folder / "state").mkdir(parents=True)
        self.folder.chmod(0o755)
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=self.folder,
                host=host,
                controller=controller,
                nodes="\n".join(nodes),
                names=",".join(NODES),
            )
        )
        key = self.folder / "munge.key"
        subprocess.run([_find("mungekey"), "--create", f"--keyfile={key}"], check=True)
        files = [f"--{name}={self.folder}/munge.{suffix}" for name, suffix in
                 (("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]  # fmt: skip
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D")
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir()
            self.start_node(node)
        self._wait(lambda: self.command("sinfo", "--noheader", "--format=%T").split() == ["idle"])
        return self

    def __exit__(self, *_: object) -> None:
        daemons = list(self._daemons.values())
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill the daemon of a node; what it has started goes on, unseen by Slurm. The node is down at once.

        Slurm would wait for SlurmdTimeout, which would have to be longer than any stall of a busy machine.
        """
        daemon = self._daemons.pop(f"slurmd{node}")
        daemon.kill()
        daemon.wait()
        self.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=crashed")

    def return_node(self, node: str) -> None:
        """Start the daemon of a node that was down; jobs may run there again."""
        self.start_node(node)
        self.command("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def command(self, *arguments: str) -> str:
        """Run one of Slurm's commands; its output."""
        return subprocess.run(arguments, env=self.env, capture_output=True, text=True, check=False).stdout.strip()

    def submit(self, script: Path, *options: str, **variables: str) -> str:
        """Submit from the project's folder, as a user would; the job's id."""
        command = ["sbatch", "--parsable", *options, str(script)]
        env = {**self.env, **variables}
        result = subprocess.run(command, env=env, cwd=script.parent.parent, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """The fields of `scontrol show job`: JobState, Restarts, ..."""
        text = self.command("scontrol", "--oneliner", "show", "job", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for(self, number: str, states: tuple[str, ...], seconds: float) -> dict[str, str]:
        """Wait until a job is in one of `states`; its fields then. Raises TimeoutError."""
        until = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            if time.monotonic() > until:
                raise TimeoutError(f"job {number} is {job['JobState']} ({job.get('Reason')}), not {states}")
            time.sleep(0.2)
        return job

    def _start(self, name: str, *arguments: str) -> None:
        key = f"{name}{arguments[-1] if name == 'slurmd' else ''}"
        log = (self.folder / f"{key}.out").open("ab")
        command = [_find(name) or name, *arguments]
        self._daemons[key] = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def _wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not ready():
            if time.monotonic() > until:
                logs = {path.name: path.read_text()[-500:] for path in self.folder.glob("*.log")}
                raise TimeoutError(f"the cluster did not start: {logs}")
            time.sleep(0.1)


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
