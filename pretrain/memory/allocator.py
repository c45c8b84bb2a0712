"""The C library's allocator, set for tensors that come and go with every step."""

import ctypes


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees instead of giving it back to the system. No effect without glibc.

    glibc returns blocks of 32 MiB and more at once, and every step would fault all of them in again, page by page: at
    long contexts that is a third of a step's time on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # the names' values in malloc.h
        mallopt(trim_threshold, ctypes.c_int(-1))
        mallopt(mmap_max, 0)
