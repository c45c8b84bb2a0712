"""launch/pretrain.sh hands signals to the processes of its own launch: real ones, whose training is to wait.

The launchers below it and what it trains are small stand-ins, so that nothing loads torch; tests/integration/ has the
real ones.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.integration.runs import kill, signals

TRAIN = """
import os, signal, sys, time
out = sys.argv[sys.argv.index("--out") + 1]
def leave(name, text=""):
    with open(out + "/." + name, "w") as file:
        file.write(text)
    os.rename(file.name, out + "/" + name)
def stop(*_):
    leave("stopped")
    sys.exit(0)
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGUSR2, lambda *_: leave("answer"))
leave("ready", str(os.getpid()))
while True:
    time.sleep(0.05)
"""
PYTHON = """#!/bin/sh
case "$*" in
  *device.py*) echo 0 ;;
  *sysconfig*) echo {stubs} ;;
  *pretrain.preflight*) ;;
  *deepspeed_launcher.py*) shift 2; exec {stubs}/deepspeed "$@" ;;
  *) exec {python} "$@" ;;
esac
"""
DEEPSPEED = """#!/bin/sh
program=$1
while [ "$1" != pretrain.train ]; do shift; done
shift
[ -z "$SLOW" ] || {{ touch "$SLOW"; sleep 2; }}  # its imports take seconds
[ "$program" = runner ] || exec {stubs}/node "$@"
{stubs}/node "$@"
exit $?
"""
NODE = """#!/bin/sh
# as DeepSpeed's launcher of a host, above the ranks; of the environment pdsh passes on what the file names
cd {package}
[ -z "$DS_ENV_FILE" ] || clean="env -i $(cat "$DS_ENV_FILE")"
$clean {python} -u -m pretrain.train "$@"
exit $?
"""
PDSH = """#!/bin/sh
for command; do :; done
exec sh -c "$command"
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(out, *options, nohup=False, until="ready") -> launch/pretrain.sh, once that file in `out` is there."""
    stubs, package = tmp_path / "stubs", tmp_path / "package"
    (package / "pretrain").mkdir(parents=True)
    (package / "pretrain" / "__init__.py").touch()
    (package / "pretrain" / "train.py").write_text(TRAIN)
    stubs.mkdir()
    for name, content in {"python": PYTHON, "deepspeed": DEEPSPEED, "node": NODE, "pdsh": PDSH}.items():
        (stubs / name).write_text(content.format(stubs=stubs, python=sys.executable, package=package))
        (stubs / name).chmod(0o755)
    (tmp_path / "hostfile").write_text("here slots=1\n")
    started: list[subprocess.Popen[bytes]] = []

    def start(out: Path, *options: str, nohup: bool = False, until: str = "ready") -> subprocess.Popen[bytes]:
        out.mkdir()
        command = ["bash", str(ROOT / "launch" / "pretrain.sh"), *options, "--out", str(out)]
        environment = {**os.environ, "MAHA_PYTHON": str(stubs / "python"), "HOME": str(tmp_path)}
        environment.pop("PYTHONPATH", None)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)  # the process inherits it
        started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True))
        signal.signal(signal.SIGHUP, before)
        wait_for(out / until)
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            shell = psutil.Process(process.pid)
            kill([*shell.children(recursive=True), shell])
        process.wait(10)


def wait_for(path: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.02)


def assert_goes_on(out: Path) -> None:
    """No signal has come before this one: of several, a process handles those with lower numbers first."""
    os.kill(int((out / "ready").read_text()), signal.SIGUSR2)
    wait_for(out / "answer")
    assert not (out / "stopped").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("launcher", ["here", "pdsh"])
def test_a_signal_stops_what_the_command_trains(
    start: Start, tmp_path: Path, number: signal.Signals, launcher: str
) -> None:
    hosts = () if launcher == "here" else ("--hostfile=~/hostfile",)
    run = start(tmp_path / "1", *hosts)
    run.send_signal(number)
    assert run.wait(60) == 0
    assert (tmp_path / "1" / "stopped").exists()


@pytest.mark.parametrize("launcher", ["here", "pdsh"])
def test_a_signal_before_the_launcher_has_processes_is_not_lost(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.setenv("SLOW", str(tmp_path / "1" / "launched"))
    run = start(tmp_path / "1", *(() if launcher == "here" else ("--hostfile=~/hostfile",)), until="launched")
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) in (0, 128 + signal.SIGUSR1)  # the latter from a process that has no handler yet


def test_a_signal_stops_no_other_run_whatever_its_options(start: Start, tmp_path: Path) -> None:
    hosts = ("--hostfile", str(tmp_path / "hostfile"))
    run = start(tmp_path / "1", *hosts)
    longer = start(tmp_path / "10", *hosts)  # its command line begins with that of the first
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 0
    assert_goes_on(tmp_path / "10")
    assert longer.poll() is None


def test_a_closed_terminal_does_not_stop_what_nohup_started(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path / "1", nohup=True)
    trained = psutil.Process(int((tmp_path / "1" / "ready").read_text()))
    for process in (psutil.Process(run.pid), trained):
        assert signal.SIGHUP in signals(process, "SigIgn")
    run.send_signal(signal.SIGHUP)
    assert_goes_on(tmp_path / "1")
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 0
