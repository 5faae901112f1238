"""One second of sound to 200 numbers."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int16

from fusion_emotion.models.layers import LSTM, BatchNorm
from fusion_emotion.models.mfcc import mfcc


class AudioLSTM(nn.Module):
    """MFCCs, normalised per coefficient over the training batches, and the last hidden state of an LSTM."""

    features: int = 200
    layers: int = 1
    mfcc: Mapping[str, Any] | None = None  # parameters of `mfcc` other than its defaults
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, waveform: Int16[Array, "batch samples"], *, valid: Bool[Array, "batch"], train: bool
    ) -> Float[Array, "batch features"]:
        """The features of each second; `valid` marks those that count in the batch statistics."""
        # The MFCC stays in float32: its logarithm spans more than bfloat16 resolves.
        x = mfcc(waveform.astype(jnp.float32) / 32768, **(self.mfcc or {}))
        x = BatchNorm(axis_name=self.axis_name)(x, valid=valid, train=train).astype(self.dtype)
        for _ in range(self.layers):
            x = LSTM(self.features)(x)
        return x[:, -1]
