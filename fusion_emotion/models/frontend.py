"""Sound to log-mel spectrograms and MFCCs in JAX, equal to librosa's; masks of frames, and SpecAugment."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fusion_emotion.units import SAMPLES_PER_FRAME


def mfcc(
    waveform: Float[Array, "*batch samples"], *, n_mfcc: int = 40, **mel: Any
) -> Float[Array, "*batch time n_mfcc"]:
    """MFCCs of sound in [-1, 1]; `mel` are the parameters of `log_mel` (`librosa.feature.mfcc`, 0.11)."""
    return cepstrum(log_mel(waveform, **mel), n_mfcc=n_mfcc)


def log_mel(
    waveform: Float[Array, "*batch samples"],
    *,
    sr: int = 16_000,
    n_fft: int = 1024,
    hop_length: int = 256,
    n_mels: int = 80,
    fmin: float = 80.0,
    fmax: float = 8000.0,
    top_db: float = 80.0,
    fft: bool = True,
    mask: Bool[Array, "*batch time"] | None = None,
) -> Float[Array, "*batch time n_mels"]:
    """Mel spectrograms in dB of sound in [-1, 1], with librosa's parameters and values.

    Time is 1 + samples // hop_length, or 1 + (samples - 1) // hop_length for an odd n_fft. Centred frames with zeros
    beyond the ends, a periodic Hann window, Slaney's mel scale and area normalisation, power clipped `top_db` below
    each example's maximum. The maximum is over the frames where `mask` is True. Without `fft` the spectrum is
    two matrix products, which an export to ONNX needs.
    """
    power = power_spectrum(waveform, n_fft=n_fft, hop_length=hop_length, fft=fft)
    mel = power @ mel_filters(sr, n_fft, n_mels, fmin, fmax).T
    db = 10 * jnp.log10(jnp.maximum(mel, 1e-10))
    known = db if mask is None else jnp.where(mask[..., None], db, -jnp.inf)
    return jnp.maximum(db, known.max(axis=(-2, -1), keepdims=True) - top_db)


def spectrogram(
    batch: Mapping[str, Array], mel: Mapping[str, Any]
) -> tuple[Float[Array, "batch time n_mels"], Bool[Array, "batch time"], int]:
    """The log-mel spectrogram of a batch's sound, which frames are in each segment, and the samples between frames.

    `mel` are the parameters of `log_mel` other than its defaults.
    """
    hop = mel.get("hop_length", 256)
    odd = mel.get("n_fft", 1024) % 2  # padding by n_fft // 2 on both sides is one sample short for an odd frame
    n_frames = 1 + (batch["waveform"].shape[1] - odd) // hop
    inside = frame_mask(batch["n_frames"] * SAMPLES_PER_FRAME - odd, hop, n_frames=n_frames)
    return log_mel(batch["waveform"].astype(jnp.float32) / 32768, mask=inside, **mel), inside, hop


def power_spectrum(
    waveform: Float[Array, "*batch samples"], *, n_fft: int, hop_length: int, window: int = 0, fft: bool = True
) -> Float[Array, "*batch time bins"]:
    """The squared magnitude of the spectrum of centred frames under a periodic Hann window.

    A frame has `window` samples, and zeros up to `n_fft`; 0: all of `n_fft`. Without `fft` the spectrum is two matrix
    products.
    """
    window = window or n_fft
    windowed = frames(waveform, window, hop_length) * hann(window)
    # |rfft|^2 without the square root that jnp.abs would take.
    if fft:
        spectrum = jnp.fft.rfft(windowed, n_fft)
        return jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    cosine, sine = _dft(n_fft)
    return jnp.square(windowed @ cosine[:window]) + jnp.square(windowed @ sine[:window])


def frame_mask(n_samples: Int[Array, "batch"], hop_length: int, *, n_frames: int) -> Bool[Array, "batch n_frames"]:
    """True for the 1 + n_samples // hop_length frames that `n_samples` have, False for padding."""
    return jnp.arange(n_frames) * hop_length <= n_samples[:, None]


def spec_augment(
    db: Float[Array, "batch time n_mels"],
    keys: Key[Array, "batch"],
    mask: Bool[Array, "batch time"],
    *,
    most_frames: int,
    most_bands: int,
) -> Float[Array, "batch time n_mels"]:
    """Replace a run of up to `most_frames` frames and one of up to `most_bands` mel bands by the example's mean.

    SpecAugment (Park et al. 2019). `mask` is False in padding, which neither counts in the mean nor is drawn.
    """

    def one(key: Key[Array, ""], db: Float[Array, "time n_mels"], mask: Bool[Array, "time"]) -> Array:
        # The numbers of these streams are those of `input.augment`'s list.
        time_key, mel_key = jax.random.fold_in(key, 3), jax.random.fold_in(key, 4)
        keep = jnp.ones(db.shape, bool)
        if most_frames:
            keep &= keep_run(time_key, length=db.shape[0], n=mask.sum(), most=most_frames)[:, None]
        if most_bands:
            keep &= keep_run(mel_key, length=db.shape[1], n=db.shape[1], most=most_bands)
        mean = jnp.where(mask[:, None], db, 0).sum() / jnp.maximum(mask.sum() * db.shape[1], 1)
        return jnp.where(keep, db, mean)

    return jax.vmap(one)(keys, db, mask)


def warped(
    db: Float[Array, "batch time n_mels"],
    mask: Bool[Array, "batch time"],
    keys: Key[Array, "batch"],
    *,
    most_tempo: float,
    most_pitch: float,
) -> tuple[Float[Array, "batch time n_mels"], Bool[Array, "batch time"]]:
    """Stretch time by up to 1 +- `most_tempo`, and the mel bands by up to 1 +- `most_pitch`, each example by its own.

    The second stands for another length of the vocal tract (Jaitly & Hinton 2013). Both interpolate linearly, as matrix
    products. The mask begins with the first frame; what would reach beyond the last one is cut.
    """

    def one(key: Key[Array, ""], db: Array, mask: Array) -> tuple[Array, Array]:
        tempo_key, pitch_key = jax.random.fold_in(key, 11), jax.random.fold_in(key, 12)
        if most_tempo:
            speed = jax.random.uniform(tempo_key, (), minval=1 - most_tempo, maxval=1 + most_tempo)
            source = jnp.arange(len(mask)) * speed
            db = _interpolation(jnp.clip(source, None, len(mask) - 1), len(mask)) @ db
            mask = source <= mask.sum() - 1
        if most_pitch:
            stretch = jax.random.uniform(pitch_key, (), minval=1 - most_pitch, maxval=1 + most_pitch)
            bands = db.shape[1]
            db = db @ _interpolation(jnp.clip(jnp.arange(bands) * stretch, 0, bands - 1), bands).T
        return db, mask

    return jax.vmap(one)(keys, db, mask)


def _interpolation(source: Float[Array, "n"], size: int) -> Float[Array, "n size"]:
    """The matrix that reads a sequence of `size` values at fractional places."""
    return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))


def keep_run(key: Key[Array, ""], *, length: int, n: int | Int[Array, ""], most: int) -> Bool[Array, "length"]:
    """False in one run of 0 to `most` of the first `n` places, True elsewhere."""
    width_key, start_key = jax.random.split(key)
    width = jnp.minimum(jax.random.randint(width_key, (), 0, most + 1), n)
    start = jax.random.randint(start_key, (), 0, n - width + 1)
    place = jnp.arange(length)
    return (place < start) | (place >= start + width)


def cepstrum(db: Float[Array, "*batch time n_mels"], *, n_mfcc: int) -> Float[Array, "*batch time n_mfcc"]:
    """The first coefficients of the orthonormal DCT-II over the mel bands."""
    return db @ _dct(n_mfcc, db.shape[-1]).T


def frames(waveform: Float[Array, "*batch samples"], n_fft: int, hop_length: int) -> Float[Array, "*batch time n_fft"]:
    """Overlapping frames of `n_fft` samples, centred on every `hop_length`th, with zeros beyond the ends."""
    pad = [(0, 0)] * (waveform.ndim - 1) + [(n_fft // 2, n_fft // 2)]
    padded = jnp.pad(waveform, pad)
    n_frames = 1 + (padded.shape[-1] - n_fft) // hop_length
    # A frame is a run of hops: join a few slices, since gathering sample by sample costs as much as the FFT.
    n_blocks = -(-n_fft // hop_length)
    length = (n_frames + n_blocks - 1) * hop_length
    pad[-1] = (0, max(0, length - padded.shape[-1]))
    blocks = jnp.pad(padded, pad)[..., :length].reshape(*waveform.shape[:-1], -1, hop_length)
    return jnp.concatenate([blocks[..., i : i + n_frames, :] for i in range(n_blocks)], axis=-1)[..., :n_fft]


@functools.cache
def hann(n_fft: int) -> Float[np.ndarray, "n_fft"]:
    """The periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def _hz_to_mel(hz: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Slaney's scale: linear below 1 kHz, then logarithmic (Auditory Toolbox, 1998)."""
    linear = np.asarray(hz) * 3 / 200
    return np.where(linear < 15, linear, 15 + 27 * np.log(np.maximum(linear, 1) / 15) / np.log(6.4))


def _mel_to_hz(mel: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def mel_edges_hz(n_mels: int, fmin: float, fmax: float) -> Float[np.ndarray, "edges"]:
    """The edges of the filters: band i begins at edge i, peaks at i + 1 and ends at i + 2."""
    lowest, highest = _hz_to_mel(np.array([fmin, fmax]))
    return _mel_to_hz(np.linspace(lowest, highest, n_mels + 2))


@functools.cache
def mel_filters(sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Float[np.ndarray, "n_mels bins"]:
    """Triangular filters of unit area on Slaney's mel scale (`librosa.filters.mel`)."""
    bins_hz = np.fft.rfftfreq(n_fft, 1 / sr)
    edges_hz = mel_edges_hz(n_mels, fmin, fmax)
    ramps = edges_hz[:, None] - bins_hz[None]
    width = np.diff(edges_hz)[:, None]
    triangles = np.maximum(0, np.minimum(-ramps[:-2] / width[:-1], ramps[2:] / width[1:]))
    return (triangles * 2 / (edges_hz[2:] - edges_hz[:-2])[:, None]).astype(np.float32)


@functools.cache
def _dft(n_fft: int) -> tuple[Float[np.ndarray, "n_fft bins"], Float[np.ndarray, "n_fft bins"]]:
    """The real and the imaginary part of a discrete Fourier transform, as matrices."""
    # The product is taken modulo the period first, so that the angles stay exact.
    turns = np.arange(n_fft)[:, None] * np.arange(n_fft // 2 + 1) % n_fft
    angle = 2 * np.pi * turns / n_fft
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@functools.cache
def _dct(n_mfcc: int, n_mels: int) -> np.ndarray:
    k, n = np.arange(n_mfcc)[:, None], np.arange(n_mels)[None]
    matrix = np.sqrt(2 / n_mels) * np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels))
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)
