"""The one file that knows of pmap: how arrays are placed, and how a function runs on every device of every process."""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.input import resident
from fusion_emotion.input.augment import Augmentation, check_pairs
from fusion_emotion.input.batches import Source
from fusion_emotion.models.batch import Batch, batch_spec

AXIS = "devices"

_STEP_BYTES = 10  # least memory of a training step per byte of its batch; measured: 11 with sound alone, 39 with both


def is_main_process() -> bool:
    """True in the process that writes: the first, or the only one."""
    return jax.process_index() == 0


def pmapped(function: Callable[..., Any], *, donate_state: bool = False) -> Callable[..., Any]:
    """Map `function(state, ...)` over all devices."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=(0,) if donate_state else ())


def compile_for(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """Compile a `pmapped` function for arguments of these shapes; return it and the seconds it took.

    Raises UserError if it takes more memory than there is.
    """
    began = time.perf_counter()
    ready = function.lower(*arguments).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - began
    _check_memory(ready.memory_analysis().temp_size_in_bytes, "a batch")
    # With several processes each passes its own part of the arguments, which only pmap itself puts together.
    return (ready if jax.process_count() == 1 else function), seconds


def summed(tree: Any) -> Any:
    """Sum over all devices, inside a `pmapped` function."""
    return jax.lax.psum(tree, AXIS)


def example_keys(seed: int, step: jax.Array, n: int) -> jax.Array:
    """A key for each of a device's `n` examples, inside a `pmapped` function.

    It is a function of the seed, the step and the place in the global batch, not of the number of devices.
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    place = jax.lax.axis_index(AXIS) * n + jnp.arange(n)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(place)


def replicate(tree: Any) -> Any:
    """Copy every leaf to each local device, along a new leading axis."""
    n = jax.local_device_count()
    return pmapped(lambda leaf, _: leaf)(
        jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (n, *np.shape(leaf))), tree), np.zeros(n)
    )


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)


def resident_copy(source: Source, *, face_size: int, max_gb: float) -> Any:
    """A source's records on each device, or None if they take more than `max_gb`: they are then read batch by batch."""
    if not resident.fits(source.segments.rows, face_size=face_size, max_gb=max_gb) or not len(source.segments):
        return None
    return replicate(resident.load(source))


def any_process(flag: bool) -> bool:
    """True if the flag is set in some process; every process must ask at the same point."""
    if jax.process_count() == 1:
        return flag
    counted = pmapped(summed)(np.full(jax.local_device_count(), int(flag)))
    return bool(np.asarray(counted.addressable_data(0))[0])


def local_slice(batch_size: int) -> slice:
    """The slice of a global batch that this process takes."""
    size = batch_size // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def shard(batch: Batch) -> Batch:
    """Split a process's part of a batch over its devices: [B, ...] to [local devices, B / local devices, ...]."""
    n = jax.local_device_count()
    return {name: value.reshape(n, -1, *value.shape[1:]) for name, value in batch.items()}


def check_batch_size(config: Mapping[str, Any]) -> None:
    """Raise UserError if a batch does not divide over the devices, or does not fit one, or mixup cannot pair it."""
    batch_size, n = config["train"]["batch_size"], jax.device_count()
    if batch_size < 1 or batch_size % n:
        raise UserError(f"train.batch_size={batch_size} does not divide over {n} devices: choose a multiple of {n}")
    check_pairs(Augmentation.from_config(config), batch_size // n)
    spec = batch_spec(config, batch_size=batch_size // n)
    n_bytes = sum(math.prod(field.shape) * field.dtype.itemsize for field in spec.values())
    _check_memory(_STEP_BYTES * n_bytes, f"train.batch_size={batch_size}")


def _check_memory(needed: int, what: str) -> None:
    """Raise UserError if every device of this process cannot have `needed` bytes at once.

    A computer without enough memory would kill the process and say nothing.
    """
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if not limit:  # a CPU: the devices share the memory of the computer
        needed *= jax.local_device_count()
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > limit:
        raise UserError(
            f"{what} takes at least {needed / 1e9:.0f} GB of memory, and there are {limit / 1e9:.0f}: "
            "lower --config.train.batch_size, segment.seconds or prepare.face_size, in a new --workdir"
        )


def text() -> str:
    """A line that names the devices."""
    processes = f", in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"devices    {jax.device_count()} x {jax.devices()[0].device_kind}{processes}"
