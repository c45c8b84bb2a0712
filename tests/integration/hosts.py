"""Two hosts on this machine: network namespaces with their own addresses, joined by a link, an sshd in each."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

COMMANDS = ("ip", "ssh", "sshd", "ssh-keygen", "pdsh")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing() -> str | None:
    """What this machine lacks for two hosts, or None."""
    absent = [name for name in COMMANDS if not shutil.which(name, path=PATH)]
    if absent:
        return f"needs two hosts (apt-get install iproute2 openssh-server pdsh); not found: {', '.join(absent)}"
    if os.geteuid() or subprocess.run(["ip", "netns", "add", "maha-probe"], capture_output=True).returncode:
        return "needs the right to make network namespaces (root)"
    subprocess.run(["ip", "netns", "del", "maha-probe"], check=True)
    return None


class TwoHosts:
    """Start with `with`. ssh reaches the hosts by `addresses` or `names`, from the first one, without a password."""

    addresses = ("10.231.77.1", "10.231.77.2")
    names = ("node1.cluster.test", "node2.cluster.test")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = [f"maha-{os.getpid()}-{number}" for number in (1, 2)]
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "TwoHosts":
        with contextlib.ExitStack() as undo:
            undo.callback(self.__exit__)
            self._start()
            undo.pop_all()
        return self

    def _start(self) -> None:
        keys = self.folder / "key", self.folder / "host"
        for key in keys:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (self.folder / "sshd_config").write_text(
            f"HostKey {keys[1]}\nAuthorizedKeysFile {keys[0]}.pub\nStrictModes no\nPermitRootLogin yes\n"
            "UsePAM no\nPidFile none\n"
        )
        known = zip(self.names, self.addresses, strict=True)
        (self.folder / "ssh_config").write_text(
            "".join(f"Host {name}\n HostName {address}\n" for name, address in known)
            + f"Host *\n IdentityFile {keys[0]}\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n"
            " LogLevel ERROR\n ConnectTimeout 10\n BatchMode yes\n"
        )
        tools = self.folder / "bin"  # what ~/.ssh/config does for a user
        tools.mkdir()
        # of the interval at which the script lets ssh try a silent host, a fifth
        options = '"${@/#ServerAliveInterval=5/ServerAliveInterval=1}"'
        ssh = f"{shutil.which('ssh')} -F {self.folder / 'ssh_config'} {options}"
        (tools / "ssh").write_text(f"#!/bin/bash\nexec {ssh}\n")
        (tools / "ssh").chmod(0o755)
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's privilege separation
        for name in self._names:
            _ip("netns", "add", name)
        first, second = self._names
        _ip("link", "add", "maha0", "netns", first, "type", "veth", "peer", "name", "maha0", "netns", second)
        for name, address in zip(self._names, self.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "maha0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "maha0", "up")
            daemon = [shutil.which("sshd", path=PATH) or "", "-D", "-e", "-f", str(self.folder / "sshd_config")]
            log = (self.folder / f"{name}.log").open("wb")
            self._daemons.append(subprocess.Popen(["ip", "netns", "exec", name, *daemon], stderr=log))
        until = time.monotonic() + 20
        probe = self.on_first("ssh", self.addresses[1], "true")
        while subprocess.run(probe, env=self.env(), stdin=subprocess.DEVNULL, timeout=30, check=False).returncode:
            if time.monotonic() > until:
                raise TimeoutError("\n".join(path.read_text() for path in self.folder.glob("*.log")))
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        for name in self._names:
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                subprocess.run(["kill", "-KILL", pid], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False)

    def env(self) -> dict[str, str]:
        """This process's environment with the hosts' ssh in front."""
        return {**os.environ, "PATH": f"{self.folder / 'bin'}:{PATH}"}

    def on_first(self, *command: str) -> list[str]:
        """`command`, run on the first host."""
        return ["ip", "netns", "exec", self._names[0], *command]

    def set_link(self, state: str) -> None:
        """Cut the link between the hosts ("down": packets vanish, no connection is closed) or mend it ("up")."""
        _ip("-n", self._names[1], "link", "set", "maha0", state)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
