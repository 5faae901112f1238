"""The layers are Flax's where Flax has them, and exact under padding and over devices where it has not."""

import functools
import os
import pathlib
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusion_emotion.models.layers import LSTM, BatchNorm, PatchDense, convolution_kernel, dropout, max_pool

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPES = [(12, 3), (12, 7, 3), (12, 4, 5, 3)]


def inputs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Channels of unlike means and scales."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * [0.1, 3, 20] + [5, 0, -40]).astype(np.float32)


def variables() -> dict[str, Any]:
    """Parameters and running statistics that are not the initial ones."""
    return {
        "params": {"scale": jnp.array([1.5, 0.5, -2]), "bias": jnp.array([0.0, 1, -3])},
        "batch_stats": {"mean": jnp.array([4.0, 1, -30]), "var": jnp.array([0.1, 5, 300])},
    }


@jax.jit
def normalised(x: np.ndarray, valid: np.ndarray) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training output and the running statistics after one step."""
    out, changed = BatchNorm().apply(variables(), x, valid=valid, train=True, mutable=["batch_stats"])
    return out, changed["batch_stats"]


@jax.jit
def at_rest(x: np.ndarray, valid: np.ndarray) -> Any:
    """The output outside training."""
    return BatchNorm().apply(variables(), x, valid=valid, train=False)


EVERY = np.ones(12, bool)
SOME = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0], bool)

# Batch normalisation


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_is_flaxs_where_all_are_valid(shape: tuple[int, ...]) -> None:
    x = inputs(shape)
    # Both keep 0.9 of the old statistics; Flax's fast variance would lose digits here.
    flax = nn.BatchNorm(momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    train = jax.jit(functools.partial(flax.apply, use_running_average=False, mutable=["batch_stats"]))
    expected, changed = train(variables(), x)
    out, stats = normalised(x, EVERY)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], changed["batch_stats"][name], rtol=1e-5)
    expected = jax.jit(functools.partial(flax.apply, use_running_average=True))(variables(), x)
    np.testing.assert_allclose(at_rest(x, EVERY), expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_starts_as_flaxs() -> None:
    x = inputs(SHAPES[0])
    ours = jax.jit(functools.partial(BatchNorm().init, train=True))(jax.random.key(0), x, valid=EVERY)
    theirs = jax.jit(nn.BatchNorm(use_running_average=False).init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filling", [0.0, 1e6, np.nan])
def test_invalid_rows_change_nothing(shape: tuple[int, ...], filling: float) -> None:
    x = inputs(shape)
    x[~SOME] = filling
    out, stats = normalised(x, SOME)
    expected, expected_stats = normalised(x[SOME], EVERY[: SOME.sum()])
    np.testing.assert_allclose(out[SOME], expected, rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], expected_stats[name], rtol=1e-5)


def test_validity_does_not_matter_outside_training() -> None:
    x = inputs(SHAPES[1])
    np.testing.assert_array_equal(at_rest(x, SOME), at_rest(x, EVERY))


def test_a_batch_without_a_valid_row_stays_finite_and_teaches_nothing() -> None:
    def loss(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        both = {**variables(), "params": params}
        out, _ = BatchNorm().apply(both, x, valid=jnp.zeros(12, bool), train=True, mutable=["batch_stats"])
        return jnp.square(out).sum()

    x = inputs(SHAPES[1])
    out, stats = normalised(x, np.zeros(12, bool))
    assert np.isfinite(out).all()
    jax.tree.map(np.testing.assert_array_equal, stats, variables()["batch_stats"])
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables()["params"], x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_constant_channel_stays_finite() -> None:
    out, _ = normalised(np.full((12, 3), 10.0, np.float32), EVERY)
    np.testing.assert_allclose(out, np.broadcast_to(variables()["params"]["bias"], (12, 3)), atol=1e-3)


def test_bfloat16_stays_bfloat16_and_its_statistics_float32() -> None:
    x = inputs(SHAPES[1])
    out, stats = normalised(jnp.asarray(x, jnp.bfloat16), EVERY)
    expected, expected_stats = normalised(x, EVERY)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in stats.values()} == {"float32"}
    np.testing.assert_allclose(out[..., 1].astype(np.float32), expected[..., 1], atol=0.05)
    np.testing.assert_allclose(stats["mean"], expected_stats["mean"], rtol=1e-2)


TWO_DEVICES = """
import jax, numpy as np, jax.numpy as jnp
from fusion_emotion.models.layers import AXIS, BatchNorm

assert jax.local_device_count() == 2
rng = np.random.default_rng(0)
x = rng.normal(3, 2, (8, 5, 3)).astype(np.float32)
target = rng.normal(size=x.shape).astype(np.float32)
variables = {
    "params": {"scale": np.array([1.5, 0.5, -2], np.float32), "bias": np.array([0, 1, -3], np.float32)},
    "batch_stats": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)},
}

def step(axis_name, x, target, valid):
    def loss(params, x):
        out, changed = BatchNorm(axis_name=axis_name).apply(
            {**variables, "params": params}, x, valid=valid, train=True, mutable=["batch_stats"]
        )
        return jnp.where(valid[:, None, None], jnp.square(out - target), 0).sum(), (out, changed["batch_stats"])

    (to_params, to_x), (out, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
    if axis_name is not None:
        to_params = jax.lax.psum(to_params, axis_name)
    return out, to_x, stats, to_params

def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)

on_one = jax.jit(lambda *inputs: step(None, *inputs))
on_two = jax.pmap(lambda *inputs: step(AXIS, *inputs), axis_name=AXIS)
for valid in ([1] * 8, [1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 0], [0] * 8):
    valid = np.array(valid, bool)
    out, to_x, stats, to_params = on_one(x, target, valid)
    halves = [value.reshape(2, 4, *value.shape[1:]) for value in (x, target, valid)]
    out2, to_x2, stats2, to_params2 = jax.tree.map(np.asarray, on_two(*halves))
    close(out2.reshape(out.shape), out)
    close(to_x2.reshape(x.shape), to_x)
    for device in range(2):
        jax.tree.map(lambda two, one: close(two[device], one), (stats2, to_params2), (stats, to_params))
"""


def test_two_devices_are_one() -> None:
    """Output, running statistics and gradients, however the valid examples lie on the devices."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    ran = subprocess.run([sys.executable, "-c", TWO_DEVICES], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


# Long short-term memory

BATCH, TIME, IN, FEATURES = 3, 9, 5, 4
GATES = ("i", "f", "g", "o")


@functools.cache
def lstm() -> tuple[dict[str, Any], np.ndarray, jax.Array]:
    """Parameters, an input, and the hidden states."""
    x = np.random.default_rng(1).normal(size=(BATCH, TIME, IN)).astype(np.float32)
    params = jax.jit(LSTM(FEATURES).init)(jax.random.key(0), x)
    return params["params"], x, jax.jit(LSTM(FEATURES).apply)(params, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_lstm_is_a_plain_loop_over_time() -> None:
    params, x, hidden_states = lstm()
    kernel, bias, recurrent = (
        np.split(np.asarray(value), 4, axis=-1)
        for value in (params["input"]["kernel"], params["input"]["bias"], params["recurrent"])
    )
    cell, hidden = np.zeros((2, BATCH, FEATURES))
    for time in range(TIME):
        enter, forget, new, leave = (x[:, time] @ kernel[g] + bias[g] + hidden @ recurrent[g] for g in range(4))
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        hidden = sigmoid(leave) * np.tanh(cell)
        np.testing.assert_allclose(hidden_states[:, time], hidden, atol=1e-5)


def test_lstm_is_flaxs_with_the_same_weights() -> None:
    params, x, hidden_states = lstm()
    theirs: dict[str, Any] = {}
    for place, gate in enumerate(GATES):
        part = slice(place * FEATURES, (place + 1) * FEATURES)
        theirs[f"i{gate}"] = {"kernel": params["input"]["kernel"][:, part]}
        theirs[f"h{gate}"] = {"kernel": params["recurrent"][:, part], "bias": params["input"]["bias"][part]}
    expected = jax.jit(nn.RNN(nn.LSTMCell(FEATURES)).apply)({"params": {"cell": theirs}}, x)
    np.testing.assert_allclose(hidden_states, expected, atol=1e-5)


def test_the_lstms_backward_pass_is_the_derivative_of_its_forward_pass() -> None:
    """Against Flax's cell, which JAX differentiates; every time weighs, unlike the others."""
    params, x, _ = lstm()
    weight = np.random.default_rng(2).normal(size=(BATCH, TIME, FEATURES)).astype(np.float32)

    def flaxs(params: dict[str, Any], x: jax.Array) -> jax.Array:
        gates: dict[str, Any] = {}
        for place, gate in enumerate(GATES):
            part = slice(place * FEATURES, (place + 1) * FEATURES)
            gates[f"i{gate}"] = {"kernel": params["input"]["kernel"][:, part]}
            gates[f"h{gate}"] = {"kernel": params["recurrent"][:, part], "bias": params["input"]["bias"][part]}
        return (nn.RNN(nn.LSTMCell(FEATURES)).apply({"params": {"cell": gates}}, x) * weight).sum()

    def ours(params: dict[str, Any], x: jax.Array) -> jax.Array:
        return (LSTM(FEATURES).apply({"params": params}, x) * weight).sum()

    expected = jax.jit(jax.grad(flaxs, argnums=(0, 1)))(params, x)
    gradients = jax.jit(jax.grad(ours, argnums=(0, 1)))(params, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradients, expected)


def test_lstm_starts_orthogonal_with_an_open_forget_gate() -> None:
    params, _, _ = lstm()
    for gate in np.split(np.asarray(params["recurrent"]), 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(FEATURES), atol=1e-5)
    np.testing.assert_array_equal(params["input"]["bias"], np.repeat([0, 1, 0, 0], FEATURES))


# Patches


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_patches_are_a_strided_convolution(stride: int) -> None:
    """Output and gradients of the plain form, which XLA's CPU code computes more slowly."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 8, 12, 5)), jnp.float32)
    weight = rng.normal(size=(3, 8 // stride, 12 // stride, 7)).astype(np.float32)
    net = PatchDense(7, patch=4, stride=stride)
    params = net.init(jax.random.key(0), x)["params"]

    def plain(params: Any, x: Any) -> Any:
        kernel = convolution_kernel(params["patches"]["kernel"], patch=4, stride=stride)
        pictures = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, [(0, 4 - stride)] * 2, dimension_numbers=pictures)
            + params["patches"]["bias"]
        )

    def ours(params: Any, x: Any) -> Any:
        return net.apply({"params": params}, x)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(ours(params, x), plain(params, x))
    for function in (ours, plain):
        assert function(params, x).shape == weight.shape
    gradients, expected = (
        jax.jit(jax.grad(lambda params, x, f=f: (f(params, x) * weight).sum(), argnums=(0, 1)))(params, x)
        for f in (ours, plain)
    )
    jax.tree.map(close, gradients, expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool_is_flaxs(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, *size, 5)), jnp.float32)
    weight = rng.normal(size=(3, size[0] // 2, size[1] // 2, 5)).astype(np.float32)
    flaxs = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    (out, gradient), (expected_out, expected) = (
        jax.jit(jax.value_and_grad(lambda x, f=f: (f(x) * weight).sum()))(x) for f in (max_pool, flaxs)
    )
    np.testing.assert_allclose(out, expected_out, rtol=1e-5)
    np.testing.assert_array_equal(gradient, expected)


# Dropout

WIDE = 400


@functools.cache
def keys(n: int) -> jax.Array:
    return jax.jit(jax.random.split, static_argnums=1)(jax.random.key(3), n)


dropped = jax.jit(dropout, static_argnames="rate")


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_its_share_and_the_mean(rate: float) -> None:
    out = np.asarray(dropped(np.ones((100, WIDE), np.float32), rate, keys(100)))
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=1e-5)
    # Four standard errors of a mean of 40,000 draws
    assert abs(out.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / out.size)


def test_dropout_of_an_example_does_not_depend_on_its_batch() -> None:
    x = np.random.default_rng(0).normal(size=(8, WIDE)).astype(np.float32)
    together = dropped(x, 0.5, keys(8))
    np.testing.assert_array_equal(dropped(x[5:6], 0.5, keys(8)[5:6])[0], together[5])
    np.testing.assert_array_equal(dropped(x[::-1], 0.5, keys(8)[::-1])[::-1], together)
    x[0] = -7
    np.testing.assert_array_equal(dropped(x, 0.5, keys(8))[1:], together[1:])


def test_examples_are_dropped_apart() -> None:
    kept = np.asarray(dropped(np.ones((8, WIDE), np.float32), 0.5, keys(8))) > 0
    agreement = (kept[:, None] == kept[None]).mean(axis=-1)[~np.eye(8, dtype=bool)]
    assert (np.abs(agreement - 0.5) < 0.15).all()


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_without_keys_or_rate_nothing_is_dropped(rate: float) -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dropout(x, rate, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, keys(2)), x)
