"""launch/pretrain.sh --hostfile over real ssh between two hosts; the link between them is cut midway; Open MPI."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.conftest import ROOT
from tests.integration.hosts import TwoHosts, missing
from tests.integration.runs import (
    MODEL,
    STEPS,
    TRAINING,
    assert_one_run_stopped,
    read_losses,
    wait_for_step,
    wait_until,
)

pytestmark = pytest.mark.integration
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with TwoHosts(tmp_path_factory.mktemp("hosts")) as running:
        yield running


def start(
    hosts: TwoHosts, out: Path, data: Path, *options: str, addresses: Sequence[str] = TwoHosts.addresses
) -> subprocess.Popen[str]:
    hostfile = hosts.folder / "hostfile"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in addresses))
    script = ["bash", str(ROOT / "launch" / "pretrain.sh"), f"--hostfile={hostfile}"]
    arguments = [f"--data={data}", f"--out={out}", *MODEL, *TRAINING, "--peer_timeout=4", *options]
    return subprocess.Popen(
        hosts.on_first(*script, *arguments),
        env={**hosts.env(), **AS_ROOT, "MAHA_VENV": sys.prefix, "OMP_NUM_THREADS": "1"},
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def test_a_cut_link_ends_the_run_names_the_lost_rank_and_it_starts_again_and_stops_on_request(
    hosts: TwoHosts, data: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(
        hosts, out, data.folder, "--restarts=2", addresses=hosts.names
    )  # pdsh labels lines with a part of it
    wait_for_step(out, 8, process)
    hosts.set_link("down")
    # peer_timeout passes; ssh's own patience with the other host is longer, and TCP's would be many minutes
    wait_until(lambda: any((out / "diagnostics").glob("*/rank-00000.json")), process)
    before = read_losses(out)
    hosts.set_link("up")
    assert max(before) < STEPS
    resumed = read_info(find_checkpoint(out)).step

    wait_until(lambda: max(read_losses(out)) == resumed, process)  # the steps after it are taken back
    wait_for_step(out, resumed + 2, process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "error: lost rank 1 (" in output, output
    assert "no sign of life for 4 s; continue from the last checkpoint with --resume auto" in output
    assert f"starting again from step {resumed} (1 of 2 times)" in output
    assert f"from step {resumed}" in output
    stopped = read_info(find_checkpoint(out)).step
    assert f"stopped at step {stopped}" in output
    after = read_losses(out)
    assert list(after) == list(range(1, stopped + 1))
    assert {step: loss for step, loss in after.items() if step in before} == before


def test_mpirun_starts_one_run_on_both_hosts_and_it_stops_on_request(
    hosts: TwoHosts, data: Manifest, tmp_path: Path
) -> None:
    if not shutil.which("mpirun"):
        pytest.skip("needs Open MPI (apt-get install openmpi-bin)")
    out = tmp_path / "run"
    process = start(hosts, out, data.folder, "--launcher=openmpi")
    wait_for_step(out, 3, process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_one_run_stopped(out, output)


@pytest.mark.parametrize("launcher", ["pdsh", "openmpi"])
def test_a_host_out_of_reach_is_one_line_before_any_process_starts(
    hosts: TwoHosts, data: Manifest, tmp_path: Path, launcher: str
) -> None:
    away = "10.231.77.9"
    addresses = (hosts.addresses[0], away)
    process = start(hosts, tmp_path / "run", data.folder, f"--launcher={launcher}", addresses=addresses)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    _, line = output.splitlines()  # the first one has found the data whole
    assert line.startswith("error: "), output
    assert f"(ssh: connect to host {away} port 22: " in line
    assert not (tmp_path / "run").exists()
