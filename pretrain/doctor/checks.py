"""The checks of a device, in the order in which they run: what a failure of later ones may come from is first."""

import functools

from maha_model.kernels import OPERATORS
from pretrain.doctor import aggregation, attention, compiled, kernels, machine, resume, storage, training
from pretrain.doctor.runner import Check
from pretrain.doctor.setting import MODELS


def device_checks() -> list[Check]:
    """Those that a process makes by itself."""
    by_operator = {
        "span": kernels.check_span,
        "descent": kernels.check_descent,
        "fuse": kernels.check_fuse,
        "qp": kernels.check_qp,
        "rotary": kernels.check_rotary,
        "depthwise": kernels.check_depthwise,
        "bounds": kernels.check_bounds,
        "index": kernels.check_index,
        "cross_entropy": kernels.check_cross_entropy,
        "swiglu": kernels.check_swiglu,
    }
    return [
        Check("machine", machine.MACHINE_KEYS, machine.check_machine),
        Check("software", machine.SOFTWARE_KEYS, machine.check_software),
        Check("disk", storage.DISK_KEYS, storage.check_disk),
        Check("shared memory", storage.SHARED_MEMORY_KEYS, storage.check_shared_memory),
        Check("MLflow", storage.MLFLOW_KEYS, storage.check_mlflow),
        Check("implementations", kernels.IMPLEMENTATION_KEYS, kernels.check_implementations),
        *(Check(f"kernels {name}", kernels.KERNEL_KEYS, by_operator[name]) for name in OPERATORS),
        Check("aggregation", aggregation.KEYS, aggregation.check_aggregation),
        Check("attention", attention.KEYS, attention.check_attention),
        Check("compile", compiled.KEYS, compiled.check_compile),
        Check("resume", resume.KEYS, resume.check_resume),
        *(
            Check(
                f"training {size} {model}",
                training.KEYS,
                functools.partial(training.check_training, size=size, model=model),
            )
            for size in training.SIZES
            for model in MODELS
        ),
    ]
