"""The one file that knows of pmap: where arrays lie and how a step runs on every local device."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.models.layers import AXIS


def parallel(function: Callable[..., Any], *, donate_state: bool = False) -> Callable[..., Any]:
    """`function(state, batch)` on every device, with the axis that `psum` in it names."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=(0,) if donate_state else ())


def replicate(tree: Any) -> Any:
    """A copy of every leaf on each local device, along a new leading axis."""
    n = jax.local_device_count()
    return parallel(lambda leaf, _: leaf)(
        jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (n, *np.shape(leaf))), tree), np.zeros(n)
    )


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)


def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[B, ...] to [devices, B / devices, ...]."""
    n = jax.local_device_count()
    return {name: value.reshape(n, -1, *value.shape[1:]) for name, value in batch.items()}


def check_batch_size(batch_size: int) -> None:
    """Raise UserError if a batch does not divide over the devices."""
    n = jax.device_count()
    if batch_size < 1 or batch_size % n:
        raise UserError(f"train.batch_size={batch_size} does not divide over {n} devices: choose a multiple of {n}")
