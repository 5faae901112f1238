"""Two layers that Flax has in another form: exact under padding and over devices, and cheap in a scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

AXIS = "devices"


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over the valid examples of the global batch.

    Sums and counts, not means, are reduced over the devices, so that an example weighs the same wherever it lies and
    a missing or padded one weighs nothing; `flax.linen.BatchNorm` averages the devices' means.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest channels"], *, valid: Bool[Array, "batch"], train: bool
    ) -> Float[Array, "batch *rest channels"]:
        """Normalise every channel; `train` uses and updates the batch's statistics, else the running ones are used."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            weight = valid.reshape(-1, *(1,) * (x.ndim - 1))
            axes = tuple(range(x.ndim - 1))
            known = jnp.where(weight, x, 0).astype(jnp.float32)
            count = valid.sum() * (x[0].size // x.shape[-1])
            total, count = self._sum((known.sum(axes), count))
            batch_mean = total / jnp.maximum(count, 1)
            centred = jnp.where(weight, known - batch_mean, 0)
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


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates) over the whole of a sequence.

    The input's part of the gates is one matrix product over all times before the scan, which leaves the scan half the
    work; `flax.linen.RNN` does both inside.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time in"]) -> Float[Array, "batch time features"]:
        """The hidden state at every time, from a state of zeros."""

        def forget_one(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
            # A forget gate that starts open (Jozefowicz et al. 2015); the gates are input, forget, cell, output.
            return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)

        driven = nn.Dense(4 * self.features, bias_init=forget_one, dtype=x.dtype, name="input")(x)
        recurrent = self.param("recurrent", _orthogonal_gates, (self.features, 4 * self.features)).astype(x.dtype)

        def step(state: tuple[Array, Array], driven_now: Array) -> tuple[tuple[Array, Array], Array]:
            cell, hidden = state
            gates = driven_now + hidden @ recurrent
            enter, forget, new, leave = jnp.split(gates, 4, axis=-1)
            cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
            hidden = nn.sigmoid(leave) * jnp.tanh(cell)
            return (cell, hidden), hidden

        zero = jnp.zeros((x.shape[0], self.features), x.dtype)
        _, hidden = jax.lax.scan(step, (zero, zero), driven.swapaxes(0, 1))
        return hidden.swapaxes(0, 1)


def _orthogonal_gates(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "features gates"]:
    """An orthogonal matrix for each of the four gates."""
    features = shape[0]
    gate = nn.initializers.orthogonal()
    return jnp.concatenate([gate(k, (features, features)) for k in jax.random.split(key, 4)], axis=1)


def dropout(
    x: Float[Array, "batch features"], rate: float, keys: Key[Array, "batch"] | None
) -> Float[Array, "batch features"]:
    """Dropout with a key for each example, so that it does not depend on the number of devices; none without keys."""
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)
