"""Five faces side by side to 200 numbers."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, Shaped

from fusion_emotion.models.cpu_kernels import Conv, PatchDense, max_pool
from fusion_emotion.models.layers import BatchNorm, Tap

Strips = Float[Array, "batch S W 3"]
Maps = Float[Array, "batch rows columns channels"]


class StripEncoder(nn.Module):
    """The strip of a segment's faces through a network, `encode`, and a dense layer."""

    features: int = 200
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> tuple[Float[Array, "batch features"], Bool[Array, "batch"]]:
        """The features of each segment's strip, and where a face was found."""
        del keys
        present = batch["has_video"] & batch["mask"]
        maps = self.encode(strip_of(batch["faces"]).astype(self.dtype) / 127.5 - 1, mask=present, train=train)
        return nn.relu(nn.Dense(self.features, dtype=self.dtype)(maps.reshape(maps.shape[0], -1))), present

    def encode(self, x: Strips, *, mask: Bool[Array, "batch"], train: bool) -> Maps:
        """Maps of strips in [-1, 1], called within `__call__`; those where `mask` is False are blank."""
        raise NotImplementedError


class StripCNN(StripEncoder):
    """A patch stem and convolutions at low resolution, which are fast on CPUs as well as GPUs.

    Overlapping 4x4 patches become `widths[0]` channels by one matrix product, followed by 4x4 max pooling; then a 3x3
    convolution and 2x2 max pooling for each of the other widths. With `norm` batch normalisation follows each product
    and convolution. docs/speed.md compares the cost, and docs/recipe.md the recognition of other shapes.
    """

    widths: tuple[int, ...] = (32, 96, 128)
    norm: bool = False

    def encode(self, x: Strips, *, mask: Bool[Array, "batch"], train: bool) -> Maps:
        """Patches, then convolutions."""

        def normed(x: Maps) -> Maps:
            return BatchNorm(axis_name=self.axis_name)(x, mask=mask, train=train) if self.norm else x

        stem, *convolved = self.widths
        x = normed(PatchDense(stem, patch=4, stride=2, dtype=self.dtype)(x))
        # The ReLU stands between the two poolings: XLA's CPU code differentiates two poolings in a row slowly.
        x = max_pool(nn.relu(max_pool(x)))
        for index, width in enumerate(convolved, start=1):
            x = nn.relu(normed(Conv(width, dtype=self.dtype)(x)))
            x = max_pool(Tap(name="maps")(x) if index == len(convolved) else x)
        return x


class OriginalStripCNN(StripEncoder):
    """The original's network: 32 maps of 3x3, 5x5 and 5x5, each followed by 2x2 max pooling."""

    def encode(self, x: Strips, *, mask: Bool[Array, "batch"], train: bool) -> Maps:
        """Three convolutions."""
        del mask, train
        for last, kernel in ((False, 3), (False, 5), (True, 5)):
            x = nn.relu(nn.Conv(32, (kernel, kernel), dtype=self.dtype)(x))
            x = max_pool(Tap(name="maps")(x) if last else x)
        return x


def strip_of(faces: Shaped[Array, "batch T S S 3"]) -> Shaped[Array, "batch S width 3"]:
    """The faces of each example side by side in one picture."""
    batch, n_frames, side = faces.shape[:3]
    return faces.swapaxes(1, 2).reshape(batch, side, n_frames * side, 3)
