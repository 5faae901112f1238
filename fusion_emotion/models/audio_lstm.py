"""One second of sound to 200 numbers."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int16

from fusion_emotion.models.frontend import cepstrum, log_mel
from fusion_emotion.models.layers import LSTM, BatchNorm, Tap


class AudioLSTM(nn.Module):
    """MFCCs, normalised per coefficient over the training batches, and the last hidden state of an LSTM."""

    features: int = 200
    layers: int = 1
    mfcc: Mapping[str, Any] | None = None  # parameters of `models.mfcc.mfcc` other than its defaults
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        waveform: Int16[Array, "batch samples"],
        *,
        valid: Bool[Array, "batch"],
        train: bool,
        mel_keep: Bool[Array, "batch time n_mels"] | None = None,
    ) -> Float[Array, "batch features"]:
        """The features of each second; `valid` marks those that count in the batch statistics.

        Where `mel_keep` is False, a cell of the log-mel spectrogram is its example's mean instead.
        """
        # The MFCC stays in float32: its logarithm spans more than bfloat16 resolves.
        settings = {"n_mfcc": 40, **(self.mfcc or {})}
        n_mfcc = settings.pop("n_mfcc")
        db = log_mel(waveform.astype(jnp.float32) / 32768, **settings)
        if mel_keep is not None:
            db = jnp.where(mel_keep, db, db.mean((-2, -1), keepdims=True))
        x = cepstrum(Tap(name="log_mel")(db), n_mfcc=n_mfcc)
        x = BatchNorm(axis_name=self.axis_name)(x, valid=valid, train=train).astype(self.dtype)
        for _ in range(self.layers):
            x = LSTM(self.features)(x)
        return x[:, -1]
