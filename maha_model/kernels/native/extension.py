"""Loaded extensions: the operators of one C++ source for one element type, and the constants it shares with Python."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maha_model.kernels.dispatch import native_is_off, warn_once
from maha_model.kernels.native.build import BuildError, build_and_load

DTYPES = {torch.float32: "FLOAT", torch.float64: "DOUBLE", torch.bfloat16: "BFLOAT16"}
"""Element types that there are operators for, and their macros (MAHA_...)."""


@dataclass(frozen=True)
class Extension:
    """A loaded source. Its operators are `torch.ops.maha_cpu.<name>_<suffix>`."""

    suffix: str

    def operator(self, name: str) -> Callable[..., Any]:
        """The operator `name` of this specialisation."""
        return getattr(torch.ops.maha_cpu, f"{name}_{self.suffix}").default


def extension(
    source: Path,
    dtype: torch.dtype,
    scales: int | None = None,
    constants: Callable[[], tuple[float, ...]] | None = None,
) -> Extension | None:
    """The operators of a C++ source for an element type, built if need be.

    Args:
        source: the .cpp file.
        dtype: one of `DTYPES`.
        scales: number L of scales that the source is compiled for (MAHA_SCALES), if it depends on that.
        constants: gives what the operator `<stem>_constants` must return: the sizes and codes of both languages.

    Returns:
        None where the user has switched compiled code off, for another dtype, and where building failed, which is
        reported by one RuntimeWarning.

    Raises:
        RuntimeError: if the library's constants are not those given.
    """
    if dtype not in DTYPES or native_is_off():
        return None
    return _load(source, dtype, scales, constants)


@functools.cache
def _load(
    source: Path, dtype: torch.dtype, scales: int | None, constants: Callable[[], tuple[float, ...]] | None
) -> Extension | None:
    suffix = str(dtype).removeprefix("torch.") + ("" if scales is None else f"_L{scales}")
    macros = [f"MAHA_{DTYPES[dtype]}", f"MAHA_SUFFIX={suffix}"] + ([] if scales is None else [f"MAHA_SCALES={scales}"])
    try:
        build_and_load(f"{source.stem}_{suffix}", source, macros)
    except BuildError as error:
        warn_once(
            source.stem,
            f"the C++ code could not be compiled for the CPU ({error}); plain torch operations take its place, several "
            f"times slower. {error.mend}",
            cause=error.cause,
        )
        return None
    loaded = Extension(suffix)
    if constants is not None:
        _check_constants(source.stem, loaded, constants())
    return loaded


def _check_constants(name: str, loaded: Extension, expected: tuple[float, ...]) -> None:
    found = loaded.operator(f"{name}_constants")()
    if len(found) != len(expected) or not all(map(functools.partial(math.isclose, rel_tol=1e-6), found, expected)):
        raise RuntimeError(f"{name}.cpp and its Python code have other constants: {found} and {list(expected)}")
