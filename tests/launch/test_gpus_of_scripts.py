"""How many processes the shell scripts start, on which GPUs: stand-ins for what they call, and for nvidia-smi."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

STANDS_IN = {
    "nvidia-smi": "echo 'GPU 0: a'; echo 'GPU 1: b'",
    "srun": 'echo "accelerator ${DS_ACCELERATOR:-any}" >"$LAUNCHED"',
    "scontrol": "echo NodeAddr=127.0.0.1",
    "python": """case "$*" in
      *sysconfig*) dirname "$0" ;;
      *deepspeed_launcher.py*)
        echo "accelerator ${DS_ACCELERATOR:-any}; visible ${CUDA_VISIBLE_DEVICES-any}; $*" >"$LAUNCHED" ;;
      *device.py*) [ -n "${GPUS:-}" ] && echo "$GPUS" || exec "$PYTHON" "$@" ;;
      *socket*) echo 29501 ;;
    esac""",
}


class Scripts:
    """`launch/` beside stand-ins for what it calls."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.launched = folder, folder / "bin", folder / "launched"
        for source in ("launch/pretrain.sh", "launch/pretrain.sbatch", "launch/quickstart.sh", "maha_model/device.py"):
            (folder / source).parent.mkdir(exist_ok=True)
            if (ROOT / source).exists():
                shutil.copy(ROOT / source, folder / source)
        self.bin.mkdir()
        for name, body in STANDS_IN.items():
            self.stand_in(self.bin / name, body)

    def stand_in(self, path: Path, body: str) -> None:
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    @property
    def devices(self) -> list[int]:
        """The GPUs that DeepSpeed's launcher was given for this machine."""
        (given,) = re.findall(r" launch --world_info (\S+) ", self.launched.read_text())
        return json.loads(base64.urlsafe_b64decode(given))["localhost"]

    def run(self, script: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """With MAHA_PYTHON and the virtual environment that of the stand-ins."""
        names = ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
        env = {name: value for name, value in os.environ.items() if name not in names and "SLURM" not in name}
        env |= {"PATH": f"{self.bin}:{env['PATH']}", "PYTHON": sys.executable, "LAUNCHED": str(self.launched)}
        env |= {"MAHA_PYTHON": str(self.bin / "python"), "MAHA_VENV": str(self.root), **variables}
        command = ["bash", str(self.root / "launch" / script), *options]
        return subprocess.run(command, env=env, cwd=self.root, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


@pytest.mark.parametrize("hidden", [{"CUDA_VISIBLE_DEVICES": ""}, {"DS_ACCELERATOR": "cpu"}])
def test_gpus_that_only_nvidia_smi_sees_are_not_counted(scripts: Scripts, hidden: dict[str, str]) -> None:
    """Without torch's consent, as with a build of torch for CPUs on a machine with a driver."""
    assert scripts.run("pretrain.sh", **hidden).returncode == 0
    launched = scripts.launched.read_text()
    assert launched.startswith("accelerator cpu; visible any; ")
    assert scripts.devices == [0]
    slurm = {"SLURM_SUBMIT_DIR": str(scripts.root), "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": "7",
             "SLURM_NTASKS": "1", "MAHA_ARGS": "--steps=1"}  # fmt: skip
    scripts.run("pretrain.sbatch", **slurm, **hidden)
    assert scripts.launched.read_text() == "accelerator cpu\n"


def test_the_quick_start_trains_two_processes_where_torch_can_use_no_gpu(scripts: Scripts) -> None:
    scripts.stand_in(scripts.root / "launch" / "setup.sh", ":")
    scripts.stand_in(scripts.root / "launch" / "pretrain.sh", 'echo "$*" >"$LAUNCHED"')
    scripts.stand_in(scripts.bin / "nproc", "echo 4")
    for hidden, processes in (({"CUDA_VISIBLE_DEVICES": ""}, 2), ({"GPUS": "1"}, 1)):
        result = scripts.run("quickstart.sh", **hidden)
        assert result.returncode == 0, result.stderr
        assert f"--nproc {processes} " in scripts.launched.read_text()


@pytest.mark.parametrize(
    ("options", "visible", "launched"),
    [
        ([], None, [0, 1, 2, 3]),
        (["--nproc=2"], None, [0, 1]),
        ([], "4,5,6,7", [4, 5, 6, 7]),
        (["--nproc=2"], "4,5,6,7", [4, 5]),
    ],
)
def test_a_process_a_gpu_of_those_that_the_user_left_visible(
    scripts: Scripts, options: list[str], visible: str | None, launched: list[int]
) -> None:
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    result = scripts.run("pretrain.sh", *options, GPUS="4", **variables)
    assert result.returncode == 0, result.stderr
    assert scripts.devices == launched
    assert "accelerator any; visible any; " in scripts.launched.read_text()


@pytest.mark.parametrize(
    ("options", "visible", "message"),
    [
        (["--nproc=8"], "", "--nproc 8, but only 4 GPU(s) can be used here; give --nproc 4"),
        ([], "GPU-8932f937", "CUDA_VISIBLE_DEVICES is 'GPU-8932f937'; give the GPUs' numbers, such as 0,1"),
    ],
)
def test_mistakes_about_gpus_are_one_line_and_status_2(
    scripts: Scripts, options: list[str], visible: str, message: str
) -> None:
    result = scripts.run("pretrain.sh", *options, GPUS="4", CUDA_VISIBLE_DEVICES=visible)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}")
    assert not scripts.launched.exists()
