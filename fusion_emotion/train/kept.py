"""What a process keeps for later: memory that is freed, and functions that are compiled."""

import ctypes
import pathlib
import platform

import jax

# From glibc's malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
    """Keep freed memory for the next allocation; to be called before JAX starts its threads.

    By default glibc returns the large arrays of every step to the system, which zeroes each page again in the next
    step: a quarter of a step's time on a CPU (docs/speed.md). It changes the whole process: not for a library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            libc.mallopt(parameter, value)


def keep_compiled(folder: pathlib.Path) -> None:
    """Cache compiled functions in `folder`, for later runs."""
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
