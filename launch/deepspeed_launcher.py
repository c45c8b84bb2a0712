"""DeepSpeed's launcher without MLflow: python -P launch/deepspeed_launcher.py runner|launch ARGUMENTS

`runner` is its command `deepspeed`, for several hosts; `launch` starts the processes of this one.
"""

import importlib
import sys

import pretrain.lean_deepspeed  # noqa: F401  # the launchers import DeepSpeed, which would import MLflow


def main() -> None:
    """The command."""
    program = importlib.import_module(f"deepspeed.launcher.{sys.argv.pop(1)}")
    program.main()


if __name__ == "__main__":
    main()
