"""The watchdog ends its process, so each case runs in processes of its own."""

import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

SETUP = """
import sys, time
import torch.distributed as dist
from pretrain.callbacks.heartbeats import own_connection
from pretrain.callbacks.watchdog import Watchdog
rank, port = int(sys.argv[1]), int(sys.argv[2])
store = dist.TCPStore("127.0.0.1", port, is_master=rank == 0, wait_for_workers=False)
dog = Watchdog(lambda: own_connection(store, 1.0), rank, 2, step_timeout=STEP, peer_timeout=1.0)
dog.begin("step 7")
"""


def start(rank: int, port: int, body: str, step_timeout: float = 60) -> subprocess.Popen[str]:
    code = SETUP.replace("STEP", str(step_timeout)) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(rank), str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_silent_rank_is_named_and_the_others_end(port: int) -> None:
    """Stopped, not killed: its connections stay open, as when a link is cut."""
    main = start(0, port, "time.sleep(60)")
    other = start(1, port, "print('up', flush=True); time.sleep(60)")
    assert other.stdout is not None
    other.stdout.readline()
    time.sleep(1)
    other.send_signal(signal.SIGSTOP)
    _, errors = main.communicate(timeout=20)
    other.kill()
    other.communicate()
    assert main.returncode == 1
    assert "error: lost rank 1 (" in errors
    assert "during step 7: no sign of life for 1 s; continue from the last checkpoint with --resume auto" in errors


def test_a_killed_main_process_is_named_by_the_others(port: int) -> None:
    main = start(0, port, "print('up', flush=True); time.sleep(60)")
    other = start(1, port, "time.sleep(60)")
    assert main.stdout is not None
    main.stdout.readline()
    time.sleep(2)
    main.kill()
    main.communicate()
    _, errors = other.communicate(timeout=20)
    assert other.returncode == 1
    assert "error: lost rank 0 (" in errors
    assert "its process ended" in errors


def test_a_step_that_hangs_prints_every_stack_and_ends(port: int) -> None:
    hung = start(0, port, "def hangs_here():\n    time.sleep(60)\nhangs_here()", step_timeout=1)
    _, errors = hung.communicate(timeout=20)
    assert hung.returncode == 1
    assert "watchdog: rank 0 of 2 on " in errors
    assert "in hangs_here" in errors
    assert "in step 7, more than step_timeout 1; its stacks are above" in errors


def test_ranks_that_are_done_are_not_missed(port: int) -> None:
    main = start(0, port, "time.sleep(4); dog.close(failed=False); print('fine')")
    other = start(1, port, "time.sleep(1); dog.close(failed=False)")
    assert other.wait(timeout=20) == 0
    out, errors = main.communicate(timeout=20)
    other.communicate()
    assert (main.returncode, out) == (0, "fine\n"), errors


def test_a_rank_that_failed_is_named_at_once(port: int) -> None:
    body = "time.sleep(1)\nreason = None\nwhile reason is None: reason = dog.explain()\n"
    main = start(0, port, body + "dog.end(reason)")
    other = start(1, port, "time.sleep(1.5); dog.close(failed=True); time.sleep(60)")
    _, errors = main.communicate(timeout=20)
    other.kill()
    other.communicate()
    assert "error: lost rank 1 (" in errors
    assert "its process ended" in errors


def test_an_error_that_nobody_has_caught_ends_the_process_as_usual(port: int) -> None:
    """A thread inside the store when the interpreter ends would abort it ("terminate called ...", status -6)."""
    main = start(0, port, "time.sleep(60)")
    other = start(1, port, "dog._interval = 0.0\ntime.sleep(0.5)\nsys.exit(2)")
    _, errors = other.communicate(timeout=20)
    assert (other.returncode, errors) == (2, "")
    main.kill()
    main.communicate()


def test_an_output_that_is_gone_keeps_no_rank_from_ending(port: int) -> None:
    hung = start(0, port, "print('up', flush=True); time.sleep(60)", step_timeout=1)
    assert hung.stdout is not None
    assert hung.stderr is not None
    hung.stdout.readline()
    hung.stderr.close()
    try:
        assert hung.wait(timeout=20) == 1
    finally:
        hung.kill()
