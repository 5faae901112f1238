"""The sound of a whole clip to 200 numbers, and the opinion of a linear model on its descriptors."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from fusion_emotion.models.cpu_kernels import LSTM
from fusion_emotion.models.descriptors import descriptors
from fusion_emotion.models.frontend import spec_augment, spectrogram, warped
from fusion_emotion.models.functionals import active_part, functionals
from fusion_emotion.models.layers import BatchNorm, Tap
from fusion_emotion.units import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

Sequence = Float[Array, "batch time channels"]
Widened = Float[Array, "batch frames width"]
Mask = Bool[Array, "batch time"]
_LARGEST = 8.0  # standard deviations from the mean of the training part; beyond, a statistic is clipped


class VoiceNet(nn.Module):
    """Residual convolutions over a normalised log-mel spectrogram, a two-way LSTM, and attentive statistics.

    Silence before and after the speech is masked. Each band is normalised by its mean and deviation over the clip, so
    neither the loudness nor the microphone of a clip is seen.
    """

    features: int = 200
    widths: tuple[int, ...] = (96, 128, 160, 192)  # each after the first halves the number of frames
    mel: Mapping[str, Any] | None = None  # parameters of `frontend.log_mel` other than its defaults
    time_mask_s: float = 0.0  # of SpecAugment
    mel_mask: int = 0  # of SpecAugment, mel bands
    tempo: float = 0.0  # of `frontend.warped`
    pitch: float = 0.0  # of `frontend.warped`
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> tuple[Float[Array, "batch features"], Bool[Array, "batch"]]:
        """The features of each clip's sound, and where there is sound; `keys` switch the augmentations on."""
        present = batch["has_audio"] & batch["mask"]
        db, inside, hop = spectrogram(batch, self.mel or {})
        x, mask = _begun_with_speech(Tap(name="log_mel")(db), inside)
        mask &= present[:, None]
        if keys is not None:
            x, mask = warped(x, mask, keys, most_tempo=self.tempo, most_pitch=self.pitch)
        x = _normalised(x, mask)
        if keys is not None and (self.time_mask_s or self.mel_mask):
            most_frames = round(self.time_mask_s * SAMPLE_RATE_HZ / hop)
            x = spec_augment(x, keys, mask, most_frames=most_frames, most_bands=self.mel_mask)
        x = x.astype(self.dtype)
        stem, *wider = self.widths
        x = self._block(x, mask, stem, stride=1, train=train)
        for width in wider:
            x, mask = self._block(x, mask, width, stride=2, train=train), mask[:, ::2]
        x = self._two_ways(x, mask)
        return self._pooled(x, mask), present

    def _block(self, x: Sequence, mask: Mask, width: int, *, stride: int, train: bool) -> Widened:
        """Two convolutions of three frames beside a shortcut."""
        short = x[:, ::stride]
        if short.shape[-1] != width:
            short = nn.Dense(width, dtype=self.dtype)(short)
        inner = mask[:, ::stride]
        x = nn.relu(BatchNorm(self.axis_name)(self._convolved(x, mask, width, stride), mask=inner, train=train))
        x = BatchNorm(self.axis_name)(self._convolved(x, inner, width, 1), mask=inner, train=train)
        return nn.relu(x + short)

    def _convolved(self, x: Sequence, mask: Mask, width: int, stride: int) -> Widened:
        """A convolution as one matrix product, which XLA's CPU code differentiates faster; zeros beyond the mask."""
        x = jnp.pad(jnp.where(mask[..., None], x, 0.0), ((0, 0), (1, 1), (0, 0)))
        n = x.shape[1] - 2
        joined = jnp.concatenate([x[:, i : i + n : stride] for i in range(3)], axis=-1)
        return nn.Dense(width, use_bias=False, dtype=self.dtype)(joined)

    def _two_ways(self, x: Sequence, mask: Mask) -> Float[Array, "batch time features"]:
        """The states of an LSTM in each direction, side by side."""
        last = mask.sum(axis=1, keepdims=True) - 1
        back = jnp.clip(last - jnp.arange(mask.shape[1]), 0, None)  # is its own inverse within the mask
        forward = LSTM(self.features // 2)(x)
        backward = _at(LSTM(self.features // 2)(_at(x, back)), back)
        return jnp.concatenate([forward, backward], axis=-1)

    def _pooled(self, x: Sequence, mask: Mask) -> Float[Array, "batch features"]:
        """Weighted mean and deviation over time (Okabe et al. 2018), and a dense layer."""
        score = nn.Dense(1, dtype=jnp.float32)(jnp.tanh(nn.Dense(64, dtype=self.dtype)(x)))
        score = jnp.where(mask[..., None], score, -1e9)
        weight = jax.nn.softmax(score.astype(jnp.float32), axis=1)
        mean = (weight * x).sum(axis=1)
        deviation = jnp.sqrt(jnp.maximum((weight * jnp.square(x - mean[:, None])).sum(axis=1), 1e-5))
        return nn.relu(nn.Dense(self.features, dtype=self.dtype)(jnp.concatenate([mean, deviation], axis=-1)))


class DescriptorView(nn.Module):
    """Logistic regression on the statistics of the descriptors of a clip.

    Its weights are not trained by gradient steps: `train.fit` solves for them before the first step, and they stay.
    Fields of the collection `batch_stats`: `mean` and `scale` of each statistic, `kernel` and `bias`.
    """

    n_classes: int
    fft: bool = True  # of `frontend.power_spectrum`

    @nn.compact
    def __call__(self, batch: Mapping[str, Array]) -> tuple[Float[Array, "batch classes"], Bool[Array, "batch"]]:
        """The log-probabilities of each clip, and where there is sound."""
        values = self.statistics(batch)
        size = values.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (size,))
        scale = self.variable("batch_stats", "scale", jnp.ones, (size,))
        kernel = self.variable("batch_stats", "kernel", jnp.zeros, (size, self.n_classes))
        bias = self.variable("batch_stats", "bias", jnp.zeros, (self.n_classes,))
        logits = standardised(values, jnp.asarray(mean.value), jnp.asarray(scale.value)) @ kernel.value + bias.value
        return jax.nn.log_softmax(logits), batch["has_audio"] & batch["mask"]

    def statistics(self, batch: Mapping[str, Array]) -> Float[Array, "batch statistics"]:
        """The statistics that the regression is on."""
        waveform = batch["waveform"].astype(jnp.float32) / 32768
        return functionals(descriptors(waveform, batch["n_frames"] * SAMPLES_PER_FRAME, fft=self.fft))


def standardised(
    values: Float[Array, "batch statistics"], mean: Float[Array, "statistics"], scale: Float[Array, "statistics"]
) -> Float[Array, "batch statistics"]:
    """Statistics less their mean, times their scale, within `_LARGEST`."""
    return jnp.clip((values - mean) * scale, -_LARGEST, _LARGEST)


def _begun_with_speech(db: Sequence, inside: Mask) -> tuple[Sequence, Mask]:
    """A spectrogram that begins with its first frame of speech, and a mask that ends with the last."""
    level = 10 * jnp.log10(jnp.exp(db * (np.log(10) / 10)).sum(axis=-1))
    active, _ = active_part(level - jnp.where(inside, level, -jnp.inf).max(axis=1, keepdims=True), inside)
    time = jnp.arange(db.shape[1])
    first = active.argmax(axis=1, keepdims=True)
    return _at(db, jnp.clip(first + time, None, db.shape[1] - 1)), time < active.sum(axis=1, keepdims=True)


def _normalised(x: Sequence, mask: Mask) -> Sequence:
    """Each band less its mean over the mask, over its deviation; zeros beyond the mask."""
    n = jnp.maximum(mask.sum(axis=1), 1)[:, None, None].astype(x.dtype)
    known = mask[..., None]
    centred = jnp.where(known, x - jnp.where(known, x, 0.0).sum(axis=1, keepdims=True) / n, 0.0)
    return centred * jax.lax.rsqrt(jnp.square(centred).sum(axis=1, keepdims=True) / n + 1.0)


def _at(x: Sequence, index: Int[Array, "#batch time"]) -> Sequence:
    """The values at other times."""
    index = jnp.broadcast_to(index, x.shape[:2])
    return jnp.take_along_axis(x, index[..., None], axis=1)
