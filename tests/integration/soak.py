"""Break one run again and again, start it again each time; in the end it must be the run that nothing happened to.

    python -m tests.integration.soak --kills 20 [--seed 0] [--precision float32|bfloat16] [--context-parallel 1|2]

Two processes under launch/pretrain.sh, their folder on a small disk of its own (so it needs root). Each writes its part
of a checkpoint; with --context-parallel 2 they share every window. Kinds of faults take turns, hypothesis chooses the
points; after one kind the run starts again by itself (--restarts). Prints a table; fails unless every step's loss,
learning rate and gradient norm, every evaluation, the last weights and the last Adam moments are bitwise those of an
undisturbed run.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pretrain.checkpoint import find_checkpoint, has_checkpoint, read_info
from tests.integration.forked import ForkedRun
from tests.integration.runs import EVAL_INTERVAL, MODEL, TRAINING, LaunchedRun, kill, read_losses

KINDS = ("one rank", "all", "saving", "evaluating", "disk full")
RESTARTED = "restarted"
LAUNCHED_KINDS = (KINDS[0], RESTARTED, *KINDS[1:])
"""With a launcher that starts a run again. The kind after it ends the launcher too, which might start it once more."""
STEPS_PER_FAULT = 28  # no fault lets a run come further than that
DISK = "16m"

Run = LaunchedRun | ForkedRun


class Fault(NamedTuple):
    """What to break, when: the first moment of its kind `steps` steps after the start, and `delay` seconds on."""

    kind: str
    steps: int
    rank: int
    delay: float


class Row(NamedTuple):
    """What a fault did."""

    fault: Fault
    start: int
    reached: int
    hit: bool
    status: int


def choose_faults(count: int, entropy: int, kinds: tuple[str, ...] = KINDS) -> list[Fault]:
    """`kinds` in turn, at points that hypothesis draws."""
    points: list[tuple[int, int, float]] = []

    @seed(entropy)
    @settings(max_examples=count, database=None, deadline=None, derandomize=False, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.integers(0, 14), st.integers(0, 1), st.floats(0, 0.03))
    def draw(steps: int, rank: int, delay: float) -> None:
        points.append((steps, rank, delay))

    draw()
    return [Fault(kinds[number % len(kinds)], *point) for number, point in enumerate(points)]


def soak(faults: list[Fault], folder: Path, start: Callable[..., Run], report: Callable[[str], None] = print) -> None:
    """Run undisturbed, then with `faults`; `start(out, *options)` starts a run. AssertionError if they differ."""
    steps = f"--steps={STEPS_PER_FAULT * len(faults) + 6}"
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    result = start(undisturbed, steps).wait(600)
    assert result.returncode == 0, result.stdout
    report(f"{'':>4} {'fault':<11} {'from step':>9} {'to step':>7} {'in the act':>10} {'exit status':>11}")
    with small_disk(disturbed):
        run: Run | None = None
        for number, fault in enumerate(faults, start=1):
            at = read_info(find_checkpoint(disturbed)).step if has_checkpoint(disturbed) else 0
            restarts = ["--restarts=1"] if fault.kind == RESTARTED else []
            run = run or start(disturbed, steps, "--resume=auto", *restarts)
            goes_on = False
            try:
                row = strike(run, fault, disturbed, at)
                goes_on = fault.kind == RESTARTED
            finally:
                if not goes_on:
                    run.kill()
                    run = None
            report(
                f"{number:>4} {fault.kind:<11} {row.start:>9} {row.reached:>7} {'yes' if row.hit else 'no':>10} "
                f"{row.status:>11}"
            )
        result = (run or start(disturbed, steps, "--resume=auto")).wait(600)
        assert result.returncode == 0, result.stdout
        compare(undisturbed, disturbed)
    report(f"{len(read_losses(undisturbed))} steps: every loss and the last weights are bitwise the undisturbed run's")


def strike(run: Run, fault: Fault, out: Path, at: int) -> Row:
    """Wait for the fault's moment and cause the fault. AssertionError if the run ends before or hangs after."""
    until = time.monotonic() + 600

    def wait_for(happens: Callable[[], bool]) -> None:
        while not happens():
            assert run.poll() is None, run.wait(10).stdout
            assert time.monotonic() < until, "the run does not go on"
            time.sleep(0.001)

    def lines() -> list[dict[str, Any]]:
        path = out / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def reached() -> int:
        return max((line["step"] for line in lines() if "loss" in line), default=0)

    def unevaluated() -> list[int]:
        evaluated = [line["step"] for line in lines() if "eval_loss" in line]
        due = [line["step"] for line in lines() if "loss" in line and line["step"] % EVAL_INTERVAL == 0]
        return [step for step in due if step not in evaluated]

    def saving() -> bool:
        return any(out.glob("checkpoints/.step-*.tmp"))

    wait_for(lambda: len(run.ranks) == 2)
    if fault.steps:  # else at once, while it starts
        wait_for(lambda: reached() <= at)  # the lines of the attempt before are gone
        wait_for(lambda: reached() >= at + fault.steps)
    hit = True
    if fault.kind == "one rank":
        time.sleep(fault.delay)
        kill(run.ranks[fault.rank : fault.rank + 1])
        status = run.wait(300).returncode
        assert status != 0
    elif fault.kind == RESTARTED:
        time.sleep(fault.delay)
        before = run.ranks
        kill(before[fault.rank : fault.rank + 1])
        wait_for(lambda: len(set(run.ranks) - set(before)) == 2)
        status = 0
    elif fault.kind == "disk full":
        filler = out / "filler"
        with filler.open("wb", buffering=0) as file:
            while (free := os.statvfs(out).f_bavail * os.statvfs(out).f_frsize) > 200_000:  # a save may take some, too
                with suppress(OSError):
                    file.write(bytes(min(free - 200_000, 2**16)))
        result = run.wait(300)
        status = result.returncode
        assert (status, result.stdout.count("error: no space left on the device")) == (2, 1), result.stdout
        assert "Traceback" not in result.stdout, result.stdout
        filler.unlink()
    else:
        if fault.kind == "saving":
            wait_for(saving)
            time.sleep(fault.delay / 10)
        elif fault.kind == "evaluating":
            wait_for(lambda: bool(unevaluated()))
            time.sleep(fault.delay)
        else:
            time.sleep(fault.delay)
        run.kill()
        hit = {"saving": saving(), "evaluating": bool(unevaluated())}.get(fault.kind, True)
        status = -signal.SIGKILL
    return Row(fault, at, reached(), hit, status)


def compare(undisturbed: Path, disturbed: Path) -> None:
    """Raises AssertionError unless the two runs' steps, evaluations and last checkpoints are equal, bit for bit."""
    names = ("step", "loss", "lr", "grad_norm", "tokens", "eval_loss")

    def values(run: Path) -> list[list[Any]]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [[line.get(name) for name in names] for line in lines]

    assert values(disturbed) == values(undisturbed)
    ours, theirs = find_checkpoint(disturbed), find_checkpoint(undisturbed)
    assert ours.name == theirs.name
    for name in sorted(path.name for path in theirs.glob("rank-*.safetensors")):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of `DISK` bytes at `folder` while the block runs. PermissionError where one may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("the soak test mounts a small file system, which only root may")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def main() -> None:
    """The command."""
    from data_pipeline.prepare import prepare
    from data_pipeline.sources import find_source
    from tests.conftest import book, write_jsonl

    parser = argparse.ArgumentParser(prog="python -m tests.integration.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="faults (default 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the points that hypothesis draws")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the run")
    parser.add_argument(
        "--context-parallel", type=int, choices=(1, 2), default=1, metavar="P", help="processes to a window"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        for split, seeds in {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}.items():
            write_jsonl(folder / f"{split}-00000.jsonl", [book(number, 3000) for number in seeds])
        data = prepare(find_source(str(folder)), folder / "data", vocab_size=512, workers=1, shard_tokens=9000).folder

        def start(out: Path, *more: str) -> Run:
            kind = (f"--precision={options.precision}", f"--context_parallel={options.context_parallel}")
            return LaunchedRun(2, f"--data={data}", f"--out={out}", *MODEL, *TRAINING, *kind, *more)

        soak(
            choose_faults(options.kills, options.seed, LAUNCHED_KINDS),
            folder,
            start,
            lambda line: print(line, flush=True),
        )


if __name__ == "__main__":
    main()
