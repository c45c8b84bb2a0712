"""What a GPU would have to run, counted while operations run on tensors of the device `meta` that stand for its own."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch._library.custom_ops import OPDEFS  # noqa: PLC2701
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils._pytree import tree_iter  # noqa: PLC2701

from maha_model.kernels.dispatch import standing_for_gpu
from maha_model.launches.gpu_forms import gpu_forms
from maha_model.launches.triton_kernels import triton_kernels_counted

# They give another shape to memory, or reserve some.
_NOTHING_RUNS = {
    "_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift",
    "lift_fresh", "set_", "resize_", "sym_size", "sym_numel", "sym_stride", "is_pinned", "record_stream",
}  # fmt: skip
# The host waits for the device, or the size of the result is a value of the device.
_WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}


class Launches(TorchDispatchMode):
    """Counts the operations that launch something on a GPU, and those that wait for it, while it is on.

    Tensors of the device `meta` stand for the GPU's. Autograd's own copies and sums of gradients count too.

    Counted is every operation that is not a view and reserves more than memory, whether torch's kernel for it is one or
    several. The project's own operators count as what their launchers for a GPU run: every Triton kernel once,
    and torch's operations beside them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        """How often each operation or Triton kernel was launched."""
        self.waits: Counter[str] = Counter()
        """Operations for which the host waits: copies between host and device, values read from the device."""
        self._inside = contextlib.ExitStack()

    @property
    def total(self) -> int:
        """Of all operations."""
        return self.operations.total()

    def __enter__(self) -> "Launches":
        """Count from here on."""
        self._inside.enter_context(standing_for_gpu())
        self._inside.enter_context(gpu_forms(self.waits))
        self._inside.enter_context(triton_kernels_counted(self.operations))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        super().__exit__(*error)
        self._inside.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if func.namespace == "maha":
            super().__enter__()  # its own operations are counted
            try:
                return OPDEFS[f"maha::{name}"]._init_fn(*args, **kwargs)  # noqa: SLF001
            finally:
                super().__exit__(None, None, None)
        if name in _WAITS:
            self.waits[name] += 1  # (it fails on tensors without values)
        result = func(*args, **kwargs)
        if not func.is_view and name not in _NOTHING_RUNS and _runs(args, kwargs, result):
            self.operations[name] += 1
        if _crosses(name, args, kwargs, result):
            self.waits[name] += 1
        return result


def _tensors(*values: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_iter(values) if isinstance(leaf, torch.Tensor))


def _runs(args: Any, kwargs: Any, result: Any) -> bool:
    """Whether the device has anything to do."""
    results = list(_tensors(result))
    return any(x.is_meta for x in _tensors(args, kwargs, result)) and (not results or any(x.numel() for x in results))


def _crosses(name: str, args: Any, kwargs: Any, result: Any) -> bool:
    """Whether an operation copies between host and device in a way that the host waits for."""
    if name not in ("_to_copy", "copy_"):
        return False
    devices = {x.device.type for x in _tensors(args, result)}
    return len(devices) > 1 and not kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
