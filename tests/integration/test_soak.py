"""The soak test's short form: a fault of every kind; `python -m tests.integration.soak` is the long one."""

import os
from pathlib import Path

import pytest

from data_pipeline import Manifest
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING
from tests.integration.soak import KINDS, choose_faults, soak

pytestmark = pytest.mark.integration


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system to fill it up (root)")
def test_a_run_broken_in_every_way_is_bitwise_the_undisturbed_one(data: Manifest, tmp_path: Path) -> None:
    def start(out: Path, *more: str) -> ForkedRun:
        options = (*MODEL, *TRAINING, "--global_batch_size=4")  # one micro-batch a step
        return ForkedRun(2, f"--data={data.folder}", f"--out={out}", *options, *more)

    soak(choose_faults(len(KINDS), 1), tmp_path, start)
