"""The one file that knows of pmap: where arrays lie and how a step runs on every device of every process."""

import ctypes
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.models.layers import AXIS

# Of glibc's malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def leads() -> bool:
    """Whether this is the process that writes: the first, or the only one."""
    return jax.process_index() == 0


def parallel(function: Callable[..., Any], *, donate_state: bool = False) -> Callable[..., Any]:
    """`function(state, ...)` on every device, with the axis that `psum` in it names."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=(0,) if donate_state else ())


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """A `parallel` function for arguments of these shapes and no others, and the seconds its compilation took."""
    began = time.perf_counter()
    ready = function.lower(*arguments).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - began
    # Of several processes each passes its own share of the arguments, which only pmap itself puts together.
    return (ready if jax.process_count() == 1 else function), seconds


def keep_memory() -> None:
    """Keep what this process has freed for what it asks for next; to be called before JAX starts its threads.

    By default glibc gives the large arrays of every step back to the system, which hands out each page anew, and
    zeroed, in the next: a quarter of a step's time on a CPU (docs/speed.md).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            libc.mallopt(parameter, value)


def keep_compiled(folder: pathlib.Path) -> None:
    """Keep compiled functions in `folder`: the same function is then compiled once and not once a run."""
    jax.config.update("jax_compilation_cache_dir", str(folder.expanduser().absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def replicate(tree: Any) -> Any:
    """A copy of every leaf on each local device, along a new leading axis."""
    n = jax.local_device_count()
    return parallel(lambda leaf, _: leaf)(
        jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (n, *np.shape(leaf))), tree), np.zeros(n)
    )


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)


def any_process(said: bool) -> bool:
    """Whether some process says so; every process must ask at the same point."""
    if jax.process_count() == 1:
        return said
    counted = parallel(_sum_over_devices)(np.full(jax.local_device_count(), int(said)))
    return bool(np.asarray(counted.addressable_data(0))[0])


# A function of its own, so that it is compiled once.
def _sum_over_devices(flags: jax.Array) -> jax.Array:
    return jax.lax.psum(flags, AXIS)


def share(batch_size: int) -> slice:
    """The part of a global batch that this process takes."""
    size = batch_size // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A process's part of a batch, [B, ...], to [local devices, B / local devices, ...]."""
    n = jax.local_device_count()
    return {name: value.reshape(n, -1, *value.shape[1:]) for name, value in batch.items()}


def check_batch_size(batch_size: int) -> None:
    """Raise UserError if a batch does not divide over the devices."""
    n = jax.device_count()
    if batch_size < 1 or batch_size % n:
        raise UserError(f"train.batch_size={batch_size} does not divide over {n} devices: choose a multiple of {n}")
