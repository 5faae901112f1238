"""Layers that are exact under masks and over devices, which Flax's own are not under pmap."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over the unmasked part of the global batch.

    Sums and counts are reduced over the devices, so an example weighs the same on every device and a masked one weighs
    nothing. `flax.linen.BatchNorm` averages the means of the devices, which is wrong where their masks differ.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest channels"], *, mask: Bool[Array, "batch *time"], train: bool
    ) -> Float[Array, "batch *rest channels"]:
        """Normalise every channel; `train` uses and updates the batch's statistics, else the running ones are used.

        `mask` is over the first axes of `x`: those that are False do not count in the statistics.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            weight = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
            axes = tuple(range(x.ndim - 1))
            known = jnp.where(weight, x, 0).astype(jnp.float32)
            count = mask.sum() * math.prod(x.shape[mask.ndim : -1])
            total, count = self._sum((known.sum(axes), count))
            batch_mean = total / jnp.maximum(count, 1)
            centred = (known - batch_mean) * weight
            batch_var = self._sum(jnp.square(centred).sum(axes)) / jnp.maximum(count, 1)
            if not self.is_initializing():
                keep = jnp.where(count > 0, self.momentum, 1.0)
                mean.value = keep * mean.value + (1 - keep) * batch_mean
                var.value = keep * var.value + (1 - keep) * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        factor = scale * jax.lax.rsqrt(batch_var + self.epsilon)
        return ((x - batch_mean) * factor + bias).astype(x.dtype)

    def _sum(self, tree):  # type: ignore[no-untyped-def]
        if self.axis_name is None or self.is_initializing():
            return tree
        return jax.lax.psum(tree, self.axis_name)


class Tap(nn.Module):
    """A named identity: `analyse.saliency` reads its input and differentiates with respect to it."""

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`x` itself."""
        return x


def dropout(
    x: Float[Array, "batch features"], rate: float, keys: Key[Array, "batch"] | None
) -> Float[Array, "batch features"]:
    """Dropout with a key for each example, so that it does not depend on the number of devices; none without keys."""
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)
