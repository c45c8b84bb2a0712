"""Trainers in turns: one works while the others wait, and one that fails is named."""

import sys
from pathlib import Path

import pytest

from data_pipeline import UserError
from eval.bench.peers.turns import take_turns

WORKER = """
import sys, time
name, path, turns = sys.argv[1:]
def note(event):
    with open(path, "a") as file:
        file.write(f"{name} {event}\\n")
print("a line of some library")
for turn in range(int(turns) + 1):
    print("ready", flush=True)
    sys.stdin.readline()
    note("begins")
    sum(range(10**6))
    note("ends")
"""


def test_one_works_while_the_others_wait(tmp_path: Path) -> None:
    events = tmp_path / "events"
    commands = {name: [sys.executable, "-c", WORKER, name, events, 3] for name in ("a", "b")}
    spent = take_turns(commands, 3, 1, tmp_path)
    lines = events.read_text().splitlines()
    turn = ["a begins", "a ends", "b begins", "b ends"]
    assert lines == 4 * turn  # the last time they go on to their end
    assert {name: len(turns) for name, turns in spent.items()} == {"a": 3, "b": 3}
    assert all(0 < turn.processor < 2 * turn.seconds for turns in spent.values() for turn in turns)


@pytest.mark.parametrize("turns", [0, 1])
def test_one_that_fails_is_named_with_its_last_message(tmp_path: Path, turns: int) -> None:
    failing = (
        "import sys\nfor _ in range(int(sys.argv[1])):\n    print('ready', flush=True); input()\nsys.exit('no memory')"
    )
    with pytest.raises(UserError, match=r"^b ended early: no memory$"):
        take_turns({"b": [sys.executable, "-c", failing, turns]}, 2, 1, tmp_path)
