"""The watchdog ends its process, so each case runs in processes of its own, which wait for what they see of each other.

Timeouts are short only where a test needs them to be over: what takes its time on a busy machine is no fault.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.diagnostics import find_culprit, newest_records
from tests.conftest import ROOT, Run

SETUP = """
import signal, sys, threading, time
from pathlib import Path
import torch
import torch.distributed as dist
from pretrain.callbacks.heartbeats import own_connection
from pretrain.callbacks.watchdog import Watchdog
from pretrain.diagnostics import FlightRecorder
from pretrain.distributed import Rank, open_process_group

rank, world_size, port = map(int, sys.argv[1:4])
step_timeout, peer_timeout = map(float, sys.argv[4:])
later, readings = 0.0, 0  # seconds that the clock is set forward, and how often it was read

def clock():
    global readings
    readings += 1
    return time.monotonic() + later

def until(happens):
    while not happens():
        time.sleep(0.01)

def beats(of):
    key = f"watchdog/alive/{of}"
    return int(store.get(key)) if store.check([key]) else 0

store = dist.TCPStore("127.0.0.1", port, is_master=rank == 0, wait_for_workers=False)
store.set(f"up/{rank}", "")
store.wait([f"up/{other}" for other in range(world_size)])  # the last one may have imported for long
this = Rank(rank, world_size, torch.device("cpu"), store)
recorder = FlightRecorder(Path("diagnostics", "now"), this)
connect = lambda: own_connection(store, 60.0)
dog = Watchdog(connect, rank, world_size, step_timeout, peer_timeout, record=recorder.write, clock=clock)
dog.begin("step 7")
"""
SECONDS = 120  # until a process that does not end fails its test
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(rank, body, ...) -> the process; all use one port, none outlives the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[str]] = []

    def start(
        rank: int, body: str, world_size: int = 2, step_timeout: float = 1e9, peer_timeout: float = 5
    ) -> subprocess.Popen[str]:
        arguments = map(str, (rank, world_size, port, step_timeout, peer_timeout))
        command = [sys.executable, "-c", SETUP + textwrap.dedent(body), *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **pipes, env=env, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate(timeout=SECONDS)[1]


def test_a_silent_rank_is_named_and_the_others_end(start: Start) -> None:
    """Stopped, not killed: its connections stay open, as when a link is cut."""
    main = start(0, "signal.pause()", peer_timeout=2)
    body = "until(lambda: min(beats(0), beats(1)) >= 3); print('both beat', flush=True); signal.pause()"
    other = start(1, body, peer_timeout=2)
    wait_for_line(other)
    other.send_signal(signal.SIGSTOP)
    _, errors = main.communicate(timeout=SECONDS)
    assert main.returncode == 1
    assert "error: lost rank 1 (" in errors
    assert "during step 7: no sign of life for 2 s; continue from the last checkpoint with --resume auto" in errors


def test_a_killed_main_process_is_named_by_the_others(start: Start) -> None:
    main = start(0, "until(lambda: beats(1) >= 2); print('the other beats', flush=True); signal.pause()")
    other = start(1, "signal.pause()")
    wait_for_line(main)
    main.kill()
    _, errors = other.communicate(timeout=SECONDS)
    assert other.returncode == 1
    assert "error: lost rank 0 (" in errors
    assert "its process ended" in errors


def test_a_step_that_hangs_prints_every_stack_and_ends(start: Start) -> None:
    hung = start(0, "def hangs_here():\n    signal.pause()\nhangs_here()", world_size=1, step_timeout=1)
    _, errors = hung.communicate(timeout=SECONDS)
    assert hung.returncode == 1
    assert "watchdog: rank 0 of 1 on " in errors
    assert "in hangs_here" in errors
    assert "in step 7, more than step_timeout 1; its stacks are above" in errors


def test_at_a_hang_every_rank_leaves_its_record_and_the_one_that_hangs_is_named(
    start: Start, run_command: Run, tmp_path: Path
) -> None:
    """Rank 1 never comes to the second all-reduce, in which rank 0 waits for it."""
    body = """
        os.environ["TORCH_FR_BUFFER_SIZE"] = "10"
        open_process_group(store, "127.0.0.1", rank, world_size, this.device, 600.0)

        def hangs_here():
            signal.pause()

        def set_clock_forward():
            global later
            time.sleep(0.5)
            until(lambda: min(beats(0), beats(1)) >= 2)
            later = 1000.0

        dist.all_reduce(torch.ones(3))
        threading.Thread(target=set_clock_forward, daemon=True).start()
        dist.all_reduce(torch.ones(3)) if rank == 0 else hangs_here()
    """
    ranks = [start(rank, "import os\n" + textwrap.dedent(body), step_timeout=500) for rank in (0, 1)]
    errors = [process.communicate(timeout=SECONDS)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1], errors
    records = newest_records(tmp_path)
    assert [record.rank for record in records] == [0, 1]
    assert "in hangs_here" in records[1].stacks
    assert records[0].collectives[-1]["name"] == "gloo:all_reduce"
    assert all(record.memory["host_bytes"] > 1e7 for record in records)
    assert find_culprit(records).ranks == (1,)
    result = run_command("-m", "pretrain.doctor", "--run", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    assert f"likely culprit: rank 1 ({socket.gethostname()}) is behind: it has begun 1 collectives" in result.stderr
    report = json.loads(result.stdout)
    assert (report["culprit"]["ranks"], len(report["ranks"])) == ([1], 2)


def test_ranks_that_are_done_are_not_missed(start: Start) -> None:
    """Not even a thousand seconds later, which the watchdog's thread has looked at twice at least."""
    body = """
        until(lambda: dog.heartbeats._beats.get(1) == b"done")
        later = 1000.0
        before = readings
        until(lambda: readings > before + 4)
        dog.close(failed=False)
        print("fine")
    """
    main = start(0, body)
    other = start(1, "until(lambda: beats(0) >= 1); dog.close(failed=False)")
    assert other.wait(timeout=SECONDS) == 0
    out, errors = main.communicate(timeout=SECONDS)
    assert (main.returncode, out) == (0, "fine\n"), errors


def test_a_rank_that_failed_is_named_at_once(start: Start) -> None:
    main = start(0, "reason = None\nwhile reason is None: reason = dog.explain()\ndog.end(reason)")
    start(1, "until(lambda: min(beats(0), beats(1)) >= 1); dog.close(failed=True); signal.pause()")
    _, errors = main.communicate(timeout=SECONDS)
    assert "error: lost rank 1 (" in errors
    assert "its process ended" in errors


def test_an_error_that_nobody_has_caught_ends_the_process_as_usual(start: Start) -> None:
    """A thread inside the store when the interpreter ends would abort it ("terminate called ...", status -6)."""
    start(0, "signal.pause()")
    other = start(1, "dog._interval = 0.0\nuntil(lambda: beats(1) >= 100)\nsys.exit(2)")
    _, errors = other.communicate(timeout=SECONDS)
    assert (other.returncode, errors) == (2, "")


def test_an_output_that_is_gone_keeps_no_rank_from_ending(start: Start) -> None:
    hung = start(0, "print('up', flush=True); signal.pause()", world_size=1, step_timeout=1)
    wait_for_line(hung)
    assert hung.stderr is not None
    hung.stderr.close()
    assert hung.wait(timeout=SECONDS) == 1
