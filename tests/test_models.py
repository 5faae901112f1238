"""The networks of the configs: their sizes, and that missing modalities, masked examples and padding have no effect."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT
from fusion_emotion.models.batch import Batch, batch_spec, noise
from fusion_emotion.models.create import create_model
from fusion_emotion.units import SAMPLES_PER_FRAME
from run_tiny import settings

B = 5
Config = dict[str, Any]


def segments(*, seed: int = 0) -> Batch:
    """Noise of every loudness; nothing is missing."""
    batch = noise(batch_spec(settings(), batch_size=B), n_classes=8, seed=seed)
    loudness = 10.0 ** np.random.default_rng(seed).uniform(-3, 0.5, (B, 1))
    return {**batch, "waveform": (batch["waveform"] * loudness).astype(np.int16)}


def shapes(config: Config) -> tuple[Any, Any]:
    """Of the variables and the logits, without a computation."""
    net = create_model(config, n_classes=8)

    def outputs(batch: Batch) -> tuple[Any, Any]:
        initial = net.init(jax.random.key(0), batch, train=False)
        return initial, net.apply(initial, batch, train=False)

    return jax.eval_shape(outputs, batch_spec(config, batch_size=B))


def plausible(shape: Any, *, var: float = 300.0) -> Any:
    """Weights and statistics, by default of MFCCs, of a plausible size; to draw what `init` draws takes long."""
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1])
        around = {"scale": 1.0, "var": var}.get(path[-1].key, 0.0)
        return (around + rng.normal(size=leaf.shape) / max(np.sqrt(fan_in), 4)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, shape)


@functools.cache
def compiled(strip_network: str, train: bool, dtype: str = "float32") -> Callable[..., tuple[jax.Array, Any]]:
    """A batch to the logits, and in training the running statistics after it."""
    changes = {"model__strip_network": strip_network, "model__features": 16}
    state = plausible(shapes(settings(**changes))[0])
    net = create_model(settings(**changes, model__dtype=dtype), n_classes=8)
    return jax.jit(functools.partial(net.apply, state, train=train, mutable=["batch_stats"]))


def forward(batch: Batch, *, train: bool, strip_network: str = "patch", dtype: str = "float32") -> Any:
    return compiled(strip_network, train, dtype)(batch)


# Sizes and types


def n_parameters(config: Config) -> int:
    initial, logits = shapes(config)
    assert (logits.shape, logits.dtype) == ((B, 8), jnp.float32)
    return sum(leaf.size for leaf in jax.tree.leaves(initial["params"]))


def test_every_config_builds_with_its_number_of_parameters() -> None:
    # configs/films.py names clips alone: the network is that of --model.
    names = [path.stem for path in (ROOT / "configs").glob("[!_]*.py") if path.stem != "films"]
    configs = {name: importlib.import_module(f"configs.{name}").get_config().to_dict() for name in names}
    sizes = {name: n_parameters(config) for name, config in configs.items()}
    # The original's: faces of 50 px, three LSTMs
    assert sizes == {
        "faces": 873_840,
        "folder": 848_832,
        "original": 2_080_448,
        "ravdess": 848_832,
        "ravdess_audio": 194_488,
        "sample": 848_320,
        "voice": 874_737,
    }
    assert n_parameters(settings(prepare__face_size=64, model__modalities="video")) == 653_840
    assert n_parameters(settings(prepare__face_size=64, model__strip_network="original")) == 2_296_448


def test_the_mfcc_is_the_configs() -> None:
    initial, _ = shapes(settings(model__features=16, model__mfcc__n_mfcc=13))
    assert initial["params"]["audio"]["LSTM_0"]["input"]["kernel"].shape == (13, 64)


def test_bfloat16_is_close_to_float32_and_of_the_computation_only() -> None:
    leaves = jax.tree.leaves(shapes(settings(model__dtype="bfloat16")))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    exact, _ = forward(segments(), train=False)
    close, _ = forward(segments(), train=False, dtype="bfloat16")
    assert not np.array_equal(exact, close)
    np.testing.assert_allclose(close, exact, atol=0.05 * float(np.std(exact)) + 0.02)


@pytest.mark.parametrize(
    ("modality", "needed"), [("audio", {"waveform", "n_frames", "has_audio"}), ("video", {"faces", "has_video"})]
)
def test_one_modality_never_asks_for_the_other(modality: str, needed: set[str]) -> None:
    batch = {name: value for name, value in segments().items() if name in {*needed, "mask"}}
    net = create_model(settings(model__modalities=modality), n_classes=8)
    initial = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), batch)
    assert set(initial["params"]) == {"Dense_0", modality}


# Missing modalities and masked examples


def altered(batch: Batch, rows: list[int], *names: str) -> Batch:
    """The batch with other bytes in some rows of some fields."""
    other = segments(seed=1)
    batch = {name: value.copy() for name, value in batch.items()}
    for name in names:
        batch[name][rows] = other[name][rows]
    return batch


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("flag", "field"), [("has_video", "faces"), ("has_audio", "waveform")])
def test_a_missing_modality_says_nothing_whatever_its_bytes(flag: str, field: str, train: bool) -> None:
    batch = segments()
    batch[flag][[1, 3]] = False
    logits, stats = forward(batch, train=train)
    other_logits, other_stats = forward(altered(batch, [1, 3], field), train=train)
    np.testing.assert_array_equal(logits, other_logits)
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)
    present, _ = forward({**batch, flag: np.ones(B, bool)}, train=train)
    assert (np.abs(logits - present)[[1, 3]].max(axis=1) > 1e-3).all()


@pytest.mark.parametrize(
    ("strip_network", "train"),
    [("patch", False), ("patch", True), ("patch_norm", True), ("original", True), ("face", True)],
)
def test_a_masked_example_does_not_influence_the_others(strip_network: str, train: bool) -> None:
    batch = segments()
    batch["mask"][[0, 4]] = False
    run = functools.partial(forward, train=train, strip_network=strip_network)
    logits, stats = run(batch)
    other_logits, other_stats = run(altered(batch, [0, 4], "faces", "waveform", "label"))
    np.testing.assert_array_equal(logits[1:4], other_logits[1:4])
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)


@pytest.mark.parametrize("train", [False, True])
def test_a_batch_of_nothing_stays_finite(train: bool) -> None:
    batch = {name: np.zeros_like(value) for name, value in segments().items()}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(forward(batch, train=train)))


def test_outside_training_an_example_does_not_depend_on_its_batch() -> None:
    batch = segments()
    logits, _ = forward(batch, train=False)
    turned, _ = forward({name: value[::-1] for name, value in batch.items()}, train=False)
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-3, atol=1e-4)


def test_a_face_counts_once_whatever_the_length_and_the_light() -> None:
    """A still is a strip of one face; frames without a face, the light and the contrast change nothing."""
    config = settings(model__modalities="video", model__strip_network="face", model__features=16)
    net, state = create_model(config, n_classes=8), plausible(shapes(config)[0], var=2.0)
    run = jax.jit(functools.partial(net.apply, state, train=False))
    batch = noise(batch_spec(config, batch_size=3, n_frames=1), n_classes=8)
    batch["faces"] //= 2
    logits = run(batch)
    assert differ(logits, np.roll(logits, 1, axis=0))
    several = {**batch, "faces": np.repeat(batch["faces"], 4, axis=1), "face_found": np.ones((3, 4), bool)}
    np.testing.assert_allclose(run(several), logits, rtol=0, atol=1e-4)
    several["faces"][:, 2:] = 255 - several["faces"][:, 2:]
    assert differ(run(several), logits)
    several["face_found"][:, 2:] = False
    np.testing.assert_allclose(run(several), logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(run({**batch, "faces": 2 * batch["faces"] + 1}), logits, rtol=0, atol=1e-3)
    colour = {**config, "model": {**config["model"], "face_colour": True}}
    net, state = create_model(colour, n_classes=8), plausible(shapes(colour)[0], var=2.0)
    blue = {**batch, "faces": batch["faces"][..., ::-1]}
    run = jax.jit(functools.partial(net.apply, state, train=False))
    assert differ(run(blue), run(batch))


# Padding


def sounds() -> Batch:
    """Segments of 1 s: of full length, loudest at the very end, ending in silence, and one of 0.6 s."""
    batch = noise(batch_spec(settings(), batch_size=4), n_classes=8)
    batch["waveform"][1] //= 2000
    batch["waveform"][1, -60:] = 32_767
    batch["waveform"][2, 7_000:] = 0
    batch["waveform"][3, 3 * SAMPLES_PER_FRAME :] = 0
    batch["n_samples"][2:] = 7_000, 3 * SAMPLES_PER_FRAME
    batch["n_frames"][3] = 3
    return batch


def padded(batch: Batch, n_frames: int) -> Batch:
    """The same segments, padded to more frames (or the same example of 0.6 s to fewer)."""
    sound = batch["waveform"][:, : n_frames * SAMPLES_PER_FRAME]
    missing = n_frames * SAMPLES_PER_FRAME - sound.shape[1]
    return {**batch, "waveform": np.pad(sound, ((0, 0), (0, missing)))}


def audio(**changes: Any) -> tuple[Any, Any]:
    """A network of sound, and its variables."""
    config = settings(model__modalities="audio", model__features=16, **changes)
    return create_model(config, n_classes=8), plausible(shapes(config)[0])


def differ(one: Any, other: Any) -> bool:
    """True if every example has other logits."""
    return bool((np.abs(one - other).max(axis=1) > 1e-3).all())


# With a hop longer than half a frame, sound at the end is loudest in a frame of the padding.
MFCCS = {"default": {}, "long hop": {"hop_length": 700}, "odd frames": {"n_fft": 1023, "hop_length": 250}}


@pytest.mark.parametrize("mfcc", MFCCS.values(), ids=MFCCS)
def test_padding_changes_no_logit(mfcc: dict[str, int]) -> None:
    """Up to the 8 s of a whole clip."""
    net, state = audio(**{f"model__mfcc__{name}": value for name, value in mfcc.items()})
    run = jax.jit(functools.partial(net.apply, state, train=False))
    batch = sounds()
    logits = run(batch)
    assert all(differ(logits, np.roll(logits, i, axis=0)) for i in (1, 2, 3))
    np.testing.assert_allclose(run(padded(batch, 40)), logits, rtol=0, atol=1e-5)
    short = {name: value[3:] for name, value in batch.items()}
    np.testing.assert_allclose(run(padded(short, 3)), logits[3:], rtol=0, atol=1e-5)


MASKS = {"augment__time_mask_s": 0.3, "augment__mel_mask": 15}


def test_padding_changes_no_gradient_and_no_statistic() -> None:
    """Nor the frames and bands that SpecAugment, which keys switch on, hides."""
    net, state = audio(model__dropout_rate=0.0, **MASKS)
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)

    @jax.jit
    def trained(batch: Batch) -> tuple[Any, tuple[jax.Array, Any]]:
        def loss(params: Any) -> Any:
            both, keys = {**state, "params": params}, jax.random.split(jax.random.key(0), 4)
            logits, changed = net.apply(both, batch, train=True, keys=keys, mutable=["batch_stats"])
            return (logits * weight).sum(), (logits, changed)

        return jax.grad(loss, has_aux=True)(state["params"])

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, trained(padded(sounds(), 15)), trained(sounds()))


@pytest.mark.parametrize("changes", [{}, {"model__dropout_rate": 0.0, **MASKS}], ids=["dropout", "SpecAugment"])
def test_keys_switch_dropout_and_spec_augment_on_for_each_example(changes: dict[str, Any]) -> None:
    net, state = audio(**changes)
    batch, keys = segments(), jax.random.split(jax.random.key(0), B)
    run = jax.jit(functools.partial(net.apply, state, train=False))
    some = run(batch, keys=keys)
    np.testing.assert_array_equal(some, run(batch, keys=keys))
    assert differ(some, run(batch, keys=keys[np.arange(B) - 1]))
