"""The MFCC is librosa's, in every setting, for every length, in every batch; SpecAugment hides one run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from fusion_emotion.models.frontend import cepstrum, frame_mask, log_mel, mfcc, spec_augment

DEFAULT: dict[str, Any] = {"sr": 16_000, "n_mfcc": 40, "n_fft": 1024, "hop_length": 256}
DEFAULT |= {"n_mels": 80, "fmin": 80.0, "fmax": 8000.0}
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


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_equals_librosa_in_every_setting(settings: dict) -> None:
    assert_close(ours(sound(5_000), **settings), reference(sound(5_000), **settings))


# Around the half frame of padding, the hop, and one second; and at the edges of the range of loudness
WAVEFORMS = {f"{n} samples": sound(n) for n in (1, 255, 256, 16_001)} | {
    "silence": np.zeros(16_000, np.float32),
    "below the floor": np.full(16_000, 1e-7, np.float32),
    "a constant": np.ones(16_000, np.float32),
    "silence, then sound": np.concatenate([np.zeros(12_000, np.float32), sound(4_000)]),
}


@pytest.mark.filterwarnings("ignore:n_fft=.* is too large")
@pytest.mark.parametrize("waveform", WAVEFORMS.values(), ids=WAVEFORMS)
def test_equals_librosa_at_every_length_and_loudness(waveform: np.ndarray) -> None:
    coefficients = ours(waveform)
    assert_close(coefficients, reference(waveform))
    [mask] = frame_mask(jnp.array([len(waveform)]), 256, n_frames=99)
    assert mask.sum() == len(coefficients) == 1 + len(waveform) // 256


def test_each_example_of_a_batch_is_as_alone() -> None:
    """Among others the range in dB: a loud example does not raise the floor of a quiet one."""
    batch = np.stack([sound(4_000, seed=seed) * 10.0**-seed for seed in range(6)]).reshape(2, 3, 4_000)
    batch[:, :, 3_000:] = 0
    together = ours(batch, top_db=30.0)
    for i, j in np.ndindex(2, 3):
        assert_close(together[i, j], reference(batch[i, j], top_db=30.0))


@pytest.mark.parametrize("waveform", [np.zeros(4_000, np.float32), sound(4_000)], ids=["silence", "sound"])
def test_the_gradient_is_finite(waveform: np.ndarray) -> None:
    gradient = jax.jit(jax.grad(lambda x: (mfcc(x) ** 2).sum()))(waveform)
    assert np.isfinite(gradient).all()
    assert np.any(gradient) == np.any(waveform)


def test_the_range_is_of_the_frames_within_the_mask() -> None:
    waveform = np.concatenate([sound(4_000), 100 * sound(4_000)])[None]
    mask = frame_mask(jnp.array([3_000]), 256, n_frames=32)
    quiet = jax.jit(functools.partial(log_mel, top_db=30.0))(waveform, mask=mask)[mask]
    alone = jax.jit(log_mel)(waveform)[mask]  # with a floor far below
    np.testing.assert_allclose(quiet, np.maximum(alone, alone.max() - 30), atol=1e-3)


def test_the_mfcc_is_its_two_halves() -> None:
    waveform = sound(16_000)
    np.testing.assert_allclose(ours(waveform), cepstrum(jax.jit(log_mel)(waveform), n_mfcc=40), atol=1e-3)


# SpecAugment

N, TIME, BANDS = 256, 63, 80
hide = jax.jit(spec_augment, static_argnames=("most_frames", "most_bands"))


def hidden(lengths: np.ndarray, *, most_frames: int = 0, most_bands: int = 0) -> np.ndarray:
    """True where a spectrogram without an equal pair of values was replaced, by the mean of its true frames."""
    db = np.random.default_rng(0).normal(-40, 10, (N, TIME, BANDS)).astype(np.float32)
    mask = np.arange(TIME) < lengths[:, None]
    keys = jax.random.split(jax.random.key(0), N)
    out = np.asarray(hide(db, keys, mask, most_frames=most_frames, most_bands=most_bands))
    changed = out != db
    means = np.array([db[i, : lengths[i]].mean() for i in range(N)])
    np.testing.assert_allclose(out[changed], means[np.nonzero(changed)[0]], rtol=1e-4)
    return changed


@pytest.mark.parametrize(("name", "axis", "most"), [("most_frames", 1, 12), ("most_bands", 2, 15)])
def test_spec_augment_hides_one_run_of_whole_frames_or_bands(name: str, axis: int, most: int) -> None:
    cells = hidden(np.full(N, TIME), **{name: most})
    lines = cells.all(3 - axis)
    np.testing.assert_array_equal(lines, cells.any(3 - axis))
    widths = lines.sum(1)
    assert set(widths) == set(range(most + 1))
    assert (np.abs(np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int))).sum(1) == 2 * (widths > 0)).all()
    assert lines[:, [0, -1]].any(0).all()


def test_spec_augment_never_draws_padding() -> None:
    lengths = np.random.default_rng(1).integers(1, TIME + 1, N)
    frames = hidden(lengths, most_frames=12).any(2)
    assert not (frames & (np.arange(TIME) >= lengths[:, None])).any()
    assert frames[np.arange(N), lengths - 1].any()
    assert frames[lengths < 12].all(1).sum() == 0
    both = hidden(np.full(N, TIME), most_frames=12, most_bands=15)
    frames, bands = both.all(2).sum(1), both.all(1).sum(1)
    np.testing.assert_array_equal(both.sum((1, 2)), frames * BANDS + bands * TIME - frames * bands)
