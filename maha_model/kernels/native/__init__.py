"""Operators in C++ for the CPU, compiled at first use by torch.utils.cpp_extension (2 to 5 s with GCC) and kept.

`extension` gives those of one source, specialised to an element type. What is compiled is for this machine's processor
and kept under `$MAHA_CACHE` or `~/.cache/maha`; without a compiler one warning names what is lost.
"""

from maha_model.kernels.native.build import cache_folder
from maha_model.kernels.native.extension import DTYPES, Extension, extension

__all__ = ["DTYPES", "Extension", "cache_folder", "extension"]
