"""The fusion network: faces and voices to emotions."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fusion_emotion.models.layers import Tap, dropout


class FusionNet(nn.Module):
    """The features of each modality, concatenated, and a dense head.

    An encoder maps a batch to (features [B, D], present [B]). Where a modality is missing, its features are zero, so
    the head never sees the features of silence or of a blank picture.
    """

    n_classes: int
    audio: nn.Module | None
    video: nn.Module | None
    dropout_rate: float

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> Float[Array, "batch n_classes"]:
        """The logits of each segment; `keys`, one for each example, switch dropout and SpecAugment on."""
        parts = []
        for encoder in (self.audio, self.video):
            if encoder is not None:
                features, present = encoder(batch, train=train, keys=keys)
                parts.append(jnp.where(present[:, None], features, 0.0))
        x = Tap(name="features")(jnp.concatenate(parts, axis=-1))
        x = dropout(x, self.dropout_rate, keys)
        return nn.Dense(self.n_classes, dtype=jnp.float32)(x.astype(jnp.float32))
