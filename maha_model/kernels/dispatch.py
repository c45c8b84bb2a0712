"""Which implementation of an operator runs, and one warning where a faster one is lost."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor  # noqa: PLC2701

Implementation = Literal["cpu", "triton", "blocks", "chunks", "reference"]
"""`cpu`: compiled C++. `triton`: a GPU's kernels. `blocks`, `chunks`: torch's operations on parts of the input.
`reference`: the definition in plain torch."""

_warned: set[tuple[str, str]] = set()


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
