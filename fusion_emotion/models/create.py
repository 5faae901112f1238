"""Names in a config to a network."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fusion_emotion.models.audio_lstm import AudioLSTM
from fusion_emotion.models.face import FaceCNN
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.strip import OriginalStripCNN, StripCNN
from fusion_emotion.models.voice import DescriptorView, VoiceNet

STRIP_NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "patch": StripCNN,
    "patch_norm": functools.partial(StripCNN, norm=True),
    "original": OriginalStripCNN,
    "face": FaceCNN,
}


def create_model(config: Mapping[str, Any], *, n_classes: int, axis_name: str | None = None) -> FusionNet:
    """The network of a config's `model` section, with SpecAugment of its `augment` section.

    `axis_name` is the axis over which batch statistics are summed; None: one device.
    """
    model, augment = config["model"], config["augment"]
    dtype = jnp.dtype(model["dtype"])
    modalities = model["modalities"].split("+")
    common = {
        "features": model["features"],
        "time_mask_s": augment["time_mask_s"],
        "mel_mask": augment["mel_mask"],
        "axis_name": axis_name,
        "dtype": dtype,
    }
    audio: nn.Module
    if model["voice_network"] == "lstm":
        audio = AudioLSTM(layers=model["lstm_layers"], mfcc=dict(model["mfcc"]), **common)
    else:
        mel = {name: value for name, value in model["mfcc"].items() if name != "n_mfcc"}
        audio = VoiceNet(mel=mel, tempo=augment["tempo"], pitch=augment["pitch"], **common)
    share = model["descriptors"]["share"]
    view = DescriptorView(n_classes, fft=model["mfcc"].get("fft", True)) if share and "audio" in modalities else None
    colour = {"colour": model["face_colour"]} if model["strip_network"] == "face" else {}
    video = STRIP_NETWORKS[model["strip_network"]](
        features=model["features"], axis_name=axis_name, dtype=dtype, **colour
    )
    return FusionNet(
        n_classes=n_classes,
        audio=audio if "audio" in modalities else None,
        video=video if "video" in modalities else None,
        dropout_rate=model["dropout_rate"],
        descriptors=view,
        descriptors_share=share,
    )
