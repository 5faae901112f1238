"""Layers written for XLA's CPU code: the same functions as Flax's, cheaper to compute or to differentiate."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key


class PatchDense(nn.Module):
    """Square patches, one every `stride` pixels, to channels: a strided convolution as one matrix product.

    XLA's CPU convolutions of few channels are many times slower. The picture is padded with zeros below and to the
    right, as far as the last patches reach.
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
        # Cut blocks of a stride's size, then join n x n of them: faster than strided slices of pixels.
        x = x.reshape(batch, rows, s, columns, s, channels).swapaxes(2, 3).reshape(batch, rows, columns, -1)
        x = jnp.pad(x, ((0, 0), (0, n - 1), (0, n - 1), (0, 0)))
        x = jnp.concatenate([x[:, i : i + rows, j : j + columns] for i in range(n) for j in range(n)], axis=-1)
        y = nn.Dense(self.features, dtype=self.dtype, name="patches")(x.reshape(batch * rows * columns, -1))
        # Without the barrier and the flat rows, XLA's CPU code copies the gradient of `y` transposed before the product
        # that gives the kernel's gradient.
        y = jax.lax.optimization_barrier(y)
        return y.reshape(batch, rows, columns, self.features)


def convolution_kernel(
    patches: Float[Array, "in features"], *, patch: int, stride: int
) -> Float[Array, "patch patch channels features"]:
    """Convert the kernel of a `PatchDense` to that of the equal convolution."""
    n, channels = patch // stride, len(patches) // patch**2
    blocks = patches.reshape(n, n, stride, stride, channels, -1)
    return blocks.swapaxes(1, 2).reshape(patch, patch, channels, -1)


class Conv(nn.Module):
    """A 3x3 convolution of stride 1, padded with zeros to the same size; cheaper to differentiate than Flax's."""

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch H W in"]) -> Float[Array, "batch H W features"]:
        """The maps of the next layer."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        y = _convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


Maps = Float[Array, "batch H W in"]
Kernel = Float[Array, "3 3 in features"]


def _plain_convolve(x: Maps, kernel: Kernel) -> Float[Array, "batch H W features"]:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _convolve(x: Maps, kernel: Kernel) -> Float[Array, "batch H W features"]:
    """The convolution; on CPUs the gradient of its kernel is one matrix product.

    XLA's CPU code makes that gradient a convolution with a window of the whole picture, which is half as fast. Other
    backends keep their own.
    """
    return _plain_convolve(x, kernel)


def _convolve_backward(saved: tuple[Maps, Kernel], d_y: Float[Array, "batch H W features"]) -> tuple[Array, Array]:
    x, kernel = saved
    (d_x,) = jax.vjp(lambda x: _plain_convolve(x, kernel), x)[1](d_y)
    d_kernel = jax.lax.platform_dependent(x, d_y, cpu=_kernel_gradient, default=_plain_kernel_gradient)
    return d_x, d_kernel


_convolve.defvjp(lambda x, kernel: (_plain_convolve(x, kernel), (x, kernel)), _convolve_backward)


def _plain_kernel_gradient(x: Maps, d_y: Float[Array, "batch H W features"]) -> Kernel:
    kernel = jnp.zeros((3, 3, x.shape[-1], d_y.shape[-1]), x.dtype)
    (d_kernel,) = jax.vjp(lambda kernel: _plain_convolve(x, kernel), kernel)[1](d_y)
    return d_kernel


def _kernel_gradient(x: Maps, d_y: Float[Array, "batch H W features"]) -> Kernel:
    """Multiply `x`, shifted to each of the kernel's rows, with `d_y`, shifted to each of its columns."""
    _, height, width, channels = x.shape
    features = d_y.shape[-1]
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    d_y = jnp.pad(d_y, ((0, 0), (0, 0), (1, 1), (0, 0)))
    rows = jnp.concatenate([x[:, i : i + height] for i in range(3)], axis=-1)
    columns = jnp.concatenate([d_y[:, :, 2 - j : 2 - j + width] for j in range(3)], axis=-1)
    product = rows.reshape(-1, 3 * channels).T @ columns.reshape(-1, 3 * features)
    return product.reshape(3, channels, 3, features).swapaxes(1, 2)


def max_pool(x: Float[Array, "batch H W features"]) -> Float[Array, "batch rows columns features"]:
    """Max pooling over 2x2 blocks; a last odd row or column is left out.

    The backward pass of `flax.linen.max_pool` is a scatter, four to ten times as slow in XLA's CPU code.
    """
    batch, height, width, features = x.shape
    rows, columns = height // 2, width // 2
    x = x[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2 * features)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[..., :features], x[..., features:])


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates) over a sequence.

    The input's part of the gates is one matrix product over all times, before the scan; `flax.linen.RNN` computes it
    inside the scan. The LSTM is causal: padding at the end changes no earlier state.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time in"]) -> Float[Array, "batch time features"]:
        """The hidden state at every time; the first state is zero."""

        def forget_one(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
            # The forget gate starts open (Jozefowicz et al. 2015); the gates are input, forget, cell, output.
            return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)

        driven = nn.Dense(4 * self.features, bias_init=forget_one, dtype=x.dtype, name="input")(x)
        recurrent = self.param("recurrent", _orthogonal_gates, (self.features, 4 * self.features)).astype(x.dtype)

        return _recur(driven.swapaxes(0, 1), recurrent).swapaxes(0, 1)


Gates = Float[Array, "time batch gates"]
Hidden = Float[Array, "time batch features"]


@jax.custom_vjp
def _recur(driven: Gates, recurrent: Float[Array, "features gates"]) -> Hidden:
    """The hidden states of an LSTM; `driven` is the input's part of the gates.

    The backward pass is written out: the gradient of `recurrent` is one matrix product over all times. Differentiating
    the scan would add one small product a time step (15 to 40 ms of a 254 ms step on two cores).
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
    """Shift by one time step; zeros before the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # Equal to jax.nn.sigmoid; XLA's CPU code vectorises this form.
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


def _orthogonal_gates(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "features gates"]:
    """An orthogonal matrix for each of the four gates."""
    features = shape[0]
    gate = nn.initializers.orthogonal()
    return jnp.concatenate([gate(k, (features, features)) for k in jax.random.split(key, 4)], axis=1)
