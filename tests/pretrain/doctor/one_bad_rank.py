"""A script, not a test: pretrain.doctor on a rank of which rank 1 has a wrong kernel, or never ends a check."""

import os
import sys
import time

from maha_model.kernels.span import cpu
from pretrain.doctor.__main__ import main

__all__ = ["hanging", "main", "wrong"]


def wrong() -> None:
    """Rank 1 computes attention slightly wrong."""
    right = cpu.forward
    if os.environ["RANK"] == "1":
        cpu.forward = lambda *args: tuple(1.01 * each for each in right(*args))
    main()


def hanging() -> None:
    """Rank 1 never ends it, and has a second for it."""
    if os.environ["RANK"] == "1":
        cpu.forward = lambda *args: time.sleep(3600)
        sys.argv.append("--time-limit=1")
    main()
