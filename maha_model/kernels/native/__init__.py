"""Code in C++ for the CPU, compiled at first use (2 to 4 s with GCC) and kept: `library` gives it, ready to call.

What is compiled is specialised to this machine's processor and kept under `$MAHA_CACHE` or `~/.cache/maha`. Without a
compiler there is no library, one warning says so, and callers do the same in plain torch.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent.parent
_MACROS = {torch.float32: "MAHA_FLOAT", torch.float64: "MAHA_DOUBLE", torch.bfloat16: "MAHA_BFLOAT16"}
_COMPILE = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")


def library(source: str, dtype: torch.dtype, *macros: str) -> ctypes.CDLL | None:
    """The functions of `source` (a file of this folder) for an element type; None where they cannot be had.

    They exist for float32, float64 and bfloat16. MAHA_NATIVE=0 in the environment does without them.
    """
    if dtype not in _MACROS or os.environ.get("MAHA_NATIVE") == "0":
        return None
    return _load(source, _MACROS[dtype], *macros)


def members(description: str, array: int = 1) -> list[Any]:
    """ctypes fields of "type: names; ..." with the types int (64 bits), real (double), pointer; [] after it: arrays."""
    types = {"int": ctypes.c_int64, "real": ctypes.c_double, "pointer": ctypes.c_void_p}
    fields = []
    for line in description.split(";"):
        kind, names = line.split(":")
        of: Any = types[kind.strip().removesuffix("[]")]
        fields += [(name, of * array if "[]" in kind else of) for name in names.split()]
    return fields


@functools.cache
def _load(source: str, *macros: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_build(source, *macros)))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip().splitlines()[:1] if isinstance(error, subprocess.CalledProcessError) else error
        warnings.warn(
            f"{source} could not be compiled for the CPU ({reason}); plain torch operations take its place, several "
            "times slower. A C++ compiler (g++, or CXX) mends it.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _build(source: str, *macros: str) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise OSError("no C++ compiler")
    command = [compiler, *_COMPILE, *(f"-D{macro}" for macro in macros)]
    # Where torch has loaded an OpenMP runtime for all to see, ours are its threads: two runtimes would fight for cores.
    link = [compiler, "-shared", *([] if hasattr(ctypes.CDLL(None), "GOMP_parallel") else ["-fopenmp"])]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    text = b"".join(path.read_bytes() for path in (_FOLDER / "native" / "lanes.h", _FOLDER / source))
    key = hashlib.sha256("\0".join([*command, *link, version, _processor()]).encode() + text).hexdigest()[:24]
    folder = Path(os.environ.get("MAHA_CACHE") or Path.home() / ".cache" / "maha")
    built = folder / f"{Path(source).stem}-{key}.so"
    if built.exists():
        return built
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Every process builds in a folder of its own and the rename is atomic: no locks, nothing half-written.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled, linked = f"{scratch}/kernels.o", f"{scratch}/kernels.so"
        for step in ([*command, "-c", str(_FOLDER / source), "-o", compiled], [*link, compiled, "-o", linked]):
            subprocess.run(step, capture_output=True, text=True, check=True)
        os.replace(linked, built)
    return built


def _processor() -> str:
    """What -march=native depends on, so that machines of several kinds can share a home directory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
