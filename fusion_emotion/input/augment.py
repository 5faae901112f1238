"""Augmentation of both modalities, for use inside a jitted training step.

Each example has a key of its own: the result depends neither on its neighbours (except for mixup, which mixes pairs)
nor on the number of devices. Faces stay uint8 and waveforms int16, rounded after each augmentation. SpecAugment is part
of the model's front end (`models.frontend`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fusion_emotion.errors import UserError
from fusion_emotion.models.batch import Batch
from fusion_emotion.units import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

_LOWEST_NOISE_HZ = 50  # brown noise has most of its power below, where neither ears nor mel bands notice it
_STEEPEST_NOISE = 2.0  # of power over frequency: 0 is white, 1 pink, 2 brown
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_AT_A_TIME = 8  # examples
Step = Callable[[Array, Array, Array], Array]  # of a key, an example and its number of samples
# The place of a name is its stream of random numbers, so new names go to the end (models.frontend has SpecAugment's,
# tempo's and pitch's).
_STREAMS = (
    *("time_shift_s", "gain_db", "noise_snr_db", "time_mask_s", "mel_mask"),
    *("flip", "colour", "crop_jitter", "erase", "mixup", "modality_dropout", "tempo", "pitch"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The `augment` section of a config; see `config.py` for the fields. By default all is off."""

    time_shift_s: float = 0.0
    gain_db: float = 0.0
    noise_snr_db: tuple[float, ...] = ()
    time_mask_s: float = 0.0
    mel_mask: int = 0
    tempo: float = 0.0
    pitch: float = 0.0
    flip: float = 0.0
    colour: float = 0.0
    crop_jitter: float = 0.0
    erase: float = 0.0
    erase_size: tuple[float, ...] = (0.1, 0.4)
    mixup: float = 0.0
    modality_dropout: float = 0.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """Read the section `augment` of a config."""
        section = config["augment"]
        return cls(**{**section, **{name: tuple(section[name]) for name in ("noise_snr_db", "erase_size")}})

    @property
    def on(self) -> tuple[str, ...]:
        """The names of the augmentations that are on."""
        return tuple(name for name in _STREAMS if getattr(self, name))


def check_pairs(settings: Augmentation, local_batch_size: int) -> None:
    """Raise UserError if mixup cannot pair the examples of a device."""
    if settings.mixup and local_batch_size % 2:
        raise UserError(
            f"augment.mixup={settings.mixup} pairs neighbours, but each device has {local_batch_size} segments of a "
            "batch: choose a train.batch_size that is an even number for each device"
        )


def augment(batch: Batch, keys: Key[Array, "batch"], settings: Augmentation, *, n_classes: int) -> Batch:
    """Augment faces, waveforms and flags, and add `target`, float32 [batch, n_classes].

    `target` is the batch's own, shares of votes, or else the one-hot labels, mixed as the examples are. Padding stays
    zero. Raises UserError for an odd batch under mixup.
    """
    check_pairs(settings, len(batch["label"]))
    out = {"target": jax.nn.one_hot(batch["label"], n_classes), **batch}

    def stream(name: str) -> Key[Array, "batch"]:
        return jax.vmap(lambda key: jax.random.fold_in(key, _STREAMS.index(name)))(keys)

    def chained(x: Num[Array, "batch ..."], steps: Mapping[str, Step]) -> Num[Array, "batch ..."]:
        """Apply the steps that are on, in their order."""
        on = {name: step for name, step in steps.items() if getattr(settings, name)}

        def one(arguments: tuple[list[Key[Array, ""]], Array, Array, Array]) -> Array:
            streams, example, n_frames, n_samples = arguments
            for step, key in zip(on.values(), streams, strict=True):
                example = rounded(step(key, example, n_samples), x.dtype)
            if example.ndim == 1:
                example = jnp.where(jnp.arange(example.size) < n_frames * SAMPLES_PER_FRAME, example, 0)
            return example

        # A few examples at a time stay in a CPU's cache, and mixup then does not compute all of it twice.
        arguments = ([stream(name) for name in on], x, batch["n_frames"], batch["n_samples"])
        return jax.lax.map(one, arguments, batch_size=_AT_A_TIME) if on else x

    s = settings
    out["waveform"] = chained(
        batch["waveform"],
        {
            "time_shift_s": lambda key, x, _: time_shift(key, x, most_s=s.time_shift_s),
            "gain_db": lambda key, x, _: gain(key, x, most_db=s.gain_db),
            "noise_snr_db": lambda key, x, n_samples: add_noise(key, x, n_samples, snr_db=s.noise_snr_db),
        },
    )
    out["faces"] = chained(
        batch["faces"],
        {
            "flip": lambda key, x, _: flip(key, x, probability=s.flip),
            "erase": lambda key, x, _: erase(key, x, probability=s.erase, size=s.erase_size),
            "crop_jitter": lambda key, x, _: crop_jitter(key, x, most=s.crop_jitter),
            "colour": lambda key, x, _: colour(key, x, strength=s.colour),
        },
    )
    if s.mixup:
        out = _mixup(out, stream("mixup"), alpha=s.mixup)
    if s.modality_dropout:
        lost = jax.vmap(lambda key: lose(key, probability=s.modality_dropout))(stream("modality_dropout"))
        both = out["has_audio"] & out["has_video"]
        out["has_audio"] &= ~(both & lost[:, 0])
        out["has_video"] &= ~(both & lost[:, 1])
    return out


def rounded(x: Num[Array, "*shape"], dtype: DTypeLike) -> Num[Array, "*shape"]:
    """Round and clip to an integer type."""
    info = jnp.iinfo(dtype)
    return jnp.clip(jnp.round(x), info.min, info.max).astype(dtype)


def time_shift(key: Key[Array, ""], waveform: Num[Array, "samples"], *, most_s: float) -> Num[Array, "samples"]:
    """Shift the sound by up to `most_s` seconds earlier or later; zeros move in."""
    most = round(most_s * SAMPLE_RATE_HZ)
    later = jax.random.randint(key, (), -most, most + 1)
    return jax.lax.dynamic_slice(jnp.pad(waveform, most), (most - later,), waveform.shape)


def gain(key: Key[Array, ""], waveform: Num[Array, "samples"], *, most_db: float) -> Float[Array, "samples"]:
    """Amplify or attenuate the sound by up to `most_db`."""
    return waveform * 10 ** (jax.random.uniform(key, (), minval=-most_db, maxval=most_db) / 20)


def add_noise(
    key: Key[Array, ""], waveform: Num[Array, "samples"], n_samples: Int[Array, ""], *, snr_db: tuple[float, ...]
) -> Float[Array, "samples"]:
    """Add noise at a random signal-to-noise ratio within `snr_db`; silence stays silent.

    The power of the sound is that of its `n_samples` true samples. The noise's power falls with frequency by a random
    exponent, white to brown. It is a sum of tones of random phase, normal by the central limit theorem: half the random
    numbers that normal noise takes.
    """
    slope_key, snr_key, phase_key = jax.random.split(key, 3)
    hz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE_HZ).astype(np.float32)
    octaves = np.log2(np.maximum(hz, _LOWEST_NOISE_HZ) / _LOWEST_NOISE_HZ)
    slope = jax.random.uniform(slope_key, (), maxval=_STEEPEST_NOISE)
    magnitude = jnp.where(hz >= _LOWEST_NOISE_HZ, 2 ** (-slope / 2 * octaves), 0)
    phase = jax.random.uniform(phase_key, hz.shape, maxval=2 * np.pi)
    noise = jnp.fft.irfft(jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)), n=len(waveform))
    snr = 10 ** (jax.random.uniform(snr_key, (), minval=snr_db[0], maxval=snr_db[1]) / 10)
    sound = waveform.astype(jnp.float32)
    return sound + noise * jnp.sqrt(jnp.sum(sound**2) / n_samples / (snr * jnp.mean(noise**2)))


def flip(key: Key[Array, ""], faces: Num[Array, "T S S 3"], *, probability: float) -> Num[Array, "T S S 3"]:
    """Mirror all faces, or none."""
    return jnp.where(jax.random.bernoulli(key, probability), faces[:, :, ::-1], faces)


def crop_jitter(key: Key[Array, ""], faces: Num[Array, "T S S 3"], *, most: float) -> Float[Array, "T S S 3"]:
    """Zoom, and shift both ways, by up to `most` of the side, all faces alike; edges are repeated.

    Bilinear interpolation by two matrix products, over columns and over rows: a gather is slow on a CPU.
    """
    zoom, down, right = jax.random.uniform(key, (3,), minval=-most, maxval=most)
    n_frames, size = faces.shape[:2]

    def weights(moved: Float[Array, ""]) -> Float[Array, "S S"]:
        from_centre = jnp.arange(size) - (size - 1) / 2
        source = jnp.clip(from_centre / (1 + zoom) - moved * size + (size - 1) / 2, 0, size - 1)
        return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))

    # Transposes of bytes are cheaper than of floats.
    by_channel = faces.swapaxes(2, 3).astype(jnp.float32)
    columns = (by_channel.reshape(-1, size) @ weights(right).T).reshape(by_channel.shape).swapaxes(2, 3)
    return (weights(down) @ columns.reshape(n_frames, size, -1)).reshape(faces.shape)


def colour(key: Key[Array, ""], faces: Num[Array, "T S S 3"], *, strength: float) -> Float[Array, "T S S 3"]:
    """Scale brightness, contrast and saturation each by 1 - `strength` to 1 + `strength`, all faces alike.

    Contrast is around the mean luma of all faces, saturation around each pixel's own.
    """
    brightness, contrast, saturation = 1 + jax.random.uniform(key, (3,), minval=-strength, maxval=strength)
    x = faces * brightness
    grey = (x @ _LUMA)[..., None]
    # Both at once: contrast changes the luma of every pixel as it does its colours.
    saturated = grey + saturation * (x - grey)
    return grey.mean() + contrast * (saturated - grey.mean())


def erase(
    key: Key[Array, ""], faces: Num[Array, "T S S 3"], *, probability: float, size: tuple[float, ...]
) -> Float[Array, "T S S 3"]:
    """Fill one rectangle, at the same place in each face, with the mean colour (after Zhong et al. 2020), or none.

    Its sides are random fractions of the face's, each within the range `size`.
    """
    on_key, side_key, place_key = jax.random.split(key, 3)
    side = faces.shape[1]
    lengths = jnp.round(side * jax.random.uniform(side_key, (2,), minval=size[0], maxval=size[1]))
    starts = jnp.floor(jax.random.uniform(place_key, (2,)) * (side - lengths + 1))
    place = jnp.arange(side)
    rows, columns = ((place >= start) & (place < start + n) for start, n in zip(starts, lengths, strict=True))
    inside = rows[:, None, None] & columns[:, None] & jax.random.bernoulli(on_key, probability)
    # Rows first: a sum over pixels of three channels is slow on a CPU.
    mean = faces.sum((0, 1), dtype=jnp.float32).sum(0) / (faces.size // 3)
    return jnp.where(inside, mean, faces)


def lose(key: Key[Array, ""], *, probability: float) -> Bool[Array, "2"]:
    """Draw the lost modality of two: with `probability` one of them, each as likely, else none."""
    lost, first = jax.random.uniform(key) < probability, jax.random.bernoulli(jax.random.fold_in(key, 1))
    return jnp.stack([lost & first, lost & ~first])


def _mixup(batch: Batch, keys: Key[Array, "batch"], *, alpha: float) -> Batch:
    """Mix each example with its neighbour, 0 with 1, 2 with 3, by the first's key (Zhang et al. 2018).

    The larger weight is the example's own, so that its label keeps its meaning. Pairs that do not have the same
    modalities, or of which one is masked, stay as they are. A mixture is as long as its longer part.
    """

    def neighbour(x: Array) -> Array:
        return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)

    mask, has_audio, has_video = batch["mask"], batch["has_audio"], batch["has_video"]
    alike = (has_audio == neighbour(has_audio)) & (has_video == neighbour(has_video)) & mask & neighbour(mask)
    drawn = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys[::2])
    weight = jnp.where(alike, jnp.repeat(jnp.maximum(drawn, 1 - drawn), 2), 1)

    def mixed(x: Num[Array, "batch *rest"]) -> Float[Array, "batch *rest"]:
        own = weight.reshape(-1, *(1,) * (x.ndim - 1))
        return own * x + (1 - own) * neighbour(x)

    def longer(x: Array) -> Array:
        return jnp.where(alike, jnp.maximum(x, neighbour(x)), x)

    return {
        **batch,
        "faces": rounded(mixed(batch["faces"]), jnp.uint8),
        "face_found": batch["face_found"] | (alike[:, None] & neighbour(batch["face_found"])),
        "n_frames": longer(batch["n_frames"]),
        "waveform": rounded(mixed(batch["waveform"]), jnp.int16),
        "n_samples": longer(batch["n_samples"]),
        "target": mixed(batch["target"]),
    }
