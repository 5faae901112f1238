"""The sound of a segment to 200 numbers."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from fusion_emotion.models.cpu_kernels import LSTM
from fusion_emotion.models.frontend import cepstrum, spec_augment, spectrogram
from fusion_emotion.models.layers import BatchNorm, Tap
from fusion_emotion.units import SAMPLE_RATE_HZ


class AudioLSTM(nn.Module):
    """MFCCs, normalised per coefficient over the training batches, and the last hidden state of an LSTM."""

    features: int = 200
    layers: int = 1
    mfcc: Mapping[str, Any] | None = None  # parameters of `frontend.mfcc` other than its defaults
    time_mask_s: float = 0.0  # of SpecAugment
    mel_mask: int = 0  # of SpecAugment, mel bands
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> tuple[Float[Array, "batch features"], Bool[Array, "batch"]]:
        """The features of each segment's sound, and where there is sound; `keys` switch SpecAugment on.

        The state is read at the end of the segment, so padding changes nothing.
        """
        present = batch["has_audio"] & batch["mask"]
        mel = dict(self.mfcc or {})
        n_mfcc = mel.pop("n_mfcc", 40)
        # The MFCC stays in float32: its logarithm spans more than bfloat16 resolves.
        db, inside, hop = spectrogram(batch, mel)
        if keys is not None and (self.time_mask_s or self.mel_mask):
            most_frames = round(self.time_mask_s * SAMPLE_RATE_HZ / hop)
            db = spec_augment(db, keys, inside, most_frames=most_frames, most_bands=self.mel_mask)
        x = cepstrum(Tap(name="log_mel")(db), n_mfcc=n_mfcc)
        x = BatchNorm(axis_name=self.axis_name)(x, mask=present[:, None] & inside, train=train).astype(self.dtype)
        for _ in range(self.layers):
            x = LSTM(self.features)(x)
        last = inside.sum(axis=1) - 1
        # A masked sum rather than a gather, whose gradient is a scatter.
        is_last = jnp.arange(x.shape[1]) == last[:, None]
        return jnp.where(is_last[..., None], x, 0.0).sum(axis=1), present
