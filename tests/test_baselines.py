"""Baselines learn what is easy to hear, from the training part alone."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import baselines, metrics
from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.evaluate.baselines import baseline, mfcc_statistics
from fusion_emotion.input.data import Data
from fusion_emotion.input.segments import Segments
from fusion_emotion.models.frontend import mfcc
from run_tiny import settings

CONFIG = settings()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


@pytest.fixture(scope="module")
def data(folder: pathlib.Path) -> Data:
    return Data.open(CONFIG, folder)


def run(data: Data, name: str = "mfcc", **parts: Segments) -> Answers:
    """A baseline, with other `parts` of the split."""
    return baseline(name, dataclasses.replace(data, parts={**data.parts, **parts}), CONFIG)


def relabelled(segments: Segments, labels: Sequence[int]) -> Segments:
    rows = [dataclasses.replace(row, label=int(label)) for row, label in zip(segments.rows, labels, strict=True)]
    return dataclasses.replace(segments, rows=rows)


def silenced(segments: Segments, n_clips: int) -> Segments:
    rows = [dataclasses.replace(row, n_samples=0) if i < n_clips else row for i, row in enumerate(segments.rows)]
    return dataclasses.replace(segments, rows=rows)


def test_the_majority_is_that_of_the_training_part(data: Data) -> None:
    train = data.parts["train"]
    n = len(train.rows)
    found = run(data, "majority", train=relabelled(train, [5] * (n - 2) + [1, 1]))
    assert set(found.predicted) == {5}
    assert metrics.uar(found.confusion) == metrics.chance_level(found.confusion) == 1 / 8
    np.testing.assert_allclose(np.exp(found.log_prob[0, [0, 1, 5]]), np.array([1, 3, n - 1]) / (n + 8))


def test_pitch_is_learnt_across_speakers(data: Data) -> None:
    found = run(data)
    assert metrics.uar(found.confusion) > 0.9
    assert found.confusion.sum() == data.parts["test"].n_clips == 16
    np.testing.assert_allclose(np.exp(found.log_prob).sum(axis=1), 1)


def test_the_test_part_changes_neither_the_model_nor_the_scale(data: Data) -> None:
    test = data.parts["test"]
    part = run(data, test=relabelled(test.part(test.clip < 3), [7, 7, 7]))
    np.testing.assert_allclose(part.log_prob, run(data).log_prob[:3], atol=1e-6)


def test_the_validation_part_does_not_train(data: Data) -> None:
    validation = data.parts["validation"]
    misled = run(data, validation=relabelled(validation, (validation.labels + 1) % 8))
    assert metrics.uar(misled.confusion) > 0.5


def test_a_class_without_training_clips_is_never_predicted(data: Data) -> None:
    train = data.parts["train"]
    found = run(data, train=train.part(train.labels[train.clip] != 3))
    assert 3 not in found.predicted
    assert found.log_prob.shape == (16, 8)
    assert np.isfinite(found.log_prob).all()


def test_a_clip_without_sound_is_the_mean_of_the_training_part(data: Data) -> None:
    found = run(data, test=silenced(data.parts["test"], 2))
    np.testing.assert_array_equal(found.log_prob[0], found.log_prob[1])
    np.testing.assert_allclose(found.log_prob[2:], run(data).log_prob[2:], atol=1e-6)


def test_padding_does_not_change_the_features() -> None:
    rng = np.random.default_rng(0)
    # Lengths within and at the ends of a second, more of one than fit a batch, and a single frame.
    lengths = np.array([*rng.integers(16_001, 32_000, 34), 16_000, 48_000, 100])
    sounds = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in lengths]
    features = mfcc_statistics(sounds.__getitem__, n_samples=lengths, **CONFIG["model"]["mfcc"])
    assert features.shape == (37, 160)
    for index in (0, 33, 34, 35):
        values = np.asarray(mfcc(jnp.asarray(sounds[index]), sr=16_000, **CONFIG["model"]["mfcc"]))
        steps = np.diff(values, axis=0)
        expected = np.concatenate([values.mean(0), values.std(0), steps.mean(0), steps.std(0)])
        np.testing.assert_allclose(features[index], expected, atol=2e-2, rtol=1e-3)
    np.testing.assert_array_equal(features[36, 40:], 0)


def test_egemaps(data: Data) -> None:
    pytest.importorskip("opensmile")
    assert metrics.uar(run(data, "egemaps").confusion) > 0.5


@pytest.mark.slow
def test_compare(data: Data) -> None:
    pytest.importorskip("opensmile")
    assert "compare" in baselines.available(data.rows, compare=True)
    assert metrics.uar(run(data, "compare").confusion) > 0.5


@pytest.mark.parametrize(("name", "module"), [("mfcc", "sklearn.linear_model"), ("egemaps", "opensmile")])
def test_a_missing_package_is_named(data: Data, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    baselines._features.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=module.partition(".")[0]):
        run(data, name)


def test_impossible_baselines_are_refused(data: Data, folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match="egemaps"):
        run(data, "svm")
    with pytest.raises(UserError, match="random_windows"):
        run(Data.open(settings(split__protocol="random_windows"), folder))
    with pytest.raises(UserError, match="sound"):
        run(data, **{part: silenced(segments, len(segments.rows)) for part, segments in data.parts.items()})
