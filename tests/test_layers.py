"""The layers are Flax's where Flax has them, and exact under masks and over devices where it has not."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusion_emotion.models.cpu_kernels import LSTM, Conv, PatchDense, convolution_kernel, max_pool
from fusion_emotion.models.layers import BatchNorm, dropout
from fusion_emotion.train.devices import AXIS

EVERY = np.ones(12, bool)
SOME = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0], bool)
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)

# Batch normalisation


def inputs(shape: tuple[int, ...]) -> np.ndarray:
    """Channels of unlike means and scales."""
    return (np.random.default_rng(0).normal(size=shape) * [0.1, 3, 20] + [5, 0, -40]).astype(np.float32)


def variables() -> dict[str, Any]:
    """Parameters and running statistics that are not the initial ones."""
    return {
        "params": {"scale": jnp.array([1.5, 0.5, -2]), "bias": jnp.array([0.0, 1, -3])},
        "batch_stats": {"mean": jnp.array([4.0, 1, -30]), "var": jnp.array([0.1, 5, 300])},
    }


@jax.jit
def normalised(x: np.ndarray, mask: np.ndarray) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training output and the running statistics after one step."""
    out, changed = BatchNorm().apply(variables(), x, mask=mask, train=True, mutable=["batch_stats"])
    return out, changed["batch_stats"]


@pytest.mark.parametrize("shape", [(12, 3), (12, 4, 5, 3)])
def test_batch_norm_is_flaxs_without_a_mask(shape: tuple[int, ...]) -> None:
    x = inputs(shape)
    # Both keep 0.9 of the old statistics; Flax's fast variance would lose digits here.
    flax = nn.BatchNorm(momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    train = jax.jit(functools.partial(flax.apply, use_running_average=False, mutable=["batch_stats"]))
    expected, changed = train(variables(), x)
    out, stats = normalised(x, EVERY)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, stats, changed["batch_stats"])
    expected = jax.jit(functools.partial(flax.apply, use_running_average=True))(variables(), x)
    for mask in (EVERY, SOME):  # which has no say outside training
        close(jax.jit(functools.partial(BatchNorm().apply, train=False))(variables(), x, mask=mask), expected)


@pytest.mark.parametrize("filling", [1e6, np.nan])
@pytest.mark.parametrize("mask", [SOME, np.arange(7) < np.arange(12)[:, None]], ids=["examples", "times"])
def test_masked_values_change_nothing(mask: np.ndarray, filling: float) -> None:
    x = inputs((12, 7, 3))
    x[~mask] = filling
    out, stats = normalised(x, mask)
    expected, expected_stats = normalised(x[mask], np.ones(len(x[mask]), bool))
    jax.tree.map(close, (out[mask], stats), (expected, expected_stats))


def test_bfloat16_stays_bfloat16_and_its_statistics_float32() -> None:
    x = inputs((12, 7, 3))
    out, stats = normalised(jnp.asarray(x, jnp.bfloat16), EVERY)
    expected, expected_stats = normalised(x, EVERY)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in stats.values()} == {"float32"}
    np.testing.assert_allclose(out[..., 1].astype(np.float32), expected[..., 1], atol=0.05)
    np.testing.assert_allclose(stats["mean"], expected_stats["mean"], rtol=1e-2)


def test_two_devices_are_one_and_a_batch_without_an_example_teaches_nothing() -> None:
    """Output, running statistics and gradients, wherever the mask is False; `vmap` stands for the devices."""
    x, target = inputs((8, 5, 3)), np.random.default_rng(1).normal(size=(8, 5, 3)).astype(np.float32)

    def step(x: jax.Array, target: jax.Array, mask: jax.Array, axis_name: str | None) -> Any:
        def loss(params: Any, x: jax.Array) -> Any:
            both = {**variables(), "params": params}
            net = BatchNorm(axis_name=axis_name)
            out, changed = net.apply(both, x, mask=mask, train=True, mutable=["batch_stats"])
            return jnp.where(mask[..., None], jnp.square(out - target), 0).sum(), (out, changed["batch_stats"])

        (to_params, to_x), (out, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables()["params"], x)
        return (out, to_x), (stats, to_params if axis_name is None else jax.lax.psum(to_params, axis_name))

    on_one = jax.jit(functools.partial(step, axis_name=None))
    on_two = jax.jit(jax.vmap(functools.partial(step, axis_name=AXIS), axis_name=AXIS))
    for lengths in ([5] * 8, [5, 5, 5, 5, 5, 0, 0, 0], [1, 0, 2, 3, 0, 5, 4, 5], [0, 0, 0, 0, 3, 2, 1, 0], [0] * 8):
        mask = np.arange(5) < np.array(lengths)[:, None]
        by_example, shared = on_one(x, target, mask)
        by_example2, shared2 = on_two(*(value.reshape(2, 4, *value.shape[1:]) for value in (x, target, mask)))
        jax.tree.map(lambda two, one: close(two.reshape(one.shape), one), by_example2, by_example)
        jax.tree.map(lambda two, one: close(two, jnp.stack([one, one])), shared2, shared)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((by_example, shared)))
    jax.tree.map(np.testing.assert_array_equal, shared[0], variables()["batch_stats"])


# Layers for XLA's CPU code


def outputs_and_gradients(function: Any, params: Any, x: jax.Array) -> Any:
    """Of a function of parameters and x; every output weighs, unlike the others."""

    def loss(params: Any, x: jax.Array) -> Any:
        out = function(params, x)
        return (out * np.random.default_rng(1).normal(size=out.shape)).sum(), out

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)


FEATURES = 4


def plain_lstm(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A loop over time; gates are input, forget, cell, output."""
    cell = hidden = jnp.zeros((len(x), FEATURES))
    states = []
    for time in range(x.shape[1]):
        gates = x[:, time] @ params["input"]["kernel"] + params["input"]["bias"] + hidden @ params["recurrent"]
        enter, forget, new, leave = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
        states.append(hidden)
    return jnp.stack(states, axis=1)


def test_lstm_is_a_plain_loop_over_time_and_its_backward_pass_the_loops_derivative() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    params = jax.jit(LSTM(FEATURES).init)(jax.random.key(0), x)["params"]
    ours = outputs_and_gradients(lambda params, x: LSTM(FEATURES).apply({"params": params}, x), params, x)
    jax.tree.map(functools.partial(close, atol=1e-5), ours, outputs_and_gradients(plain_lstm, params, x))
    # It starts orthogonal, with an open forget gate.
    for gate in np.split(np.asarray(params["recurrent"]), 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(FEATURES), atol=1e-5)
    np.testing.assert_array_equal(params["input"]["bias"], np.repeat([0, 1, 0, 0], FEATURES))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_patches_are_a_strided_convolution(stride: int) -> None:
    """Output and gradients of the plain form, which XLA's CPU code computes more slowly."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 12, 5)), jnp.float32)
    net = PatchDense(7, patch=4, stride=stride)
    params = jax.jit(net.init)(jax.random.key(0), x)["params"]

    def plain(params: Any, x: Any) -> Any:
        kernel = convolution_kernel(params["patches"]["kernel"], patch=4, stride=stride)
        form = {"padding": [(0, 4 - stride)] * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, **form) + params["patches"]["bias"]

    ours = outputs_and_gradients(lambda params, x: net.apply({"params": params}, x), params, x)
    jax.tree.map(close, ours, outputs_and_gradients(plain, params, x))


@pytest.mark.parametrize(("size", "use_bias"), [((7, 4), True), ((6, 6), False), ((1, 2), True)])
def test_a_convolution_and_its_derivatives_are_flaxs(size: tuple[int, int], use_bias: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 5)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(2, *size, 6)).astype(np.float32)
    flax = nn.Conv(6, (3, 3), use_bias=use_bias)
    parameters = jax.jit(flax.init)(jax.random.key(0), x)

    def loss(layer: nn.Module, parameters: Any, x: np.ndarray) -> jax.Array:
        return (weight * jnp.sin(layer.apply(parameters, x))).sum()

    ours = Conv(6, use_bias=use_bias)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(ours.init)(jax.random.key(0), x), parameters)
    expected, got = (
        jax.jit(jax.value_and_grad(functools.partial(loss, layer), argnums=(0, 1)))(parameters, x)
        for layer in (flax, ours)
    )
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 2), ("cuda", 3), ("tpu", 3)])
def test_only_on_cpus_is_the_gradient_of_a_kernel_a_product(platform: str, convolutions: int) -> None:
    x = jnp.ones((2, 6, 6, 5))
    parameters = Conv(6).init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: (Conv(6).apply(p, x) ** 2).sum(), argnums=(0, 1)))
    lowered = gradient.trace(parameters, x).lower(lowering_platforms=(platform,)).as_text()
    assert lowered.count("stablehlo.convolution(") == convolutions
    assert ("stablehlo.dot_general" in lowered) == (platform == "cpu")


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool_is_flaxs(size: tuple[int, int]) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *size, 5)), jnp.float32)
    flaxs = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    ours, expected = (outputs_and_gradients(lambda _, x, f=f: f(x), {}, x) for f in (max_pool, flaxs))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


# Dropout

dropped = jax.jit(dropout, static_argnames="rate")


def keys(n: int) -> jax.Array:
    return jax.random.split(jax.random.key(3), n)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_its_share_and_the_mean(rate: float) -> None:
    out = np.asarray(dropped(np.ones((100, 400), np.float32), rate, keys(100)))
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=1e-5)
    # Four standard errors of a mean of 40,000 draws
    assert abs(out.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / out.size)
    agreement = ((out[:8, None] > 0) == (out[None, :8] > 0)).mean(axis=-1)[~np.eye(8, dtype=bool)]
    assert (np.abs(agreement - rate**2 - (1 - rate) ** 2) < 0.15).all()


def test_dropout_of_an_example_depends_on_its_key_alone() -> None:
    x = np.random.default_rng(0).normal(size=(8, 400)).astype(np.float32)
    together = dropped(x, 0.5, keys(8))
    np.testing.assert_array_equal(dropped(x[::-1], 0.5, keys(8)[::-1])[::-1], together)
    np.testing.assert_array_equal(dropped(x[5:6], 0.5, keys(8)[5:6])[0], together[5])
    for rate, given in ((0.5, None), (0.0, keys(8))):
        np.testing.assert_array_equal(dropout(jnp.asarray(x), rate, given), x)
