"""Layers that Flax has in another form: exact under padding and over devices, and cheap to differentiate."""

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


class Tap(nn.Module):
    """A named place that changes nothing: what passes there is read, and differentiated, by `evaluate.saliency`."""

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`x` itself."""
        return x


class PatchDense(nn.Module):
    """Square patches, one every `stride` pixels, to channels: a strided convolution as one matrix product.

    XLA's CPU convolutions of few channels are many times slower. Zeros stand below and to the right of the picture, as
    far as the last patches reach over it.
    """

    features: int
    patch: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch H W in"]) -> Float[Array, "batch rows columns features"]:
        """A dense layer over each patch; H, W and `patch` are multiples of `stride`."""
        batch, height, width, channels = x.shape
        s, n = self.stride, self.patch // self.stride
        rows, columns = height // s, width // s
        # Blocks of a stride's size, and then n x n of these side by side: strided slices of pixels take longer.
        x = x.reshape(batch, rows, s, columns, s, channels).swapaxes(2, 3).reshape(batch, rows, columns, -1)
        x = jnp.pad(x, ((0, 0), (0, n - 1), (0, n - 1), (0, 0)))
        x = jnp.concatenate([x[:, i : i + rows, j : j + columns] for i in range(n) for j in range(n)], axis=-1)
        y = nn.Dense(self.features, dtype=self.dtype, name="patches")(x.reshape(batch * rows * columns, -1))
        # The barrier, and two axes instead of four: without them XLA's CPU code writes the gradient of `y` once more,
        # transposed, before the product that makes the kernel's.
        y = jax.lax.optimization_barrier(y)
        return y.reshape(batch, rows, columns, self.features)


def convolution_kernel(
    patches: Float[Array, "in features"], *, patch: int, stride: int
) -> Float[Array, "patch patch channels features"]:
    """The kernel of the convolution that a `PatchDense` with this one is."""
    n, channels = patch // stride, len(patches) // patch**2
    blocks = patches.reshape(n, n, stride, stride, channels, -1)
    return blocks.swapaxes(1, 2).reshape(patch, patch, channels, -1)


def max_pool(x: Float[Array, "batch H W features"]) -> Float[Array, "batch rows columns features"]:
    """The largest of each 2x2 block; a last odd row or column is left out.

    `flax.linen.max_pool` without its backward pass, a scatter that XLA's CPU code does four to ten times as slowly.
    """
    batch, height, width, features = x.shape
    rows, columns = height // 2, width // 2
    x = x[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2 * features)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[..., :features], x[..., features:])


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

        return _recur(driven.swapaxes(0, 1), recurrent).swapaxes(0, 1)


Gates = Float[Array, "time batch gates"]
Hidden = Float[Array, "time batch features"]


@jax.custom_vjp
def _recur(driven: Gates, recurrent: Float[Array, "features gates"]) -> Hidden:
    """The hidden states of an LSTM whose gates get `driven` from its input and the rest from its own past.

    Its backward pass is written out: the gradient of `recurrent` is one matrix product over all times, where
    differentiating the scan adds one small product a time step.
    """
    return _recur_forward(driven, recurrent)[0]


def _recur_forward(driven: Gates, recurrent: Float[Array, "features gates"]) -> tuple[Hidden, tuple[Array, ...]]:
    def step(state: tuple[Array, Array], driven_now: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        cell, hidden = state
        enter, forget, new, leave = jnp.split(driven_now + hidden @ recurrent, 4, axis=-1)
        enter, forget, new, leave = _sigmoid(enter), _sigmoid(forget), jnp.tanh(new), _sigmoid(leave)
        cell = forget * cell + enter * new
        hidden = leave * jnp.tanh(cell)
        return (cell, hidden), (hidden, cell, jnp.concatenate([enter, forget, new, leave], axis=-1))

    zero = jnp.zeros((driven.shape[1], recurrent.shape[0]), driven.dtype)
    _, (hidden, cell, gates) = jax.lax.scan(step, (zero, zero), driven)
    return hidden, (hidden, cell, gates, recurrent)


def _recur_backward(saved: tuple[Array, ...], d_hidden: Hidden) -> tuple[Array, Array]:
    hidden, cell, gates, recurrent = saved

    def step(state: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        d_cell, d_hidden = state
        d_hidden_out, cell, cell_before, gates = now
        enter, forget, new, leave = jnp.split(gates, 4, axis=-1)
        d_hidden = d_hidden + d_hidden_out
        out = jnp.tanh(cell)
        d_cell = d_cell + d_hidden * leave * (1 - out * out)
        d_driven = jnp.concatenate(
            [
                d_cell * new * enter * (1 - enter),
                d_cell * cell_before * forget * (1 - forget),
                d_cell * enter * (1 - new * new),
                d_hidden * out * leave * (1 - leave),
            ],
            axis=-1,
        )
        return (d_cell * forget, d_driven @ recurrent.T), d_driven

    zero = jnp.zeros_like(cell[0])
    _, d_driven = jax.lax.scan(step, (zero, zero), (d_hidden, cell, _before(cell), gates), reverse=True)
    features = recurrent.shape[0]
    return d_driven, _before(hidden).reshape(-1, features).T @ d_driven.reshape(-1, 4 * features)


_recur.defvjp(_recur_forward, _recur_backward)


def _before(x: Float[Array, "time *rest"]) -> Float[Array, "time *rest"]:
    """The state of the time before each time, zeros before the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # The same function as jax.nn.sigmoid, in the form that XLA's CPU code vectorises.
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


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
