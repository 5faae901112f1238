"""The networks that the configs name: their sizes, and that what is missing or masked has no say."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import original, ravdess, sample
from fusion_emotion.errors import UserError
from fusion_emotion.models.fusion import FusionNet, create_model

Batch = dict[str, np.ndarray]
B = 5

# Weights of each part, by hand.
NORM_AND_LSTM = 2 * 40 + (40 * 800 + 800) + 200 * 800
DEEPER_LSTM = (200 * 800 + 800) + 200 * 800
PATCH = (
    (4 * 4 * 3 * 32 + 32)
    + (9 * 32 * 96 + 96)
    + (9 * 96 * 128 + 128)
    + (2 * 10 * 128 * 200 + 200)  # 64x320 px: 32x160 patches, halved four times
)
CONVOLUTIONS = (9 * 3 * 32 + 32) + 2 * (25 * 32 * 32 + 32)
ORIGINAL_64 = CONVOLUTIONS + (8 * 40 * 32 * 200 + 200)
ORIGINAL_50 = CONVOLUTIONS + (6 * 31 * 32 * 200 + 200)  # 50x250 px, halved thrice
HEAD_OF_ONE, HEAD_OF_TWO = 200 * 8 + 8, 400 * 8 + 8


def config_of(module: Any = ravdess, **changes: Any) -> ConfigDict:
    """A config with other values in its model section."""
    config = module.get_config()
    config.model.update(changes)
    return config


def network(config: ConfigDict) -> FusionNet:
    return create_model(config.model.to_dict(), n_classes=8)


def windows(face_size: int = 64, *, seed: int = 0) -> Batch:
    """Noise of every loudness; nothing is missing."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(size=(B, 16_000)) * 10.0 ** rng.uniform(0, 4, (B, 1))
    return {
        "strip": rng.integers(0, 256, (B, face_size, 5 * face_size, 3), np.uint8),
        "waveform": np.clip(sound, -32767, 32767).astype(np.int16),
        "label": np.arange(B, dtype=np.int32),
        "has_video": np.ones(B, bool),
        "has_audio": np.ones(B, bool),
        "mask": np.ones(B, bool),
    }


def shapes(config: ConfigDict) -> tuple[Any, Any]:
    """Of the variables and the logits, without a computation."""
    net = network(config)

    def outputs(batch: Batch) -> tuple[Any, Any]:
        initial = net.init(jax.random.key(0), batch, train=False)
        return initial, net.apply(initial, batch, train=False)

    return jax.eval_shape(outputs, windows(config.prepare.face_size))


@functools.cache
def compiled(strip_network: str, train: bool, dtype: str = "float32") -> Callable[..., tuple[jax.Array, Any]]:
    """Variables and a batch to the logits, and in training the running statistics after it."""
    net = network(config_of(strip_network=strip_network, dtype=dtype))
    return jax.jit(functools.partial(net.apply, train=train, mutable=["batch_stats"]))


def plausible(shape: Any) -> Any:
    """Weights and statistics of a plausible size; drawing what `init` would draw takes long to compile."""
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1])
        around = {"scale": 1.0, "var": 1.0}.get(path[-1].key, 0.0)
        return (around + rng.normal(size=leaf.shape) / max(np.sqrt(fan_in), 4)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, shape)


@functools.cache
def variables(strip_network: str) -> dict[str, Any]:
    """Weights, and running statistics as one batch leaves them."""
    initial = plausible(shapes(config_of(strip_network=strip_network))[0])
    return {**initial, **compiled(strip_network, True)(initial, windows(seed=9))[1]}


def forward(batch: Batch, *, train: bool, strip_network: str = "patch", dtype: str = "float32") -> Any:
    """The logits of a batch, and the running statistics after it (none outside training)."""
    return compiled(strip_network, train, dtype)(variables(strip_network), batch)


# Sizes


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (config_of(ravdess), NORM_AND_LSTM + PATCH + HEAD_OF_TWO),
        (config_of(sample), NORM_AND_LSTM + PATCH + HEAD_OF_TWO),
        (config_of(original), NORM_AND_LSTM + 2 * DEEPER_LSTM + ORIGINAL_50 + HEAD_OF_TWO),
        (config_of(modalities="audio"), NORM_AND_LSTM + HEAD_OF_ONE),
        (config_of(modalities="video"), PATCH + HEAD_OF_ONE),
        (config_of(strip_network="original"), NORM_AND_LSTM + ORIGINAL_64 + HEAD_OF_TWO),
        (config_of(strip_network="original", modalities="video"), ORIGINAL_64 + HEAD_OF_ONE),
        (config_of(lstm_layers=3), NORM_AND_LSTM + 2 * DEEPER_LSTM + PATCH + HEAD_OF_TWO),
    ],
    ids=["ravdess", "sample", "original", "audio", "video", "original CNN", "original CNN alone", "three LSTMs"],
)
def test_the_number_of_parameters(config: ConfigDict, expected: int) -> None:
    initial, logits = shapes(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(initial["params"])) == expected
    assert (logits.shape, logits.dtype) == ((B, 8), jnp.float32)


def test_the_counts_that_are_quoted() -> None:
    assert NORM_AND_LSTM + PATCH + HEAD_OF_TWO == 848_320
    assert NORM_AND_LSTM + HEAD_OF_ONE == 194_488
    assert PATCH + HEAD_OF_ONE == 653_840
    assert NORM_AND_LSTM + ORIGINAL_64 + HEAD_OF_TWO == 2_296_448
    assert NORM_AND_LSTM + 2 * DEEPER_LSTM + ORIGINAL_50 + HEAD_OF_TWO == 2_080_448


def test_the_mfcc_is_the_configs() -> None:
    config = config_of(features=16)
    config.model.mfcc.n_mfcc = 13
    initial, _ = shapes(config)
    assert initial["params"]["audio"]["LSTM_0"]["input"]["kernel"].shape == (13, 64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_logits_are_float32_whatever_the_computation_is(dtype: str) -> None:
    initial, logits = shapes(config_of(dtype=dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves((initial, logits))} == {jnp.dtype("float32")}


def test_one_modality_never_asks_for_the_other() -> None:
    for modalities, other in (("audio", ("strip", "has_video")), ("video", ("waveform", "has_audio"))):
        batch = {name: value for name, value in windows().items() if name not in other}
        net = network(config_of(modalities=modalities))
        initial = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), batch)
        assert set(initial["params"]) == {"Dense_0", modalities}


# What is missing or masked


def altered(batch: Batch, rows: list[int], *names: str) -> Batch:
    """The batch with other bytes in some rows of some fields."""
    other = windows(seed=1)
    batch = {name: value.copy() for name, value in batch.items()}
    for name in names:
        batch[name][rows] = other[name][rows]
    return batch


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("flag", "field"), [("has_video", "strip"), ("has_audio", "waveform")])
def test_a_missing_modality_says_nothing_whatever_its_bytes(flag: str, field: str, train: bool) -> None:
    batch = windows()
    batch[flag][[1, 3]] = False
    logits, stats = forward(batch, train=train)
    other_logits, other_stats = forward(altered(batch, [1, 3], field), train=train)
    np.testing.assert_array_equal(logits, other_logits)
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)
    present, _ = forward({**batch, flag: np.ones(B, bool)}, train=train)
    assert (np.abs(logits - present)[[1, 3]].max(axis=1) > 1e-3).all()


@pytest.mark.parametrize(("strip_network", "train"), [("patch", False), ("patch", True), ("original", True)])
def test_a_masked_example_does_not_influence_the_others(strip_network: str, train: bool) -> None:
    batch = windows()
    batch["mask"][[0, 4]] = False
    run = functools.partial(forward, train=train, strip_network=strip_network)
    logits, stats = run(batch)
    other_logits, other_stats = run(altered(batch, [0, 4], "strip", "waveform", "label"))
    np.testing.assert_array_equal(logits[1:4], other_logits[1:4])
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)


def test_the_statistics_of_a_modality_are_of_those_that_have_it() -> None:
    batch = windows()
    batch["has_audio"][[1, 3]] = False
    _, stats = forward(batch, train=True)
    _, complete = forward(windows(), train=True)
    leaves = jax.tree.map(lambda one, other: not np.array_equal(one, other), stats, complete)["batch_stats"]
    assert list(leaves) == ["audio"]
    assert all(jax.tree.leaves(leaves))


@pytest.mark.parametrize("train", [False, True])
def test_a_batch_of_nothing_stays_finite(train: bool) -> None:
    batch = {name: np.zeros_like(value) for name, value in windows().items()}
    logits, stats = forward(batch, train=train)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((logits, stats)))


def test_outside_training_an_example_does_not_depend_on_its_batch() -> None:
    batch = windows()
    logits, _ = forward(batch, train=False)
    turned, _ = forward({name: value[::-1] for name, value in batch.items()}, train=False)
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-3, atol=1e-4)


# Computation


def test_bfloat16_is_close_to_float32() -> None:
    exact, _ = forward(windows(), train=False)
    close, _ = forward(windows(), train=False, dtype="bfloat16")
    assert not np.array_equal(exact, close)
    np.testing.assert_allclose(close, exact, atol=0.05 * float(np.std(exact)) + 0.02)


def test_keys_switch_dropout_on() -> None:
    config = config_of(modalities="audio", features=40)
    batch, keys = windows(), jax.random.split(jax.random.key(0), B)
    state = plausible(shapes(config)[0])
    run = functools.partial(jax.jit(functools.partial(network(config).apply, train=False)), state, batch)
    some, again, other = run(keys=keys), run(keys=keys), run(keys=keys[np.arange(B) - 1])
    np.testing.assert_array_equal(some, again)
    assert (np.abs(some - other).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize(
    ("field", "wrong", "valid"),
    [
        ("modalities", "video+audio", r"audio\+video, audio, video"),
        ("modalities", "", r"audio\+video, audio, video"),
        ("strip_network", "resnet", "patch, original"),
        ("dtype", "float16", "float32, bfloat16"),
    ],
)
def test_an_unknown_name_is_refused_with_the_valid_ones(field: str, wrong: str, valid: str) -> None:
    with pytest.raises(UserError, match=f"model.{field}='.*' is unknown: choose one of {valid}$"):
        network(config_of(**{field: wrong}))
