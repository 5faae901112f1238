"""Five faces side by side to 200 numbers."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from fusion_emotion.models.layers import PatchDense, Tap, max_pool

PATCH_SIZES = range(32, 513, 4)  # face sizes that `StripCNN` can pool, the last time to 1x5 or more


class StripCNN(nn.Module):
    """A patch stem and convolutions at low resolution: what a CPU's convolutions do well, and a GPU's too.

    Overlapping 4x4 patches become `widths[0]` channels by one matrix product, of which 4x4 max pooling keeps what is
    there wherever it is; then a 3x3 convolution and 2x2 max pooling for each of the other widths, and a dense layer.
    docs/speed.md has what other shapes cost and recognise.
    """

    features: int = 200
    widths: tuple[int, ...] = (32, 96, 128)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, strip: UInt8[Array, "batch S W 3"], *, valid: Bool[Array, "batch"], train: bool
    ) -> Float[Array, "batch features"]:
        """The features of each strip; nothing in it depends on the batch."""
        del valid, train
        stem, *convolved = self.widths
        x = PatchDense(stem, patch=4, stride=2, dtype=self.dtype)(_scaled(strip, self.dtype))
        # Between the two, for of two poolings in a row XLA's CPU code makes one slow loop of derivatives.
        x = max_pool(nn.relu(max_pool(x)))
        for index, width in enumerate(convolved, start=1):
            x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
            x = max_pool(Tap(name="maps")(x) if index == len(convolved) else x)
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
