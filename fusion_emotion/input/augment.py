"""Augmentation of both modalities, for use inside a jitted training step.

Each example has a key of its own, so that what becomes of it depends neither on its neighbours (but for mixup, which
takes its pair) nor on the number of devices. Strips stay uint8 and waveforms int16: they are rounded once, at the end.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, Num

from fusion_emotion.errors import UserError
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

Batch = Mapping[str, Any]  # see `input.batches`

_LOWEST_NOISE_HZ = 50  # below it brown noise has most of its power, which neither an ear nor a mel band would notice
_STEEPEST_NOISE = 2.0  # of power over frequency: 0 is white, 1 pink, 2 brown
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_AT_A_TIME = 8  # examples
# The place of a name is its stream of random numbers: new names go to the end.
_STREAMS = (
    *("time_shift_s", "gain_db", "noise_snr_db", "time_mask_s", "mel_mask"),
    *("flip", "colour", "crop_jitter", "erase", "mixup", "modality_dropout"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The `augment` section of a config; see `configs/ravdess.py` for what each field means. By default all is off."""

    time_shift_s: float = 0.0
    gain_db: float = 0.0
    noise_snr_db: tuple[float, ...] = ()
    time_mask_s: float = 0.0
    mel_mask: int = 0
    flip: float = 0.0
    colour: float = 0.0
    crop_jitter: float = 0.0
    erase: float = 0.0
    erase_size: tuple[float, ...] = (0.1, 0.4)
    mixup: float = 0.0
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        snr, size = self.noise_snr_db, self.erase_size
        for field, valid, expected in (
            ("time_shift_s", 0 <= self.time_shift_s <= 1, "0 to 1 s"),
            ("gain_db", 0 <= self.gain_db <= 40, "0 to 40 dB"),
            (
                "noise_snr_db",
                not snr or (len(snr) == 2 and -40 <= snr[0] <= snr[1] <= 100),
                "() or the lowest and the highest of -40 to 100 dB",
            ),
            ("time_mask_s", 0 <= self.time_mask_s <= 1, "0 to 1 s"),
            ("mel_mask", self.mel_mask >= 0, "0 or more mel bands"),
            ("flip", 0 <= self.flip <= 1, "a probability"),
            ("colour", 0 <= self.colour <= 1, "0 to 1"),
            ("crop_jitter", 0 <= self.crop_jitter <= 0.5, "a share of 0 to 0.5"),
            ("erase", 0 <= self.erase <= 1, "a probability"),
            (
                "erase_size",
                len(size) == 2 and 0 < size[0] <= size[1] <= 1,
                "the lowest and the highest share, above 0 and up to 1",
            ),
            ("mixup", 0 <= self.mixup <= 100, "0 to 100"),
            ("modality_dropout", 0 <= self.modality_dropout <= 1, "a probability"),
        ):
            if not valid:
                raise UserError(f"augment.{field}={getattr(self, field)!r} is out of range: expected {expected}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """The `augment` section of a config. Raises UserError for what is out of range or not for its model."""
        section, modalities = config["augment"], config["model"]["modalities"]
        n_mels = config["model"]["mfcc"]["n_mels"]
        pairs = {name: tuple(section[name]) for name in ("noise_snr_db", "erase_size")}
        settings = cls(**{**section, **pairs})
        if settings.mel_mask > n_mels:
            raise UserError(f"augment.mel_mask={settings.mel_mask} is more than model.mfcc.n_mels={n_mels}")
        if settings.modality_dropout and modalities != "audio+video":
            raise UserError(
                f"augment.modality_dropout={settings.modality_dropout} needs model.modalities=audio+video: "
                f"with {modalities} alone nothing would be left (set it to 0)"
            )
        return settings

    @property
    def on(self) -> tuple[str, ...]:
        """The names of the augmentations that do anything."""
        return tuple(name for name in _STREAMS if getattr(self, name))


def check_share(settings: Augmentation, share: int) -> None:
    """Raise UserError if a device's `share` of a batch cannot be paired for mixup."""
    if settings.mixup and share % 2:
        raise UserError(
            f"augment.mixup={settings.mixup} pairs neighbours, but each device has {share} windows of a batch: "
            "choose a train.batch_size that is an even number for each device"
        )


def augment(
    batch: Batch, keys: Key[Array, "batch"], settings: Augmentation, *, n_classes: int, mel_shape: tuple[int, int]
) -> dict[str, Any]:
    """The batch with other strips, waveforms and flags, and always with `target`, float32 [batch, n_classes].

    `target` is the one-hot labels, mixed as the examples are. Where cells of the log-mel spectrogram are masked there
    is also `mel_keep`, bool [batch, *mel_shape], for `models.audio_lstm`; `mel_shape` is `models.mfcc.mel_shape`'s.
    Raises UserError for an odd batch under mixup.
    """
    check_share(settings, len(batch["label"]))
    out = {**batch, "target": jax.nn.one_hot(batch["label"], n_classes)}

    def stream(name: str) -> Key[Array, "batch"]:
        return jax.vmap(lambda key: jax.random.fold_in(key, _STREAMS.index(name)))(keys)

    def chained(x: Num[Array, "batch ..."], steps: Mapping[str, Callable[..., Array]]) -> Num[Array, "batch ..."]:
        on = {name: step for name, step in steps.items() if getattr(settings, name)}

        def one(arguments: tuple[list[Key[Array, ""]], Array]) -> Array:
            streams, example = arguments
            for step, key in zip(on.values(), streams, strict=True):
                example = rounded(step(key, example), x.dtype)
            return example

        # Some at a time stay in a CPU's cache, and mixup then does not compute all of it twice.
        return jax.lax.map(one, ([stream(name) for name in on], x), batch_size=_AT_A_TIME) if on else x

    out["waveform"] = chained(
        batch["waveform"],
        {
            "time_shift_s": functools.partial(time_shift, most_s=settings.time_shift_s),
            "gain_db": functools.partial(gain, most_db=settings.gain_db),
            "noise_snr_db": functools.partial(add_noise, snr_db=settings.noise_snr_db),
        },
    )
    out["strip"] = chained(
        batch["strip"],
        {
            "flip": functools.partial(flip, probability=settings.flip),
            "erase": functools.partial(erase, probability=settings.erase, size=settings.erase_size),
            "crop_jitter": functools.partial(crop_jitter, most=settings.crop_jitter),
            "colour": functools.partial(colour, strength=settings.colour),
        },
    )
    masks = []
    if settings.time_mask_s:
        # A window is a second, and its first and last frames are centred on its ends.
        most = round(settings.time_mask_s * (mel_shape[0] - 1))
        masks.append(_kept(stream("time_mask_s"), mel_shape[0], most)[:, :, None])
    if settings.mel_mask:
        masks.append(_kept(stream("mel_mask"), mel_shape[1], settings.mel_mask)[:, None, :])
    if masks:
        out["mel_keep"] = jnp.broadcast_to(functools.reduce(jnp.logical_and, masks), (len(keys), *mel_shape))
    if settings.mixup:
        out = _mixup(out, stream("mixup"), alpha=settings.mixup)
    if settings.modality_dropout:
        lost = jax.vmap(functools.partial(lose, probability=settings.modality_dropout))(stream("modality_dropout"))
        both = out["has_audio"] & out["has_video"]
        out["has_audio"] &= ~(both & lost[:, 0])
        out["has_video"] &= ~(both & lost[:, 1])
    return out


def rounded(x: Num[Array, "*shape"], dtype: DTypeLike) -> Num[Array, "*shape"]:
    """The nearest values that an integer type has."""
    info = jnp.iinfo(dtype)
    return jnp.clip(jnp.round(x), info.min, info.max).astype(dtype)


def time_shift(key: Key[Array, ""], waveform: Num[Array, "samples"], *, most_s: float) -> Num[Array, "samples"]:
    """The sound up to `most_s` seconds earlier or later, with zeros where none moves in."""
    most = round(most_s * SAMPLE_RATE_HZ)
    later = jax.random.randint(key, (), -most, most + 1)
    return jax.lax.dynamic_slice(jnp.pad(waveform, most), (most - later,), waveform.shape)


def gain(key: Key[Array, ""], waveform: Num[Array, "samples"], *, most_db: float) -> Float[Array, "samples"]:
    """The sound up to `most_db` louder or quieter."""
    return waveform * 10 ** (jax.random.uniform(key, (), minval=-most_db, maxval=most_db) / 20)


def add_noise(
    key: Key[Array, ""], waveform: Num[Array, "samples"], *, snr_db: tuple[float, ...]
) -> Float[Array, "samples"]:
    """The sound with noise, a signal-to-noise ratio in the range `snr_db` below it; silence stays silent.

    The noise's power falls with frequency by a random exponent, white to brown. It is the sum of tones of random phase:
    half the random numbers of as many normal ones, and by the central limit theorem as normal.
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
    return sound + noise * jnp.sqrt(jnp.mean(sound**2) / (snr * jnp.mean(noise**2)))


def keep_run(key: Key[Array, ""], *, length: int, most: int) -> Bool[Array, "length"]:
    """False in one run of 0 to `most` places, anywhere, and True elsewhere (SpecAugment, Park et al. 2019)."""
    width_key, start_key = jax.random.split(key)
    width = jax.random.randint(width_key, (), 0, most + 1)
    start = jax.random.randint(start_key, (), 0, length - width + 1)
    place = jnp.arange(length)
    return (place < start) | (place >= start + width)


def _kept(keys: Key[Array, "batch"], length: int, most: int) -> Bool[Array, "batch length"]:
    return jax.vmap(functools.partial(keep_run, length=length, most=most))(keys)


def flip(key: Key[Array, ""], strip: Num[Array, "S W 3"], *, probability: float) -> Num[Array, "S W 3"]:
    """Each of the five faces mirrored where it stands, or none."""
    mirrored = _faces(strip)[:, :, ::-1].reshape(strip.shape)
    return jnp.where(jax.random.bernoulli(key, probability), mirrored, strip)


def crop_jitter(key: Key[Array, ""], strip: Num[Array, "S W 3"], *, most: float) -> Float[Array, "S W 3"]:
    """Each face zoomed, and shifted both ways, by up to `most` of its side, all five alike; edges are repeated.

    Bilinear interpolation as a matrix product over rows and one over columns, for a gather is slow on a CPU.
    """
    zoom, down, right = jax.random.uniform(key, (3,), minval=-most, maxval=most)
    size = strip.shape[0]

    def weights(moved: Float[Array, ""]) -> Float[Array, "S S"]:
        from_centre = jnp.arange(size) - (size - 1) / 2
        source = jnp.clip(from_centre / (1 + zoom) - moved * size + (size - 1) / 2, 0, size - 1)
        return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))

    # Columns, then rows, with transposes of bytes alone: what comes out lies as the strip does.
    by_channel = _faces(strip).swapaxes(2, 3).astype(jnp.float32)
    wide = (by_channel.reshape(-1, size) @ weights(right).T).reshape(by_channel.shape).swapaxes(2, 3)
    return (weights(down) @ wide.reshape(size, -1)).reshape(strip.shape)


def colour(key: Key[Array, ""], strip: Num[Array, "S W 3"], *, strength: float) -> Float[Array, "S W 3"]:
    """Brightness, contrast and saturation each times 1 - `strength` to 1 + `strength`, all five faces alike.

    Contrast is around the strip's mean luma, saturation around each pixel's own.
    """
    brightness, contrast, saturation = 1 + jax.random.uniform(key, (3,), minval=-strength, maxval=strength)
    x = strip * brightness
    grey = (x @ _LUMA)[..., None]
    # Both at once, for contrast changes the luma of every pixel as it does its colours.
    saturated = grey + saturation * (x - grey)
    return grey.mean() + contrast * (saturated - grey.mean())


def erase(
    key: Key[Array, ""], strip: Num[Array, "S W 3"], *, probability: float, size: tuple[float, ...]
) -> Float[Array, "S W 3"]:
    """One rectangle, at the same place in each face, in the strip's mean colour (after Zhong et al. 2020), or none.

    Its sides are each a random share of the face's, in the range `size`.
    """
    whether_key, side_key, place_key = jax.random.split(key, 3)
    side = strip.shape[0]
    lengths = jnp.round(side * jax.random.uniform(side_key, (2,), minval=size[0], maxval=size[1]))
    starts = jnp.floor(jax.random.uniform(place_key, (2,)) * (side - lengths + 1))
    place = jnp.arange(side)
    rows, columns = ((place >= start) & (place < start + n) for start, n in zip(starts, lengths, strict=True))
    there = rows[:, None, None, None] & columns[:, None] & jax.random.bernoulli(whether_key, probability)
    faces = _faces(strip)
    # Over rows first: a sum over pixels of three channels is slow on a CPU.
    mean = strip.sum(0, dtype=jnp.float32).sum(0) / (strip.size // 3)
    return jnp.where(there, mean, faces).reshape(strip.shape)


def lose(key: Key[Array, ""], *, probability: float) -> Bool[Array, "2"]:
    """Which of two modalities is lost: with `probability` one, each as likely, else none."""
    lost, first = jax.random.uniform(key) < probability, jax.random.bernoulli(jax.random.fold_in(key, 1))
    return jnp.stack([lost & first, lost & ~first])


def _mixup(batch: dict[str, Any], keys: Key[Array, "batch"], *, alpha: float) -> dict[str, Any]:
    """Each example with its neighbour, 0 with 1, 2 with 3, by the first's key (Zhang et al. 2018).

    The larger share is the example's own, so that it stays what its label says. Two that do not have the same
    modalities, or of which one is padding, stay as they are.
    """

    def neighbour(x: Array) -> Array:
        return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)

    mask, has_audio, has_video = batch["mask"], batch["has_audio"], batch["has_video"]
    alike = (has_audio == neighbour(has_audio)) & (has_video == neighbour(has_video)) & mask & neighbour(mask)
    drawn = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys[::2])
    share = jnp.where(alike, jnp.repeat(jnp.maximum(drawn, 1 - drawn), 2), 1)

    def mixed(x: Num[Array, "batch *rest"]) -> Float[Array, "batch *rest"]:
        own = share.reshape(-1, *(1,) * (x.ndim - 1))
        return own * x + (1 - own) * neighbour(x)

    return {
        **batch,
        "strip": rounded(mixed(batch["strip"]), jnp.uint8),
        "waveform": rounded(mixed(batch["waveform"]), jnp.int16),
        "target": mixed(batch["target"]),
    }


def _faces(strip: Num[Array, "S W 3"]) -> Num[Array, "S faces side 3"]:
    """A strip with an axis for its faces."""
    return strip.reshape(strip.shape[0], FRAME_RATE_HZ, -1, 3)
