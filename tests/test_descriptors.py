"""Descriptors of the voice agree with librosa, with openSMILE, and with a voice whose pitch and noise are known."""

import functools
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.stats
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from fusion_emotion.models.descriptors import HOP, Descriptors, descriptors
from fusion_emotion.models.functionals import (
    active_part,
    contour,
    distribution,
    functionals,
    rhythm,
)

SR = 16_000
N = 2 * SR
HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)


def sung(hz: np.ndarray, *, snr_db: float = 40.0, seed: int = 0) -> np.ndarray:
    """Harmonics of a pitch given for every sample, falling by 6 dB an octave, with white noise; quiet at both ends."""
    phase = 2 * np.pi * np.cumsum(hz) / SR
    voice = sum(np.sin(k * phase) / k for k in range(1, 8))
    noise = np.random.default_rng(seed).normal(size=len(hz))
    noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    sound = 0.1 * (voice + noise)
    sound[: SR // 4] *= 1e-4
    sound[-SR // 2 :] *= 1e-4
    return sound.astype(np.float32)


GLIDE = 180 * 2 ** (np.sin(2 * np.pi * 1.5 * np.arange(N) / SR) / 4)


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return sung(GLIDE)


def described(sound: np.ndarray, *, padding: int = 0, fft: bool = True) -> Descriptors:
    padded = np.pad(sound, (0, padding))[None]
    fields = compiled(fft)(padded, np.array([len(sound)], np.int32))
    return Descriptors(**fields)


@functools.cache
def compiled(fft: bool) -> Callable[..., dict[str, jax.Array]]:
    return jax.jit(lambda sound, n: vars(descriptors(sound, n, fft=fft)))


statistics = jax.jit(lambda fields: functionals(Descriptors(**fields)))


@pytest.fixture(scope="module")
def found(sound: np.ndarray) -> Descriptors:
    return described(sound)


def power_of(sound: np.ndarray) -> np.ndarray:
    """The periodogram of each frame, by librosa, [bins, time]."""
    spectrum = librosa.stft(sound, n_fft=512, hop_length=HOP, window="hann", pad_mode="constant")
    return np.abs(spectrum) ** 2 / np.sum(HANN**2)


def by_librosa(name: str, sound: np.ndarray) -> np.ndarray:
    power = power_of(sound)
    magnitude, hz = np.sqrt(power), librosa.fft_frequencies(sr=SR, n_fft=512)
    # librosa's take a magnitude as a weight: ours is the power.
    centroid = librosa.feature.spectral_centroid(S=power, freq=hz)
    if name.startswith("mfcc"):
        mel = librosa.feature.melspectrogram(S=power, sr=SR, n_mels=26, fmin=20, fmax=8000)
        return librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=80), n_mfcc=16)[int(name[4:])]
    if name.startswith("roll_off"):
        rolled = librosa.feature.spectral_rolloff(S=power, freq=hz, roll_percent=int(name[8:]) / 100)
        return np.log1p(rolled[0] / hz[1])
    if name == "zero_crossings":
        framed = librosa.util.frame(np.pad(sound, 256), frame_length=512, hop_length=HOP)
        return np.mean(np.diff(framed < 0, axis=0), axis=0)
    return {
        "level": lambda: 10 * np.log10(np.maximum(power.sum(axis=0), 1e-10)),
        "centroid": lambda: np.log(centroid[0] + 50),
        "spread": lambda: np.log(librosa.feature.spectral_bandwidth(S=power, freq=hz, centroid=centroid)[0]),
        "flatness": lambda: np.log(librosa.feature.spectral_flatness(S=magnitude, amin=1e-10)[0]),
        "entropy": lambda: scipy.stats.entropy(power, base=2, axis=0),
    }[name]()


NAMES = ["mfcc0", "mfcc3", "mfcc15", "roll_off25", "roll_off90", "zero_crossings", "level", "centroid", "spread"]


@pytest.mark.parametrize("name", [*NAMES, "flatness", "entropy"])
def test_librosa_and_scipy_agree(name: str, sound: np.ndarray, found: Descriptors) -> None:
    loud = slice(30, 140)  # in silence both have floors, which differ
    np.testing.assert_allclose(found.named(name)[0, loud], by_librosa(name, sound)[loud], rtol=2e-3, atol=5e-3)


def test_moments_slopes_and_levels_of_bands_are_those_of_a_frame_by_hand(sound: np.ndarray, found: Descriptors) -> None:
    power, hz, frame = power_of(sound)[:, 100], librosa.fft_frequencies(sr=SR, n_fft=512), 100
    db = 10 * np.log10(np.maximum(power, 1e-10))
    share = power / power.sum()
    mean = (share * hz).sum()
    z = (hz - mean) / np.sqrt((share * (hz - mean) ** 2).sum())
    weights = np.sqrt(power) * ((hz >= 200) & (hz < 1000))
    centre = (weights * hz).sum() / weights.sum()
    mel = librosa.filters.mel(sr=SR, n_fft=512, n_mels=26, fmin=20, fmax=8000) @ power_of(sound)
    unit = np.sqrt(power_of(sound)[:, frame - 1 : frame + 1] / power_of(sound)[:, frame - 1 : frame + 1].sum(axis=0))

    def band(low: float, high: float) -> np.ndarray:
        return power[(hz >= low) & (hz < high)]

    inside = (hz >= 500) & (hz < 1500)
    expected = {
        "skewness": (share * z**3).sum(),
        "kurtosis": np.log((share * z**4).sum()),
        "slope500": np.polyfit(hz[inside] / 1000, db[inside], 1)[0],
        "alpha_ratio": 10 * np.log10(band(1000, 5000).sum() / band(50, 1000).sum()),
        "hammarberg": 10 * np.log10(band(0, 2000).max() / band(2000, 5000).max()),
        "low_level": 10 * np.log10(band(250, 650).sum()),
        "high_level": 10 * np.log10(band(1000, 4000).sum()),
        "formant1": np.log(centre + 1),
        "formant1_width": np.log(np.sqrt((weights * (hz - centre) ** 2).sum() / weights.sum()) + 1),
        "loudness": (mel[:, frame] ** 0.3).sum(),
        "flux": np.sqrt(((unit[:, 1] - unit[:, 0]) ** 2).sum()),
        "onset": np.maximum(np.diff(10 * np.log10(mel[:, frame - 1 : frame + 1])), 0).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.named(name)[0, frame], value, rtol=2e-3, atol=2e-3, err_msg=name)


def test_pitch_is_the_singers_and_silence_is_not_voiced(found: Descriptors) -> None:
    time = np.arange(found.voiced.shape[1]) * HOP
    singing = (time > SR // 4 + 512) & (time < N - SR // 2 - 512)
    np.testing.assert_array_equal(found.voiced[0][singing], True)
    assert not found.voiced[0][(time < SR // 4 - 512) | (time > N - SR // 2 + 512)].any()
    true = 12 * np.log2(GLIDE[np.minimum(time, N - 1)] / 55)
    np.testing.assert_allclose(found.named("pitch")[0][singing], true[singing], atol=0.15)


@pytest.mark.parametrize("hz", [70.0, 110.0, 233.0, 415.0, 580.0])
def test_no_octave_is_mistaken(hz: float) -> None:
    voiced = described(sung(np.full(N, hz), snr_db=20))
    error = np.asarray(voiced.named("pitch")[0, 40:140]) - 12 * np.log2(hz / 55)
    assert np.abs(error).max() < 0.2


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_harmonics_to_noise_is_the_ratio_that_was_mixed(snr_db: float) -> None:
    voice = described(sung(np.full(N, 150.0), snr_db=snr_db))
    assert abs(np.median(voice.named("hnr")[0, 40:140]) - snr_db) < 1.5


def test_voice_quality_follows_what_was_sung() -> None:
    steady, rough = (described(sung(hz)) for hz in (np.full(N, 150.0), GLIDE))
    noisy = described(sung(np.full(N, 150.0), snr_db=0))
    middle = slice(40, 140)

    def mean(of: Descriptors, name: str) -> float:
        return float(of.named(name)[0, middle].mean())

    # The second harmonic has half the amplitude of the first; those at 2 to 4 kHz are absent.
    assert abs(mean(steady, "h1_h2") - 20 * np.log10(2)) < 1
    assert mean(steady, "h1_a3") > 40
    assert mean(steady, "cepstral_peak") > mean(noisy, "cepstral_peak") + 0.05
    # In semitones: 0.1 is added to each change before the logarithm, here 0.01.
    log_change = [np.log(np.exp(of.named("jitter")[0, middle]) - 0.09).mean() for of in (rough, steady)]
    assert log_change[0] > log_change[1] + 1
    assert mean(noisy, "shimmer") > mean(steady, "shimmer") + 0.1
    assert mean(noisy, "jitter2") > mean(steady, "jitter2")


def test_sharpness_rises_with_frequency() -> None:
    time = np.arange(N) / SR
    tones = [
        float(described(0.1 * np.sin(2 * np.pi * hz * time).astype(np.float32)).named("sharpness")[0, 100])
        for hz in (200, 1000, 4000)
    ]
    assert tones == sorted(tones)


# Of openSMILE's eGeMAPS: ours, and the frames of 10 ms by which its windows, which begin with the sound, are behind
# ours, which are centred. Measured: 0.995, 0.98, 0.998, 0.99, 0.83, 0.90, 0.95, 0.64, 0.97.
PAIRS = {
    "F0semitoneFrom27.5Hz_sma3nz": ("pitch", 3, 0.98),
    "Loudness_sma3": ("loudness", 1, 0.95),
    "alphaRatio_sma3": ("alpha_ratio", 1, 0.98),
    "hammarbergIndex_sma3": ("hammarberg", 1, 0.98),
    "slope0-500_sma3": ("slope0", 1, 0.8),
    "slope500-1500_sma3": ("slope500", 1, 0.85),
    "HNRdBACF_sma3nz": ("hnr", 3, 0.9),
    "logRelF0-H1-A3_sma3nz": ("h1_a3", 3, 0.6),
    "mfcc1_sma3": ("mfcc1", 1, 0.95),
}


@pytest.mark.skipif(importlib.util.find_spec("opensmile") is None, reason="requirements-baselines.txt is not installed")
def test_opensmile_orders_the_frames_of_real_speech_alike(real_data) -> None:
    import opensmile

    files = sorted((real_data / "data/ravdess_speech_16k").glob("Actor_0[12]/03-01-0[156]-01-01-01-*.flac"))
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    pairs: dict[str, list[np.ndarray]] = {name: [] for name in PAIRS}
    for path in files:
        sound = np.resize(soundfile.read(path, dtype="float32")[0], 3 * SR)  # one length: one compilation
        table, found = smile.process_signal(sound, SR), described(sound)
        voiced = table["F0semitoneFrom27.5Hz_sma3nz"].to_numpy() > 0
        for theirs, (ours, behind, _) in PAIRS.items():
            # openSMILE's "sma3" is the same mean of three frames.
            value = np.convolve(found.named(ours)[0], np.ones(3) / 3, "same")[behind:]
            n = min(len(table), len(value))
            both = voiced[:n] & np.asarray(found.voiced[0, behind:])[:n]
            pairs[theirs].append(np.stack([table[theirs].to_numpy()[:n], value[:n]])[:, both])
    agreement = {name: scipy.stats.spearmanr(*np.concatenate(pair, axis=1)).statistic for name, pair in pairs.items()}
    assert not {name: value for name, value in agreement.items() if value < PAIRS[name][2]}


def test_a_bump_of_the_microphone_has_no_pitch() -> None:
    """Its autocorrelation only falls, so that no lag of the voice's is a peak."""
    time = np.arange(N) / SR
    bump = 0.5 * np.exp(-(((time - 1) / 0.02) ** 2))
    found = described(bump.astype(np.float32))
    assert not found.voiced.any()
    around = np.asarray(found.named("periodicity"))[0, 95:105]
    np.testing.assert_allclose(around, 0.001, rtol=1e-3)


# Statistics over time


def frames(*, seed: int = 0, n: int = 60) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(1, n, 3)), axis=1)
    mask = np.zeros((1, n), bool)
    mask[0, 7:50] = True
    place = np.clip((np.arange(n) - 7 + 0.5) / 43, 0, 1)[None]
    return jnp.asarray(x, jnp.float32), jnp.asarray(mask), jnp.asarray(place, jnp.float32)


def test_distribution_is_numpys_of_the_frames_in_the_mask() -> None:
    x, mask, _ = frames()
    inside = np.asarray(x[0, 7:50])
    found = {name: np.asarray(value[0]) for name, value in distribution(x, mask).items()}
    expected = {
        "mean": inside.mean(axis=0),
        "deviation": inside.std(axis=0),
        "skewness": scipy.stats.skew(inside),
        "kurtosis": np.log1p(scipy.stats.kurtosis(inside, fisher=False)),
        "lowest": inside.min(axis=0),
        "highest": inside.max(axis=0),
        "range": np.ptp(inside, axis=0),
        **{f"percentile{p}": np.percentile(inside, p, axis=0) for p in (10, 25, 50, 75, 90)},
        "quartiles": scipy.stats.iqr(inside, axis=0),
        "deciles": np.percentile(inside, 90, axis=0) - np.percentile(inside, 10, axis=0),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_contour_is_numpys_of_the_frames_in_the_mask() -> None:
    x, mask, place = frames()
    inside, time = np.asarray(x[0, 7:50]), 2 * np.asarray(place[0, 7:50]) - 1
    found = {name: np.asarray(value[0]) for name, value in contour(x, mask, place).items()}
    slope, at = np.polyfit(time, inside, 1)
    steps, centred = np.diff(inside, axis=0), inside - inside.mean(axis=0)
    z = centred / inside.std(axis=0)
    height = (inside - inside.min(axis=0)) / np.ptp(inside, axis=0)
    places = np.broadcast_to((time[:, None] + 1) / 2, inside.shape)
    # A step counts from a tenth of the deviation, and fully from two.
    up, down = (np.clip(sign * steps / (0.1 * inside.std(axis=0)) - 1, 0, 1) for sign in (1, -1))
    side = np.clip(z / 0.1, -1, 1)
    expected = {
        "slope": slope,
        "off_slope": (inside - (time[:, None] * slope + at)).std(axis=0),
        # Mean places, by the nearness of the value to the extreme: 1 there, 0 a tenth of the range away.
        "place_of_highest": np.average(places, axis=0, weights=np.clip(1 - 10 * (1 - height), 0, 1)),
        "place_of_lowest": np.average(places, axis=0, weights=np.clip(1 - 10 * height, 0, 1)),
        "above0.5": np.clip(10 * (height - 0.5) + 0.5, 0, 1).mean(axis=0),
        "cosine2": 2 * (centred * np.cos(np.pi * (time + 1))[:, None]).mean(axis=0),
        "change": np.abs(steps).mean(axis=0),
        "change_deviation": np.sqrt((steps**2).mean(axis=0)),
        "bend_deviation": np.sqrt((np.diff(steps, axis=0) ** 2).mean(axis=0)),
        "rising": up.mean(axis=0),
        "rise": np.average(steps, axis=0, weights=up),
        "fall": -np.average(steps, axis=0, weights=down),
        "crossings": np.clip(-side[1:] * side[:-1], 0, 1).mean(axis=0),
        "autocorrelation3": (z[3:] * z[:-3]).mean(axis=0),
    }
    assert expected.keys() < found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=1e-4, err_msg=name)


@given(seed=st.integers(0, 10_000))
def test_rounding_decides_no_statistic(seed: int) -> None:
    """Of values that repeat, as those of a roll-off do, so that there are steps of nothing and equal extremes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 6, (1, 60, 3)) / 3 + rng.integers(0, 2, 3)
    mask = jnp.ones((1, 60), bool)
    place = (jnp.arange(60)[None] + 0.5) / 60
    found = [
        {**distribution(y, mask), **contour(y, mask, place)}
        for y in (jnp.asarray(x, jnp.float32), jnp.asarray(x * (1 + 3e-7 * rng.normal(size=x.shape)), jnp.float32))
    ]
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, atol=2e-4, err_msg=name)


def test_rhythm_counts_runs() -> None:
    voiced = np.zeros((1, 40), bool)
    voiced[0, 2:14] = voiced[0, 20:26] = True
    active = np.ones((1, 40), bool)
    n, share, begun, run, rate, *rest = np.asarray(
        rhythm(jnp.asarray(active), jnp.asarray(voiced), jnp.full((1, 40), -15.0))[0]
    )
    assert (n, begun) == (40, 2)
    np.testing.assert_allclose([share, run, rate], [18 / 40, 9, 2 / 40])
    # Of 5 frames: 8 in the first and 2 in the second voiced run; 2 in the first and 10 in the last pause.
    np.testing.assert_allclose(rest[:2], [10 / 40, 12 / 40])
    np.testing.assert_allclose(rest[-4:], [1, 1, 0, 0])


def test_the_active_part_is_from_the_first_to_the_last_loud_frame() -> None:
    level = np.full((1, 20), -80.0)
    level[0, [4, 5, 9]] = 0.0
    active, place = active_part(jnp.asarray(level), jnp.ones((1, 20), bool))
    np.testing.assert_array_equal(np.flatnonzero(active[0]), range(4, 10))
    np.testing.assert_allclose(place[0, 4:10], (np.arange(6) + 0.5) / 6, rtol=1e-6)


def test_padding_and_the_way_of_the_transform_change_no_statistic(sound: np.ndarray) -> None:
    expected = np.asarray(statistics(vars(described(sound))))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(statistics(vars(described(sound, padding=6400))), expected, rtol=1e-3, atol=1e-3)


def test_silence_has_finite_statistics() -> None:
    assert np.isfinite(statistics(vars(described(np.zeros(N, np.float32))))).all()
