"""The fusion network: faces and voices to emotions."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fusion_emotion.errors import UserError, did_you_mean
from fusion_emotion.models.audio_lstm import AudioLSTM
from fusion_emotion.models.layers import Tap, dropout
from fusion_emotion.models.strip import OriginalStripCNN, StripCNN

MODALITIES = ("audio+video", "audio", "video")
STRIP_NETWORKS = ("patch", "original")
DTYPES = ("float32", "bfloat16")


class FusionNet(nn.Module):
    """The features of each modality, concatenated, and a dense head.

    A modality that an example lacks gives zeros: the head sees that nothing was said rather than what silence or a
    blank picture would say.
    """

    n_classes: int
    audio: AudioLSTM | None
    video: nn.Module | None
    dropout_rate: float

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], *, train: bool, keys: Key[Array, "batch"] | None = None
    ) -> Float[Array, "batch n_classes"]:
        """The logits of each window of a batch; `keys`, one for each example, switch dropout on."""
        features = []
        if self.audio is not None:
            valid = batch["has_audio"] & batch["mask"]
            heard = self.audio(batch["waveform"], valid=valid, train=train, mel_keep=batch.get("mel_keep"))
            features.append(jnp.where(valid[:, None], heard, 0))
        if self.video is not None:
            valid = batch["has_video"] & batch["mask"]
            seen = self.video(batch["strip"], valid=valid, train=train)
            features.append(jnp.where(valid[:, None], seen, 0))
        x = Tap(name="features")(jnp.concatenate(features, axis=-1))
        x = dropout(x, self.dropout_rate, keys)
        return nn.Dense(self.n_classes, dtype=jnp.float32)(x.astype(jnp.float32))


def create_model(config: Mapping[str, Any], *, n_classes: int, axis_name: str | None = None) -> FusionNet:
    """The network that a config's `model` section names. Raises UserError for a name that is none."""
    for field, valid in (("modalities", MODALITIES), ("strip_network", STRIP_NETWORKS), ("dtype", DTYPES)):
        if config[field] not in valid:
            raise did_you_mean(f"model.{field}", config[field], valid)
    if config["mfcc"]["n_mfcc"] > config["mfcc"]["n_mels"]:
        raise UserError(
            f"model.mfcc.n_mfcc={config['mfcc']['n_mfcc']} is more than n_mels={config['mfcc']['n_mels']}: "
            "there are as many coefficients as mel bands"
        )
    dtype = jnp.dtype(config["dtype"])
    modalities = config["modalities"].split("+")
    features = config["features"]
    audio = AudioLSTM(
        features=features,
        layers=config["lstm_layers"],
        mfcc=dict(config["mfcc"]),
        axis_name=axis_name,
        dtype=dtype,
    )
    video = (
        StripCNN(features=features, dtype=dtype)
        if config["strip_network"] == "patch"
        else OriginalStripCNN(features=features, dtype=dtype)
    )
    return FusionNet(
        n_classes=n_classes,
        audio=audio if "audio" in modalities else None,
        video=video if "video" in modalities else None,
        dropout_rate=config["dropout_rate"],
    )
