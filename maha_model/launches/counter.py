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
_INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


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
        if name in _WAITS or _has_unknown_places(name, args) or _crosses(name, args, kwargs):
            self.waits[name] += 1  # before it runs: on tensors without values some fail
        result = func(*args, **kwargs)
        if not func.is_view and name not in _NOTHING_RUNS and _runs(args, kwargs, result):
            self.operations[name] += 1
        return result


def _tensors(*values: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_iter(values) if isinstance(leaf, torch.Tensor))


def _runs(args: Any, kwargs: Any, result: Any) -> bool:
    """Whether the device has anything to do."""
    results = list(_tensors(result))
    return any(x.is_meta for x in _tensors(args, kwargs, result)) and (not results or any(x.numel() for x in results))


def _has_unknown_places(name: str, args: Any) -> bool:
    """Whether an operation indexes the device by a mask, whose places are counted first, or by places of the host.

    A mask's places that get a number of the host count too, though a GPU fills them without waiting.
    """
    if name not in _INDEXES or not args[0].is_meta:
        return False
    return any(x.dtype in (torch.bool, torch.uint8) or not x.is_meta for x in _tensors(args[1]))


def _crosses(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation copies between host and device in a way that the host waits for.

    What is copied to the device waits with `non_blocking` too, as long as the host's memory is not pinned.
    """
    if name == "copy_":
        to, source = args[0].device.type, args[1]
        non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
    elif name == "_to_copy":
        source, non_blocking = args[0], kwargs.get("non_blocking", False)
        to = torch.device(kwargs.get("device") or source.device).type
    else:
        return False
    return to != source.device.type and not (non_blocking and (to == "cpu" or source.is_pinned()))
