"""One process at a time trains into a folder; the lock goes with its holder, however that ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline import UserError
from pretrain.claim import check_unclaimed, claimed
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from pretrain.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_claim_refuses_a_second_one_and_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        files = sorted(run.iterdir())
        with pytest.raises(UserError, match=f"run is in use: process {holder.pid} on .* trains into it"), claimed(run):
            pass
        with pytest.raises(UserError, match="is in use"):
            check_unclaimed(run)
        assert sorted(run.iterdir()) == files
        holder.kill()
    check_unclaimed(run)
    with claimed(run):
        (run / "kept").touch()
    assert [path.name for path in run.iterdir()] == ["kept"]


def test_a_claim_under_which_nothing_was_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not today"), claimed(tmp_path / "new" / "run"):
        raise UserError("not today")
    assert not (tmp_path / "new" / "run").exists()
    (tmp_path / "mine").mkdir()
    with claimed(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_the_check_leaves_no_trace(tmp_path: Path) -> None:
    check_unclaimed(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
