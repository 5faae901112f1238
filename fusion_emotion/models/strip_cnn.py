"""Five faces side by side to 200 numbers."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from fusion_emotion.models.layers import BatchNorm, PatchDense, Tap, max_pool

PATCH_SIZES = range(32, 513, 8)  # face sizes that `StripCNN` divides into patches and can pool


class StripCNN(nn.Module):
    """A patch stem and convolutions at low resolution: what a CPU's convolutions do well, and a GPU's too.

    4x4 patches become `widths[0]` channels and 2x2 patches of these `widths[1]`, each by one matrix product; then a 3x3
    convolution of stride 2 and others of stride 1, all with batch normalisation; 2x2 max pooling; a dense layer.
    docs/speed.md has what other shapes cost.
    """

    features: int = 200
    widths: tuple[int, ...] = (64, 128, 128, 128)
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, strip: UInt8[Array, "batch S W 3"], *, valid: Bool[Array, "batch"], train: bool
    ) -> Float[Array, "batch features"]:
        """The features of each strip; `valid` marks those that count in the batch statistics."""
        x = _scaled(strip, self.dtype)
        stem, merge, *convolved = self.widths
        for patch, width in ((4, stem), (2, merge)):
            x = PatchDense(width, patch=patch, dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name)(x, valid=valid, train=train))
        for layer, width in enumerate(convolved):
            x = nn.Conv(width, (3, 3), strides=1 if layer else 2, padding=1, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name)(x, valid=valid, train=train))
        x = max_pool(Tap(name="maps")(x))
        return nn.relu(nn.Dense(self.features, dtype=self.dtype)(x.reshape(x.shape[0], -1)))


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
        for last, kernel in ((False, 3), (False, 5), (True, 5)):
            x = nn.relu(nn.Conv(32, (kernel, kernel), dtype=self.dtype)(x))
            x = max_pool(Tap(name="maps")(x) if last else x)
        return nn.relu(nn.Dense(self.features, dtype=self.dtype)(x.reshape(x.shape[0], -1)))


def _scaled(strip: UInt8[Array, "batch S W 3"], dtype: DTypeLike) -> Float[Array, "batch S W 3"]:
    """Bytes to [-1, 1]."""
    return strip.astype(dtype) / 127.5 - 1
