"""The fusion network: faces and voices to emotions."""

from collections.abc import Mapping

import flax.linen as nn
import jax
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
    descriptors: nn.Module | None = None  # maps a batch to (log-probabilities [B, n_classes], present [B])
    descriptors_share: float = 0.0  # of the log-probabilities

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> Float[Array, "batch n_classes"]:
        """The logits of each segment; `keys`, one for each example, switch dropout and SpecAugment on.

        In training they are those of the head; in evaluation they are joined by those of the descriptors.
        """
        parts = []
        for encoder in (self.audio, self.video):
            if encoder is not None:
                features, present = encoder(batch, train=train, keys=keys)
                parts.append(jnp.where(present[:, None], features, 0.0))
        x = Tap(name="features")(jnp.concatenate(parts, axis=-1))
        x = dropout(x, self.dropout_rate, keys)
        logits = nn.Dense(self.n_classes, dtype=jnp.float32)(x.astype(jnp.float32))
        if self.descriptors is None or train:
            return logits
        log_prob, heard = self.descriptors(batch)
        share = jnp.where(heard, self.descriptors_share, 0.0)[:, None]
        return (1 - share) * jax.nn.log_softmax(logits) + share * log_prob
