"""Which implementation of an operator runs, and one warning where a faster one is lost."""

import contextlib
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor  # noqa: PLC2701

Implementation = Literal["cpu", "triton", "flash", "blocks", "chunks", "reference"]
"""`cpu`: compiled C++. `triton`: a GPU's kernels. `flash`: torch's flash
attention. `blocks`, `chunks`: torch's operations on parts of the input.
`reference`: the definition in plain torch."""

Function = TypeVar("Function", bound=Callable[..., Any])

_warned: set[tuple[str, str]] = set()


def constant_when_compiled(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, which sets the same mark but imports torch._dynamo.

    That takes as long as the import of torch itself, and every command would pay it, also those that compile nothing.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


def warn_once(operator: str, reason: str, cause: str | None = None) -> None:
    """A RuntimeWarning that `operator` takes a slower path, once in a process for each reason.

    With a `cause`, which can have slowed other operators already, once for that.
    """
    key = (operator, reason) if cause is None else ("", cause)
    if key not in _warned:
        _warned.add(key)
        warnings.warn(f"{operator}: {reason}", RuntimeWarning, stacklevel=3)


def is_fake(x: Tensor) -> bool:
    """Whether x has a shape alone and stands for a tensor of another device or run: nothing is lost that is not run."""
    return isinstance(x, FakeTensor)


_stands_for_gpu = False


@contextlib.contextmanager
def standing_for_gpu() -> Iterator[None]:
    """Inside, tensors that have a shape alone (fake, or of the device `meta`) stand for a GPU's, without one.

    Operators then take the forms that a GPU runs: to count its memory and its launches.
    """
    global _stands_for_gpu
    before, _stands_for_gpu = _stands_for_gpu, True
    try:
        yield
    finally:
        _stands_for_gpu = before


def device_kind(x: Tensor) -> str:
    """The kind of device that x is on, or stands for: `cpu`, `cuda`, `meta`."""
    return "cuda" if _stands_for_gpu and (x.is_meta or is_fake(x)) else x.device.type


def kernel_module(operator: str, device: str) -> ModuleType:
    """The module in this operator's folder whose `forward` and `backward` run on a kind of device."""
    return importlib.import_module(f"maha_model.kernels.{operator}.{'triton' if device == 'cuda' else 'cpu'}")


def on_its_gpu(function: Function) -> Function:
    """The function, called with the GPU of its first tensor as the current one: Triton launches there, nowhere else."""

    @functools.wraps(function)
    def guarded(first: Tensor | list[Tensor], *args: Any, **kwargs: Any) -> Any:
        like = first if isinstance(first, Tensor) else first[0]
        if like.device.type != "cuda" or is_fake(like):
            return function(first, *args, **kwargs)
        with torch.cuda.device_of(like):
            return function(first, *args, **kwargs)

    return cast(Function, guarded)


def native_is_off() -> bool:
    """Whether the user has switched compiled code for the CPU off: MAHA_NATIVE=0 in the environment."""
    return os.environ.get("MAHA_NATIVE") == "0"


@contextlib.contextmanager
def without_native_code() -> Iterator[None]:
    """Inside, compiled code for the CPU is switched off, as by the user: plain torch takes its place."""
    before = os.environ.get("MAHA_NATIVE")
    os.environ["MAHA_NATIVE"] = "0"
    try:
        yield
    finally:
        os.environ.pop("MAHA_NATIVE") if before is None else os.environ.update(MAHA_NATIVE=before)


def implementation_on_cpu(
    operator: str,
    dtype: torch.dtype,
    dtypes: Iterable[torch.dtype],
    compiled: object | None,
    otherwise: Implementation,
    warn: bool = True,
) -> Implementation:
    """`cpu` where there is compiled code, else `otherwise`, with a warning for a dtype that has none.

    A failed build has given its own warning, and switching compiled code off is the user's choice: neither warns here.
    """
    if compiled is not None:
        return "cpu"
    if warn and dtype not in dtypes and not native_is_off():
        names = ", ".join(str(each).removeprefix("torch.") for each in dtypes)
        name = str(dtype).removeprefix("torch.")
        warn_once(operator, f"{name} has no compiled code for the CPU, plain torch is slower; use one of {names}")
    return otherwise


def implementation_on_gpu(operator: str, otherwise: str, warn: bool = True) -> Implementation:
    """`triton` where the kernels in this operator's folder can be imported, else `reference`.

    Args:
        operator: name of the folder.
        otherwise: what the reference costs, for the warning.
        warn: whether to.
    """
    try:
        importlib.import_module(f"maha_model.kernels.{operator}.triton")
    except ImportError:
        if warn:
            warn_once(operator, f"Triton cannot be imported; {otherwise} (pip install triton)")
        return "reference"
    return "triton"
