"""The device that commands use where none is given."""

import torch


def best_device() -> str:
    """`cuda` if a GPU is available, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"
