"""The device that a command computes on, as an option."""

import argparse

import torch

from maha_model.device import best_device, means_bfloat16

__all__ = ["best_device", "device_name", "means_bfloat16"]


def device_name(text: str) -> str:
    """The value of an option --device, for argparse. Raises ArgumentTypeError if this machine has no such device."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise argparse.ArgumentTypeError(f"{text!r} is no device of this machine; give cpu or cuda") from error
    return text


def device_title(device: str) -> str:
    """The device's kind, with the card's name for a GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
