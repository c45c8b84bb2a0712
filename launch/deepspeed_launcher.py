"""DeepSpeed's launcher without MLflow: python -P launch/deepspeed_launcher.py runner|launch ARGUMENTS

`runner` is its command `deepspeed`, for several hosts; `launch` starts the processes of this one. Either imports
DeepSpeed, and with it MLflow where it is installed, which takes more than a second and which no launcher uses.
"""

import importlib
import sys


def main() -> None:
    """The command."""
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # its import fails, and DeepSpeed does without
    program = importlib.import_module(f"deepspeed.launcher.{sys.argv.pop(1)}")
    program.main()


if __name__ == "__main__":
    main()
