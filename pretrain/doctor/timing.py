"""Time of a function on a device."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.benchmark import Timer


def seconds_of(function: Callable[[], Any], least: float) -> float:
    """Median seconds of a call, the device's work included: of calls for `least` seconds, after one to warm up."""
    function()
    timer = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=least).median)
