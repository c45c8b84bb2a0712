"""DeepSpeed, imported without MLflow: all modules take `deepspeed` from here.

Its autotuner, which no run uses, imports MLflow where it is installed: most of the time that importing DeepSpeed takes,
in every process. Only the process that tracks a run needs MLflow, and imports it then.
"""

import sys

_absent = "mlflow" not in sys.modules
if _absent:
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # its import now fails, and the autotuner does without
try:
    import deepspeed
finally:
    if _absent:
        del sys.modules["mlflow"]

__all__ = ["deepspeed"]
