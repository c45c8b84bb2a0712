"""The one rule of which device a process computes on, and in which precision.

As a script it prints the number of GPUs: by its path and not with -m, which would import the model for it; torch,
whose import takes a second, only where it is needed.
"""

import os
import socket


def gpu_count() -> int:
    """GPUs that this process may use; 0 if it computes on the CPU.

    Those that this torch can use, of those that CUDA_VISIBLE_DEVICES leaves; none with DS_ACCELERATOR=cpu, which
    DeepSpeed reads too. A build of torch for CPUs has none whatever the machine has.
    """
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def unusable_gpus() -> str:
    """Why this process has no GPU although Slurm has given it some and nothing hides them; empty if that is not so.

    CUDA_VISIBLE_DEVICES is NoDevFiles where Slurm itself hides them from a step.
    """
    given = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    hidden = os.environ.get("DS_ACCELERATOR") == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") in (
        "",
        "-1",
        "NoDevFiles",
    )
    if given == "0" or hidden or gpu_count():
        return ""
    return (
        f"Slurm has given {given} GPU(s) on {socket.gethostname()}, and torch can use none: the driver fails (see "
        "nvidia-smi there), or torch is one for CPUs; mend it, leave the node out (sbatch --exclude), or set "
        "DS_ACCELERATOR=cpu to compute on the CPU"
    )


def best_device() -> str:
    """`cuda` if there is a GPU, else `cpu`."""
    return "cuda" if gpu_count() else "cpu"


def means_bfloat16(precision: str) -> bool:
    """Whether the option `precision` (auto, bfloat16 or float32) is bfloat16 on this device: auto on a GPU with it."""
    if precision != "auto" or not gpu_count():
        return precision == "bfloat16"
    import torch

    return torch.cuda.is_bf16_supported()


if __name__ == "__main__":
    print(gpu_count())
