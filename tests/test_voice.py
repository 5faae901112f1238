"""The voice of whole clips: padding, masks and missing sound have no effect, and the regression is solved."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tiny
from fusion_emotion.config import check
from fusion_emotion.errors import UserError
from fusion_emotion.models.batch import Batch, batch_spec, noise
from fusion_emotion.models.create import create_model
from fusion_emotion.models.frontend import warped
from fusion_emotion.train.checkpoint import Checkpoints
from fusion_emotion.train.fit import logistic_regression, played, with_fitted_descriptors
from fusion_emotion.units import SAMPLES_PER_FRAME
from run_tiny import Tiny, settings

B, T = 4, 8
MASKED = {"augment__mel_mask": 12, "augment__time_mask_s": 0.2}
VOICE = {
    "model__modalities": "audio",
    "model__voice_network": "whole_clip",
    "model__features": 16,
    "model__dropout_rate": 0.0,
    "model__descriptors__share": 0.5,
    "segment__seconds": 1.6,
    "segment__hop_s": 1.6,
}


def clips(*, padding: int = 0, seed: int = 0) -> Batch:
    """Noise whose level rises and falls, so that it has an active part; each clip is shorter than the next."""
    batch = noise(batch_spec(settings(**VOICE), batch_size=B), n_classes=8, seed=seed)
    lengths = np.array([3, 5, 6, T], np.int32)
    time = np.arange(T * SAMPLES_PER_FRAME) / SAMPLES_PER_FRAME
    shape = np.clip(np.sin(np.pi * (time - 0.5) / (lengths[:, None] - 1)), 1e-4, 1) * (time < lengths[:, None])
    sound = np.pad((batch["waveform"] * shape).astype(np.int16), ((0, 0), (0, padding * SAMPLES_PER_FRAME)))
    return {**batch, "n_frames": lengths, "waveform": sound}


@functools.cache
def network(**changes: Any) -> tuple[Any, Any]:
    """A network, and weights of which none is zero."""
    config = settings(**{**VOICE, **changes})
    net = create_model(config, n_classes=8)
    shape = jax.eval_shape(
        functools.partial(net.init, train=False), jax.random.key(0), batch_spec(config, batch_size=B)
    )
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        around = {"scale": 1e-3 if "descriptors" in str(path) else 1.0, "var": 1.0}.get(path[-1].key, 0.0)
        return (around + (not around) * 0.2 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return net, jax.tree_util.tree_map_with_path(drawn, shape)


@pytest.mark.slow
def test_padding_changes_no_answer() -> None:
    net, state = network()
    run = jax.jit(functools.partial(net.apply, state, train=False))
    answers = run(clips())
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    np.testing.assert_allclose(run(clips(padding=T)), answers, rtol=0, atol=1e-4)


def trained(batch: Batch, **changes: Any) -> Any:
    """Gradients, logits and statistics of a training step."""
    net, state = network(**changes)
    weight = np.random.default_rng(0).normal(size=(B, 8)).astype(np.float32) * batch["mask"][:, None]

    @jax.jit
    def run(batch: Batch) -> Any:
        def loss(params: Any) -> Any:
            keys = jax.random.split(jax.random.key(0), B)
            both = {**state, "params": params}
            logits, changed = net.apply(both, batch, train=True, keys=keys, mutable=["batch_stats"])
            return (logits * weight).sum(), (logits * batch["mask"][:, None], changed)

        return jax.grad(loss, has_aux=True)(state["params"])

    return run(batch)


AUGMENTED = {"augment__time_mask_s": 0.2, "augment__mel_mask": 8, "augment__pitch": 0.1}


@pytest.mark.slow
def test_padding_changes_no_gradient_and_no_statistic() -> None:
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, trained(clips(padding=3), **AUGMENTED), trained(clips(), **AUGMENTED))


def test_a_masked_clip_does_not_influence_the_others() -> None:
    batch = clips()
    batch["mask"][1] = False
    other = {**batch, "waveform": batch["waveform"].copy()}
    other["waveform"][1] = clips(seed=1)["waveform"][1] // 7
    jax.tree.map(np.testing.assert_array_equal, trained(batch), trained(other))


@pytest.mark.slow
def test_training_leaves_the_fitted_regression_as_it_is() -> None:
    _, (_, changed) = trained(clips())
    _, state = network()
    fitted = changed["batch_stats"]["descriptors"]
    jax.tree.map(np.testing.assert_array_equal, fitted, state["batch_stats"]["descriptors"])


def test_without_sound_the_descriptors_say_nothing() -> None:
    net, state = network()
    run = jax.jit(functools.partial(net.apply, state, train=False))
    batch = clips()
    batch["has_audio"][2] = False
    quiet, other = run(batch), run({**batch, "waveform": clips(seed=1)["waveform"]})
    np.testing.assert_array_equal(quiet[2], other[2])
    assert np.abs(quiet - other)[[0, 1, 3]].max(axis=1).min() > 1e-4


def test_warping_moves_a_tone_and_the_end() -> None:
    db = np.full((40, 20, 16), -50.0, np.float32)
    db[:, 8, 6] = 0.0
    mask = np.broadcast_to(np.arange(20) < 15, (40, 20))
    keys = jax.random.split(jax.random.key(0), 40)
    same, _ = warped(jnp.asarray(db), jnp.asarray(mask), keys, most_tempo=0.0, most_pitch=0.0)
    np.testing.assert_array_equal(same, db)
    moved, kept = warped(jnp.asarray(db), jnp.asarray(mask), keys, most_tempo=0.25, most_pitch=0.25)
    lengths = np.asarray(kept.sum(axis=1))
    assert lengths.min() < 14 < 16 < lengths.max()
    place = np.array([np.unravel_index(clip.argmax(), clip.shape) for clip in np.asarray(moved)])
    # A faster clip has the tone earlier.
    assert np.corrcoef(place[:, 0], lengths)[0, 1] > 0.8
    assert set(place[:, 1]) > {5, 7}


def test_warping_needs_the_network_that_has_it() -> None:
    with pytest.raises(UserError, match="whole_clip"):
        check(settings(augment__tempo=0.1))


# The regression


def test_the_regression_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=150, p=[0.6, 0.3, 0.1])
    x = (rng.normal(size=(150, 12)) + 1.5 * np.eye(3, 12)[labels]).astype(np.float32)
    kernel, bias = logistic_regression(x, labels, n_classes=3, strength=0.05)
    theirs = LogisticRegression(C=0.05, class_weight="balanced", tol=1e-8, max_iter=1000).fit(x, labels)
    np.testing.assert_allclose(kernel, theirs.coef_.T, atol=2e-3)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)


def test_a_label_that_no_clip_has_is_never_answered() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    kernel, bias = logistic_regression(x, labels, n_classes=4, strength=1.0)
    assert set((x @ kernel + bias).argmax(axis=1)) == {0, 1}


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_clip_played_at_another_speed_is_that_much_shorter_and_higher(speed: float) -> None:
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16_000)).astype(np.int16)
    sound = played(tone, speed)
    assert abs(len(sound) - 8000 / speed) < 1
    hz = np.abs(np.fft.rfft(sound)).argmax() * 16_000 / len(sound)
    assert abs(hz - 1000 * speed) < 2
    assert abs(np.abs(sound[500:-500].astype(int)).max() - 8000) < 200


def test_the_regression_of_a_corpus_without_sound_says_nothing(tmp_path: pathlib.Path) -> None:
    silent = [dataclasses.replace(record, waveform=np.zeros(0, np.int16)) for record in tiny.records_of()]
    run = Tiny.of(tiny.write_corpus(tmp_path / "tiny", silent), model__descriptors__share=0.3)
    batch = jax.tree.map(jnp.asarray, noise(batch_spec(run.config), n_classes=8) | {"has_audio": np.zeros(1, bool)})
    variables = run.model.init(jax.random.key(0), batch, train=False)
    fitted = with_fitted_descriptors(variables, run.model.descriptors, run.data.source("train"), run.config)
    assert np.isfinite(run.model.apply(fitted, batch, train=False)).all()


@pytest.mark.slow
def test_the_trainer_fits_the_regression_and_keeps_the_last_checkpoint(tmp_path: pathlib.Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    changes = {
        "model__voice_network": "lstm",
        "model__descriptors__share": 1.0,
        "model__descriptors__strength": 1e-2,
        "model__descriptors__speeds": [1.05],
        "train__choose": "last",
        "train__epochs": 2,
        "train__validate_every_epochs": 1,
        "train__learning_rate": 1e-3,
    }
    run = Tiny.of(folder, **{**VOICE, **changes})
    run.train(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.best_step == checkpoints.latest_step
    # The corpus's pitch tells the label: the regression alone knows it after no step.
    assert checkpoints.metrics(checkpoints.latest_step)["validation_uar"] > 0.5


def test_a_missing_sound_has_finite_gradients_under_masks() -> None:
    """Its spectrogram has no frame that counts, so the mean that fills a mask is of nothing."""
    net, variables = network(**MASKED)
    batch = jax.tree.map(jnp.asarray, {**clips(), "has_audio": np.array([True, False, True, True])})
    keys = jax.random.split(jax.random.key(3), B)

    def loss(params: Any) -> jax.Array:
        logits, _ = net.apply(
            {**variables, "params": params}, batch, train=True, keys=keys, mutable=True, rngs={"dropout": keys[0]}
        )
        return jnp.square(logits).sum()

    for leaf in jax.tree.leaves(jax.grad(loss)(variables["params"])):
        assert np.isfinite(leaf).all()
