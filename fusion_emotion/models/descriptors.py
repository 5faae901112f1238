"""Low-level descriptors of the voice, every 10 ms: pitch, voice quality, loudness and the shape of the spectrum.

They follow ComParE and eGeMAPS (Eyben et al. 2016, doi:10.1109/TAFFC.2015.2457417) in what they measure, not to the
bit. Single periods are not marked: changes of pitch and of level from frame to frame stand for jitter and shimmer.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fusion_emotion.models.frontend import cepstrum, frame_mask, frames, hann, mel_filters, power_spectrum
from fusion_emotion.units import SAMPLE_RATE_HZ

HOP = 160  # samples from a frame to the next
_WINDOW = 512  # samples of a frame of the spectrum
_LONG = 1024  # samples of a frame of the pitch: three periods of 60 Hz
_PADDED = 2 * _LONG  # so that the autocorrelation does not wrap around
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 600.0  # of the pitch
_FIRST_LAG, _N_LAGS = int(SAMPLE_RATE_HZ / _HIGHEST_HZ), int(SAMPLE_RATE_HZ / _LOWEST_HZ) + 2
_OCTAVE_COST = 0.02  # prefers the shorter of equally good periods (Boersma 1993, who has 0.01)
_VOICED, _QUIET_DB = 0.5, -35.0  # least periodicity, and level below the loudest frame, of a voiced frame
_SEMITONES_ABOVE_HZ = 55.0
_LEAST_CHANGE = 0.1  # semitones in 10 ms; in a steady voice less is mostly rounding
_N_MEL, _N_MFCC = 26, 16
_TOP_DB = 80.0
_SILENCE = 1e-10  # power, of what rounding to 16 bits adds (2^-30 / 12); less is not looked at

_HZ = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE_HZ).astype(np.float32)
_LONG_HZ = np.fft.rfftfreq(_PADDED, 1 / SAMPLE_RATE_HZ).astype(np.float32)
_FORMANTS = {"formant1": (200, 1000), "formant2": (800, 2500), "formant3": (2000, 4000)}  # Hz
_SLOPES = ((0, 500), (500, 1500), (1500, 5000))  # Hz
_ROLL_OFFS = (25, 50, 75, 90)  # per cent of the power

SPECTRAL = (
    *(f"mfcc{i}" for i in range(_N_MFCC)),
    *("level", "loudness", "zero_crossings", "low_level", "high_level", "alpha_ratio", "hammarberg"),
    *(f"slope{low}" for low, _ in _SLOPES),
    *(f"roll_off{share}" for share in _ROLL_OFFS),
    *("flux", "onset", "centroid", "spread", "skewness", "kurtosis", "entropy", "flatness", "sharpness"),
    *(f"{name}{suffix}" for name in _FORMANTS for suffix in ("", "_width")),
)
VOICE = ("pitch", "periodicity", "hnr", "cepstral_peak", "h1_h2", "h1_a3", "jitter", "jitter2", "shimmer")


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """Descriptors of a batch of clips, by frame."""

    spectral: Float[Array, "batch time spectral"]  # in the order of SPECTRAL
    voice: Float[Array, "batch time voice"]  # in the order of VOICE; meaningful where voiced
    relative_db: Float[Array, "batch time"]  # level below the clip's loudest frame
    inside: Bool[Array, "batch time"]  # False: padding
    voiced: Bool[Array, "batch time"]

    def named(self, name: str) -> Float[Array, "batch time"]:
        """One descriptor by its name."""
        return self.voice[..., VOICE.index(name)] if name in VOICE else self.spectral[..., SPECTRAL.index(name)]


def descriptors(
    waveform: Float[Array, "batch samples"], n_samples: Int[Array, "batch"], *, fft: bool = True
) -> Descriptors:
    """Compute the descriptors of sound in [-1, 1] at 16 kHz, of which `n_samples` are not padding.

    `fft` is that of `frontend.power_spectrum`.
    """
    n_frames = 1 + waveform.shape[1] // HOP
    inside = frame_mask(n_samples, HOP, n_frames=n_frames)
    power = _power(waveform, n_fft=_WINDOW, window=_WINDOW, fft=fft)
    values = {**_levels(power, inside), **_shapes(power)}
    pieces = frames(waveform, _WINDOW, HOP)
    values["zero_crossings"] = ((pieces[..., 1:] < 0) != (pieces[..., :-1] < 0)).mean(axis=-1)

    values |= _voice(_power(waveform, n_fft=_PADDED, window=_LONG, fft=fft), values["level"])
    relative = values["level"] - jnp.where(inside, values["level"], -jnp.inf).max(axis=1, keepdims=True)
    return Descriptors(
        spectral=jnp.stack([values[name] for name in SPECTRAL], axis=-1),
        voice=jnp.stack([values[name] for name in VOICE], axis=-1),
        relative_db=relative,
        inside=inside,
        voiced=(values["periodicity"] > _VOICED) & (relative > _QUIET_DB) & inside,
    )


Spectrum = Float[Array, "batch time bins"]
Values = dict[str, Float[Array, "batch time"]]


def _power(waveform: Float[Array, "batch samples"], *, n_fft: int, window: int, fft: bool) -> Spectrum:
    """The spectrum of each frame; that of white noise is its variance."""
    power = power_spectrum(waveform, n_fft=n_fft, hop_length=HOP, window=window, fft=fft)
    return power / np.square(hann(window)).sum()


def _db(power: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return 10 * jnp.log10(jnp.maximum(power, _SILENCE))


def _bins(low: float, high: float) -> Bool[np.ndarray, "bins"]:
    return (low <= _HZ) & (high > _HZ)


def _levels(power: Spectrum, inside: Bool[Array, "batch time"]) -> Values:
    """Levels in dB, loudness and MFCCs."""
    mel = power @ mel_filters(SAMPLE_RATE_HZ, _WINDOW, _N_MEL, 20.0, SAMPLE_RATE_HZ / 2).T
    db = _db(mel)
    db = jnp.maximum(db, jnp.where(inside[..., None], db, -jnp.inf).max(axis=(1, 2), keepdims=True) - _TOP_DB)
    coefficients = cepstrum(db, n_mfcc=_N_MFCC)
    rise = jnp.maximum(db[:, 1:] - db[:, :-1], 0).mean(axis=-1)

    def band(low: float, high: float) -> Float[Array, "batch time"]:
        return _db(jnp.where(_bins(low, high), power, 0.0).sum(axis=-1))

    def peak(low: float, high: float) -> Float[Array, "batch time"]:
        return _db(jnp.where(_bins(low, high), power, 0.0).max(axis=-1))

    return {
        **{f"mfcc{i}": coefficients[..., i] for i in range(_N_MFCC)},
        "level": _db(power.sum(axis=-1)),
        "loudness": jnp.exp(0.3 * jnp.log(jnp.maximum(mel, 1e-20))).sum(axis=-1),  # Hermansky 1990 has the power 1/3
        "low_level": band(250, 650),
        "high_level": band(1000, 4000),
        "alpha_ratio": band(1000, 5000) - band(50, 1000),
        "hammarberg": peak(0, 2000) - peak(2000, 5000),
        "onset": jnp.pad(rise, ((0, 0), (1, 0))),
    }


def _shapes(power: Spectrum) -> Values:
    """Moments, slopes and roll-offs of the spectrum."""
    share = power / jnp.maximum(power.sum(axis=-1, keepdims=True), _SILENCE)
    centroid = (share * _HZ).sum(axis=-1)
    away = _HZ - centroid[..., None]
    spread = jnp.sqrt(jnp.maximum((share * jnp.square(away)).sum(axis=-1), 1))
    z = away / spread[..., None]
    magnitude = jnp.sqrt(power)
    unit = magnitude / jnp.maximum(jnp.sqrt(power.sum(axis=-1, keepdims=True)), 1e-5)
    values = {
        "flux": jnp.pad(jnp.sqrt(jnp.square(unit[:, 1:] - unit[:, :-1]).sum(axis=-1)), ((0, 0), (1, 0))),
        "centroid": jnp.log(centroid + 50),
        "spread": jnp.log(spread),
        "skewness": jnp.clip((share * z**3).sum(axis=-1), -5.0, 10.0),
        "kurtosis": jnp.log(jnp.clip((share * z**4).sum(axis=-1), 1.0, 500.0)),
        "entropy": -(share * jnp.log2(share + _SILENCE)).sum(axis=-1),
        "flatness": jnp.log(jnp.maximum(power, _SILENCE)).mean(axis=-1)
        - jnp.log(jnp.maximum(power.mean(axis=-1), _SILENCE)),
        "sharpness": _sharpness(power),
    }
    below = jnp.cumsum(share, axis=-1)
    for percent in _ROLL_OFFS:
        values[f"roll_off{percent}"] = jnp.log1p((below < percent / 100).sum(axis=-1).astype(power.dtype))
    db = _db(power)
    for low, high in _SLOPES:
        khz = np.where(_bins(low, high), _HZ - _HZ[_bins(low, high)].mean(), 0) / 1000
        values[f"slope{low}"] = db @ (khz / np.square(khz).sum()).astype(np.float32)
    for name, (low, high) in _FORMANTS.items():
        weight = jnp.where(_bins(low, high), magnitude, 0.0)
        weight = weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-9)
        centre = (weight * _HZ).sum(axis=-1)
        width = jnp.sqrt((weight * jnp.square(_HZ - centre[..., None])).sum(axis=-1))
        values |= {name: jnp.log(centre + 1), f"{name}_width": jnp.log(width + 1)}
    return values


def _sharpness(power: Spectrum) -> Float[Array, "batch time"]:
    """Psychoacoustic sharpness (Zwicker & Fastl 1999, after openSMILE), of loudness as the fourth root of power."""
    bark = 13 * np.arctan(0.00076 * _HZ) + 3.5 * np.arctan((_HZ / 7500) ** 2)
    weight = bark * np.where(bark < 16, 1, 0.066 * np.exp(0.171 * bark))
    loudness = jnp.sqrt(jnp.sqrt(jnp.maximum(power, 1e-12)))
    return (loudness @ weight.astype(np.float32)) / loudness.sum(axis=-1)


def _voice(power: Spectrum, level: Float[Array, "batch time"]) -> Values:
    """Pitch in semitones above 55 Hz and voice quality, by the autocorrelation (Boersma 1993) and the cepstrum."""
    power = jnp.where(_LONG_HZ >= 40, power, 0.0)  # neither a constant nor rumble has a period
    energy = power @ _inverse()[:, :1]
    share = power / jnp.maximum(energy, _SILENCE)
    # Its steps from lag to lag are a product of their own: rounding would be much of the difference of two values that
    # are nearly 1.
    steps = share @ _steps()
    correlation = 1 + jnp.cumsum(steps, axis=-1)  # from lag 1
    before, after = steps[..., :-1], steps[..., 1:]
    is_peak = (before >= 0) & (after < 0)
    lags = np.arange(1, _N_LAGS - 1)
    cost = (_OCTAVE_COST * np.log2(lags / _FIRST_LAG)).astype(np.float32)
    score = jnp.where(is_peak & (lags >= _FIRST_LAG), correlation[..., :-1] - cost, -1.0)[..., _FIRST_LAG - 1 :]
    best, periodic = score.argmax(axis=-1) + _FIRST_LAG, (score.max(axis=-1) > -1) & (energy[..., 0] > _SILENCE)

    def at_best(x: Float[Array, "batch time lags"]) -> Float[Array, "batch time"]:
        return jnp.take_along_axis(x, best[..., None] - 1, axis=-1)[..., 0]

    # The peak of the parabola through three lags.
    before, after = at_best(before), at_best(after)
    slope, bend = before + after, after - before
    curved = periodic & (bend < -1e-6)
    shift = jnp.clip(jnp.where(curved, -0.5 * slope / jnp.where(curved, bend, 1.0), 0.0), -0.5, 0.5)
    periodicity = at_best(correlation) + 0.25 * slope * shift
    periodicity = jnp.clip(jnp.where(periodic, periodicity, 0.0), 0.001, 0.999)
    pitch = _median5(12 * jnp.log2(SAMPLE_RATE_HZ / (best.astype(shift.dtype) + shift) / _SEMITONES_ABOVE_HZ))

    quefrencies = jnp.log(power + _SILENCE) @ _inverse()[:, _FIRST_LAG:]
    hz = _SEMITONES_ABOVE_HZ * jnp.exp2(pitch / 12)

    def harmonic(number: int) -> Float[Array, "batch time"]:
        """The level of the highest of the bins within two of a harmonic, and less and less of those within three."""
        at = (hz * number / _LONG_HZ[1])[..., None]
        near = jnp.round(at) + np.arange(-3.0, 4.0, dtype=np.float32)
        around = jnp.take_along_axis(power, jnp.clip(near, 0, _LONG).astype(jnp.int32), axis=-1)
        return _db((jnp.clip(3 - jnp.abs(near - at), 0, 1) * around).max(axis=-1))

    first = harmonic(1)
    third = _db(jnp.where((_LONG_HZ >= 2000) & (_LONG_HZ < 4000), power, 0.0).max(axis=-1))
    return {
        "pitch": pitch,
        "periodicity": periodicity,
        "hnr": 10 * jnp.log10(periodicity / (1 - periodicity)),
        "cepstral_peak": quefrencies.max(axis=-1) - quefrencies.mean(axis=-1),
        "h1_h2": first - harmonic(2),
        "h1_a3": first - third,
        "jitter": jnp.log(jnp.pad(jnp.abs(pitch[:, 1:] - pitch[:, :-1]), ((0, 0), (1, 0))) + _LEAST_CHANGE),
        "jitter2": jnp.log(_bend(pitch) + _LEAST_CHANGE),
        "shimmer": _bend(level),
    }


def _bend(x: Float[Array, "batch time"]) -> Float[Array, "batch time"]:
    """The magnitude of the second difference, 0 at both ends."""
    return jnp.pad(jnp.abs(x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]), ((0, 0), (1, 1)))


def _median5(x: Float[Array, "batch time"]) -> Float[Array, "batch time"]:
    """The median of five neighbours, by comparisons; the ends are repeated."""
    padded = jnp.concatenate([x[:, :1], x[:, :1], x, x[:, -1:], x[:, -1:]], axis=1)
    a, b, c, d, e = (padded[:, i : i + x.shape[1]] for i in range(5))
    a, b = jnp.minimum(a, b), jnp.maximum(a, b)
    d, e = jnp.minimum(d, e), jnp.maximum(d, e)
    # The least and the greatest of the four cannot be the median of the five.
    low, high = jnp.maximum(a, d), jnp.minimum(b, e)
    return jnp.maximum(jnp.minimum(low, high), jnp.minimum(jnp.maximum(low, high), c))


@functools.cache
def _inverse() -> Float[np.ndarray, "bins lags"]:
    """The first lags of an inverse Fourier transform of a real, even spectrum, as a matrix."""
    return _exact_inverse().astype(np.float32)


def _exact_inverse() -> Float[np.ndarray, "bins lags"]:
    bins, lags = np.arange(_LONG + 1)[:, None], np.arange(_N_LAGS)
    twice = np.where((bins > 0) & (bins < _LONG), 2, 1)
    return twice * np.cos(2 * np.pi * (bins * lags % _PADDED) / _PADDED) / _PADDED


@functools.cache
def _steps() -> Float[np.ndarray, "bins steps"]:
    """From the spectrum of a frame to the steps of its autocorrelation from lag to lag, divided by the window's."""
    spectrum = np.fft.rfft(hann(_LONG), _PADDED)
    of_window = np.fft.irfft(np.square(np.abs(spectrum)))[:_N_LAGS]
    return np.diff(_exact_inverse() / (of_window / of_window[0]), axis=1).astype(np.float32)
