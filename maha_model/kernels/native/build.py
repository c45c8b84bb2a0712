"""Building a C++ source by torch.utils.cpp_extension, in a folder of its own, by one process at a time."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

_FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fopenmp"]
_KERNELS = Path(__file__).parent.parent


class BuildError(Exception):
    """A library could not be built: `mend` is what the user can do, `cause` what other libraries may fail of too."""

    def __init__(
        self,
        message: str,
        mend: str = "A C++ compiler (g++, or one program in CXX) mends it.",
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.mend, self.cause = mend, cause or mend


def cache_folder() -> Path:
    """Where built libraries are kept: `$MAHA_CACHE` or `~/.cache/maha`."""
    return Path(os.environ.get("MAHA_CACHE") or Path.home() / ".cache" / "maha")


def build_and_load(name: str, source: Path, macros: list[str]) -> None:
    """Register the operators of `source` with torch; built first unless the cache has it, whatever checkout built it.

    A folder gets its name when it is whole, so that what has that name needs no check and may be shared read-only.

    Raises:
        BuildError: without a compiler or ninja, if compilation fails, or if the cache cannot be written.
    """
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler) is None:  # cpp_extension runs it as one program, without arguments
        raise BuildError(f"no C++ compiler {compiler!r}")
    flags = [*_FLAGS, *(f"-D{macro}" for macro in macros)]
    # Where the symbols of torch's OpenMP runtime are global, its threads serve: two runtimes would compete for cores.
    link = [] if hasattr(ctypes.CDLL(None), "GOMP_parallel") else ["-fopenmp"]
    folder = cache_folder() / f"{name}-{_key(source, [compiler, *flags, *link])}"
    built, unfinished = folder / f"{name}.so", folder.with_name(f"{folder.name}.unfinished")
    try:
        if built.exists():
            torch.ops.load_library(built)
            return
        cpp_extension = _cpp_extension()
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone_in(unfinished):
            if built.exists():  # by another process meanwhile
                torch.ops.load_library(built)
                return
            # What a killed build left: half a library, and cpp_extension's own lock, which every later one waits on.
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            cpp_extension.load(
                name, [str(source)], build_directory=str(unfinished), extra_cflags=flags, extra_ldflags=link,
                is_python_module=False,
            )  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)  # there, but without the library, which someone has removed
            unfinished.rename(folder)
    except OSError as error:
        raise BuildError(str(error), "A writable MAHA_CACHE, a folder for what is compiled, mends it.") from error
    except subprocess.SubprocessError as error:  # of the compiler's --version
        raise BuildError(str(error)) from error
    except RuntimeError as error:  # the compiler's messages are its further lines
        lines = str(error).splitlines()
        message = next((line.strip() for line in lines if "error:" in line), lines[0])
        raise BuildError(message, cause=source.name) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when a process ends; cpp_extension's is a mere file."""
    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cpp_extension():  # type: ignore[no-untyped-def]
    """torch's module, with ninja on the PATH where it is installed as a Python package only."""
    try:
        from torch.utils import cpp_extension
    except ImportError as error:  # of setuptools
        raise BuildError(str(error), "pip install setuptools mends it.") from error
    if shutil.which("ninja") is None:
        try:
            import ninja
        except ImportError as error:
            raise BuildError("no ninja", "pip install ninja mends it.") from error
        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", os.defpath)])
    return cpp_extension


def _key(source: Path, command: list[str]) -> str:
    """A hash of all that a library depends on, so that machines of several kinds can share a home directory."""
    text = b"".join(path.read_bytes() for path in (source, *sorted(_KERNELS.rglob("*.h"))))
    parts = [*command, torch.__version__, _processor()]
    return hashlib.sha256("\0".join(parts).encode() + text).hexdigest()[:24]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
