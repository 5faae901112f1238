"""Five faces side by side to 200 numbers."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from fusion_emotion.models.layers import BatchNorm

PATCH_SIZES = range(32, 513, 4)  # face sizes that `StripCNN` divides into patches and can pool


class StripCNN(nn.Module):
    """A patch stem and convolutions at low resolution: what a CPU's convolutions do well, and a GPU's too.

    Each 4x4 patch becomes `widths[0]` channels by one matrix product; then 3x3 convolutions of stride 2, the last of
    stride 1, each with batch normalisation; 2x2 max pooling; a dense layer.
    """

    features: int = 200
    widths: tuple[int, ...] = (64, 96, 128, 128)
    patch: int = 4
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, strip: UInt8[Array, "batch S W 3"], *, valid: Bool[Array, "batch"], train: bool
    ) -> Float[Array, "batch features"]:
        """The features of each strip; `valid` marks those that count in the batch statistics."""
        x = _scaled(strip, self.dtype)
        batch, height, width, channels = x.shape
        p = self.patch
        x = x.reshape(batch, height // p, p, width // p, p, channels).swapaxes(2, 3)
        x = x.reshape(batch, height // p, width // p, p * p * channels)
        for layer, features in enumerate(self.widths):
            if layer == 0:
                x = nn.Dense(features, use_bias=False, dtype=self.dtype)(x)
            else:
                stride = 1 if layer == len(self.widths) - 1 else 2
                x = nn.Conv(features, (3, 3), strides=stride, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name)(x, valid=valid, train=train))
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        return nn.relu(nn.Dense(self.features, dtype=self.dtype)(x.reshape(batch, -1)))


class OriginalStripCNN(nn.Module):
    """The original's network: 32 maps of 3x3, 5x5 and 5x5, each followed by 2x2 max pooling, then a dense layer."""

    features: int = 200
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, strip: UInt8[Array, "batch S W 3"], *, valid: Bool[Array, "batch"], train: bool
    ) -> Float[Array, "batch features"]:
        """The features of each strip; nothing in it depends on the batch."""
        del valid, train
        x = _scaled(strip, self.dtype)
        for kernel in (3, 5, 5):
            x = nn.relu(nn.Conv(32, (kernel, kernel), dtype=self.dtype)(x))
            x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        return nn.relu(nn.Dense(self.features, dtype=self.dtype)(x.reshape(x.shape[0], -1)))


def _scaled(strip: UInt8[Array, "batch S W 3"], dtype: DTypeLike) -> Float[Array, "batch S W 3"]:
    """Bytes to [-1, 1]."""
    return strip.astype(dtype) / 127.5 - 1
