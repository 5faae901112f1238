"""The MFCC is librosa's, in every setting, for every length, in every batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from fusion_emotion.models.frontend import mfcc

DEFAULT: dict[str, Any] = {
    "sr": 16_000,
    "n_mfcc": 40,
    "n_fft": 1024,
    "hop_length": 256,
    "n_mels": 80,
    "fmin": 80.0,
    "fmax": 8000.0,
}
SETTINGS = {
    "default": {},
    "hop that does not divide": {"hop_length": 300},
    "hop longer than the frame": {"n_fft": 256, "hop_length": 700},
    "short frames": {"n_fft": 400, "hop_length": 160, "n_mels": 40, "n_mfcc": 13},
    "odd frames": {"n_fft": 1023, "hop_length": 250},
    "all bands, from 0 Hz": {"n_mels": 64, "n_mfcc": 64, "fmin": 0.0},
    "up to 4 kHz": {"fmin": 300.0, "fmax": 4000.0, "n_mels": 26, "n_mfcc": 20},
    "below the bend of the mel scale": {"fmin": 0.0, "fmax": 900.0, "n_mels": 12, "n_mfcc": 12},
    "another rate": {"sr": 22_050, "fmax": 11_025.0, "n_fft": 2048, "hop_length": 512, "n_mels": 128},
    "a narrow range": {"top_db": 20.0},
}
# Around the half frame of padding, the hop, and one second.
LENGTHS = (1, 255, 256, 257, 16_000, 16_001)


def sound(n_samples: int, *, seed: int = 0) -> np.ndarray:
    """Two gliding tones that swell over a little noise."""
    time = np.arange(n_samples) / 16_000
    tones = np.sin(2 * np.pi * (200 + 400 * time) * time) + 0.3 * np.sin(2 * np.pi * 3100 * time)
    noise = np.random.default_rng(seed).normal(0, 0.003, n_samples)
    return (0.4 * tones * np.abs(np.sin(3 * time)) + noise).astype(np.float32)


def reference(waveform: np.ndarray, **settings: Any) -> np.ndarray:
    """[time, n_mfcc] by librosa."""
    settings = {**DEFAULT, **settings}
    top_db = settings.pop("top_db", 80.0)
    n_mfcc = settings.pop("n_mfcc")
    db = librosa.power_to_db(librosa.feature.melspectrogram(y=waveform, **settings), top_db=top_db)
    return librosa.feature.mfcc(S=db, n_mfcc=n_mfcc).T


def ours(waveform: np.ndarray, **settings: Any) -> jax.Array:
    # Compiled as a whole: one by one, the operations of every new shape take ten times as long to compile.
    return jax.jit(functools.partial(mfcc, **settings))(waveform)


def assert_close(coefficients: jax.Array, theirs: np.ndarray) -> None:
    assert coefficients.shape == theirs.shape
    np.testing.assert_allclose(coefficients, theirs, rtol=0, atol=1e-3 * max(np.ptp(theirs), 1.0))


def test_the_reference_is_librosas_own_mfcc() -> None:
    np.testing.assert_array_equal(reference(sound(16_000)), librosa.feature.mfcc(y=sound(16_000), **DEFAULT).T)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_equals_librosa_in_every_setting(settings: dict) -> None:
    waveform = sound(5_000)
    assert_close(ours(waveform, **settings), reference(waveform, **settings))


@pytest.mark.filterwarnings("ignore:n_fft=.* is too large")
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_equals_librosa_at_every_length(n_samples: int) -> None:
    coefficients = ours(sound(n_samples))
    assert coefficients.shape == (1 + n_samples // 256, 40)
    assert_close(coefficients, reference(sound(n_samples)))


@pytest.mark.parametrize(
    "waveform",
    [np.zeros(16_000), np.full(16_000, 1e-7), np.ones(16_000), np.concatenate([np.zeros(12_000), sound(4_000)])],
    ids=["silence", "below the floor", "a constant", "silence, then sound"],
)
def test_equals_librosa_at_the_edges_of_the_range(waveform: np.ndarray) -> None:
    waveform = waveform.astype(np.float32)
    assert_close(ours(waveform), reference(waveform))


@pytest.mark.parametrize("gain", [1.0, 1e-2, 1e-4])
def test_the_clip_in_db_is_of_each_example_alone(gain: float) -> None:
    """A loud example in the batch does not raise the floor of a quiet one."""
    quiet = np.concatenate([gain * sound(8_000), np.zeros(8_000, np.float32)]).astype(np.float32)
    together = ours(np.stack([quiet, sound(16_000)]), top_db=30.0)
    assert_close(together[0], reference(quiet, top_db=30.0))


def test_leading_axes_and_vmap_give_each_row_alone() -> None:
    batch = np.stack([sound(4_000, seed=seed) * 10.0**-seed for seed in range(6)]).reshape(2, 3, 4_000)
    together = ours(batch)
    mapped = jax.jit(jax.vmap(jax.vmap(mfcc)))(batch)
    assert together.shape == mapped.shape == (2, 3, 16, 40)
    for i, j in np.ndindex(2, 3):
        alone = ours(batch[i, j])
        np.testing.assert_allclose(together[i, j], alone, atol=1e-3)
        np.testing.assert_allclose(mapped[i, j], alone, atol=1e-3)


def test_jit_changes_nothing() -> None:
    waveform = sound(16_000)
    np.testing.assert_allclose(ours(waveform), mfcc(jnp.asarray(waveform)), atol=1e-3)


@pytest.mark.parametrize("waveform", [np.zeros(4_000, np.float32), sound(4_000)], ids=["silence", "sound"])
def test_the_gradient_is_finite(waveform: np.ndarray) -> None:
    gradient = jax.jit(jax.grad(lambda x: jnp.square(mfcc(x)).sum()))(waveform)
    assert np.isfinite(gradient).all()
    assert np.any(gradient) == np.any(waveform)
