"""The doctor at its smallest sizes on a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


def test_every_check_passes_and_what_a_gpu_alone_has_is_there(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    command = [sys.executable, "-m", "pretrain.doctor", "--quick", "--json", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    checks = json.loads(result.stdout.splitlines()[-1])["checks"]
    assert checks["machine"]["values"]["gpu"]
    assert checks["training paper MAHA"]["values"]["precision"] == "bfloat16"
    assert checks["training paper MAHA"]["values"]["launches"] > 0
