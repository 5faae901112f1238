"""Baselines learn what is plain to hear, from the training part alone, and say what they lack."""

import dataclasses
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from configs import ravdess
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import baselines, metrics
from fusion_emotion.evaluate.baselines import baseline, mfcc_statistics
from fusion_emotion.input.segments import Windows
from fusion_emotion.models.frontend import mfcc
from fusion_emotion.train.loop import Setup

SETTINGS = {"n_mfcc": 40, "n_fft": 1024, "hop_length": 256, "n_mels": 80, "fmin": 80.0, "fmax": 8000.0}


def config_of(**split: object) -> dict:
    config = ravdess.get_config()
    config.split.update({"protocol": "kfold", "n_folds": 3} | split)
    config.train.batch_size = 16
    return config.to_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


@pytest.fixture(scope="module")
def setup(folder: pathlib.Path) -> Setup:
    return Setup.create(config_of(), folder)


def relabelled(windows: Windows, labels: list[int]) -> Windows:
    rows = [dataclasses.replace(row, label=label) for row, label in zip(windows.rows, labels, strict=True)]
    return dataclasses.replace(windows, rows=rows)


def test_the_majority_is_of_the_training_part(setup):
    train = setup.windows["train"]
    mostly_five = relabelled(train, [5] * (len(train.rows) - 2) + [1, 1])
    outcome = baseline("majority", dataclasses.replace(setup, windows={**setup.windows, "train": mostly_five}))
    assert set(outcome.predicted) == {5}
    assert metrics.uar(outcome.clip_confusion) == metrics.chance_level(outcome.clip_confusion) == 1 / 8
    n = len(train.rows)
    np.testing.assert_allclose(np.exp(outcome.clip_log_prob[0, [0, 1, 5]]), np.array([1, 3, n - 1]) / (n + 8))


def test_pitch_is_learnt_across_speakers(setup):
    outcome = baseline("mfcc", setup)
    assert metrics.uar(outcome.clip_confusion) > 0.9
    assert outcome.clip_confusion.sum() == outcome.windows.n_clips == 16
    assert outcome.validation_uar > 0.9
    np.testing.assert_allclose(np.exp(outcome.clip_log_prob).sum(axis=1), 1)


def test_the_test_part_changes_neither_the_model_nor_the_scale(setup):
    test = setup.windows["test"]
    few = test.part(test.clip < 3)
    other_labels = relabelled(few, [7, 7, 7])
    whole, part = (
        baseline("mfcc", dataclasses.replace(setup, windows={**setup.windows, "test": windows}))
        for windows in (test, other_labels)
    )
    assert part.regularisation == whole.regularisation
    np.testing.assert_allclose(part.clip_log_prob, whole.clip_log_prob[:3], atol=1e-6)


def test_the_validation_part_chooses_the_regularisation_alone(setup):
    validation = setup.windows["validation"]
    wrong = relabelled(validation, [(row.label + 1) % 8 for row in validation.rows])
    right, misled = (
        baseline("mfcc", dataclasses.replace(setup, windows={**setup.windows, "validation": windows}))
        for windows in (validation, wrong)
    )
    assert misled.validation_uar < 0.2 < right.validation_uar
    # Whatever was chosen, the labels that trained are right.
    assert metrics.uar(misled.clip_confusion) > 0.5


def test_a_class_that_never_trained_is_never_said_and_finite(setup):
    train = setup.windows["train"]
    without = train.part(np.array([row.label for row in train.rows])[train.clip] != 3)
    outcome = baseline("mfcc", dataclasses.replace(setup, windows={**setup.windows, "train": without}))
    assert 3 not in outcome.predicted
    assert outcome.clip_log_prob.shape == (16, 8)
    assert np.isfinite(outcome.clip_log_prob).all()


def test_a_clip_without_sound_is_the_mean_of_the_training_part(setup):
    test = setup.windows["test"]
    rows = [dataclasses.replace(row, n_samples=0) if i < 2 else row for i, row in enumerate(test.rows)]
    silent = dataclasses.replace(test, rows=rows)
    outcome = baseline("mfcc", dataclasses.replace(setup, windows={**setup.windows, "test": silent}))
    np.testing.assert_array_equal(outcome.clip_log_prob[0], outcome.clip_log_prob[1])
    np.testing.assert_allclose(outcome.clip_log_prob[2:], baseline("mfcc", setup).clip_log_prob[2:], atol=1e-6)


def test_what_fills_a_batch_does_not_count():
    rng = np.random.default_rng(0)
    # Lengths within and at the ends of a second, more of one than a batch holds, and one of a single frame.
    lengths = np.array([*rng.integers(16_001, 32_000, 34), 16_000, 48_000, 100])
    sounds = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in lengths]
    features = mfcc_statistics(sounds.__getitem__, n_samples=lengths, **SETTINGS)
    assert features.shape == (37, 160)
    for index in (0, 33, 34, 35):
        values = np.asarray(mfcc(jnp.asarray(sounds[index]), **SETTINGS))
        steps = values[1:] - values[:-1]
        expected = np.concatenate([values.mean(0), values.std(0), steps.mean(0), steps.std(0)])
        np.testing.assert_allclose(features[index], expected, atol=2e-2, rtol=1e-3)
    np.testing.assert_array_equal(features[36, 40:], 0)


def test_egemaps(setup):
    pytest.importorskip("opensmile")
    outcome = baseline("egemaps", setup)
    assert metrics.uar(outcome.clip_confusion) > 0.5


@pytest.mark.parametrize(("name", "module"), [("mfcc", "sklearn.linear_model"), ("egemaps", "opensmile")])
def test_a_missing_package_is_named_with_its_remedy(setup, monkeypatch, name, module):
    baselines._features.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"requirements-baselines\.txt") as error:
        baseline(name, setup)
    assert module.partition(".")[0] in str(error.value)


def test_what_cannot_be_is_refused(setup, folder):
    with pytest.raises(UserError, match="majority, mfcc, egemaps"):
        baseline("svm", setup)
    with pytest.raises(UserError, match="random_windows"):
        baseline("mfcc", Setup.create(config_of(protocol="random_windows"), folder))
    silent = {
        part: dataclasses.replace(windows, rows=[dataclasses.replace(row, n_samples=0) for row in windows.rows])
        for part, windows in setup.windows.items()
    }
    with pytest.raises(UserError, match="sound"):
        baseline("mfcc", dataclasses.replace(setup, windows=silent))
