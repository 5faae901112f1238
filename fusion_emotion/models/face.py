"""Each face of a strip through one network, then their mean over time: 200 numbers."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, UInt8

from fusion_emotion.models.cpu_kernels import Conv, PatchDense, max_pool
from fusion_emotion.models.layers import BatchNorm, Tap

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_LEAST_CONTRAST = 0.02  # standard deviation of a face in [0, 1]; a flat one is not blown up to noise


class FaceCNN(nn.Module):
    """A convolutional network with the stride of one face over the strip, so that it can be trained on stills.

    Each face is brought to zero mean and unit deviation. Overlapping 6x6 patches, one every 2 px, become 32 maps; 3x3
    convolutions with batch normalisation (Ioffe & Szegedy 2015) and 2x2 max pooling follow. The mean and the maximum of
    the last maps become `features` of a face, whose mean over the found faces is that of the strip.
    """

    features: int = 200
    colour: bool = False  # False: grey, as most collections of stills are
    widths: tuple[tuple[int, ...], ...] = ((64,), (128, 128), (192, 192))  # between two poolings
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> tuple[Float[Array, "batch features"], Bool[Array, "batch"]]:
        """The features of each segment's faces, and where a face was found; other frames do not count."""
        del keys
        faces = batch["faces"]
        n_examples, n_frames = faces.shape[:2]
        known = batch["face_found"] & (batch["has_video"] & batch["mask"])[:, None]
        x = normalised(faces.reshape(-1, *faces.shape[2:]), colour=self.colour).astype(self.dtype)
        mask = known.reshape(-1)

        def normed(x: Float[Array, "faces H W C"]) -> Float[Array, "faces H W C"]:
            return nn.relu(BatchNorm(axis_name=self.axis_name)(x, mask=mask, train=train))

        x = normed(PatchDense(32, patch=6, stride=2, dtype=self.dtype)(x))
        for index, group in enumerate(self.widths, start=1):
            for width in group:
                x = normed(Conv(width, use_bias=False, dtype=self.dtype)(x))
            x = Tap(name="maps")(x) if index == len(self.widths) else max_pool(x)
        x = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype)(x)).reshape(n_examples, n_frames, -1)
        total = jnp.where(known[..., None], x, 0).sum(axis=1)
        return total / jnp.maximum(known.sum(axis=1), 1)[:, None], known.any(axis=1)


def normalised(faces: UInt8[Array, "faces S S 3"], *, colour: bool) -> Float[Array, "faces S S channels"]:
    """Faces in grey or colour with zero mean and unit deviation, each by itself."""
    x = faces.astype(jnp.float32) / 255
    x = x if colour else (x @ _LUMA)[..., None]
    deviation = x.std(axis=(1, 2, 3), keepdims=True)
    return (x - x.mean(axis=(1, 2, 3), keepdims=True)) / jnp.maximum(deviation, _LEAST_CONTRAST)
