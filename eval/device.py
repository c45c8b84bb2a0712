"""The device that a command computes on, as an option."""

import argparse

import torch

from data_pipeline import CommandParser
from maha_model.device import best_device, means_bfloat16, unusable_gpus

__all__ = ["add_device_option", "best_device", "device_title", "means_bfloat16"]

_BEST = "auto"


def add_device_option(parser: CommandParser) -> None:
    """The option --device; by default `best_device()`, where Slurm has not given GPUs that torch cannot use."""
    # argparse passes a default that is text through the option's type, only where the option is not given
    parser.add_argument(
        "--device", type=_device_name, default=_BEST, help="cpu, cuda or cuda:N (default: cuda if there is a GPU)"
    )


def _device_name(text: str) -> str:
    if text == _BEST:
        if reason := unusable_gpus():
            raise argparse.ArgumentTypeError(reason)
        return best_device()
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise argparse.ArgumentTypeError(f"{text!r} is no device of this machine; give cpu or cuda") from error
    if text.startswith("cuda:"):
        torch.cuda.set_device(text)  # Triton launches kernels on the current one
    return text


def device_title(device: str) -> str:
    """The device's kind, with the card's name for a GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
