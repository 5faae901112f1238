"""The networks of fusion_emotion as one would write them in PyTorch: channels-last, torch.stft, nn.LSTM."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from fusion_emotion.models.cpu_kernels import convolution_kernel
from fusion_emotion.models.frontend import cepstrum, mel_filters


class Audio(nn.Module):
    """MFCC, batch normalisation, LSTM; the last hidden state."""

    def __init__(self, features: int, layers: int, mfcc: Mapping[str, Any]):
        super().__init__()
        self.mfcc = mfcc
        filters = mel_filters(16_000, mfcc["n_fft"], mfcc["n_mels"], mfcc["fmin"], mfcc["fmax"])
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()))
        dct = np.asarray(cepstrum(jnp.eye(mfcc["n_mels"]), n_mfcc=mfcc["n_mfcc"]))
        self.register_buffer("dct", torch.from_numpy(dct.copy()))
        self.register_buffer("window", torch.hann_window(mfcc["n_fft"]))
        self.norm = nn.BatchNorm1d(mfcc["n_mfcc"])
        self.lstm = nn.LSTM(mfcc["n_mfcc"], features, layers, batch_first=True)

    def forward(self, waveform: Tensor) -> Tensor:
        """The features of each second of int16 sound."""
        spectrum = torch.stft(
            waveform.float() / 32768,
            self.mfcc["n_fft"],
            self.mfcc["hop_length"],
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )
        mel = (spectrum.real**2 + spectrum.imag**2).transpose(1, 2) @ self.filters
        db = 10 * torch.log10(torch.clamp(mel, min=1e-10))
        db = torch.maximum(db, db.amax((1, 2), keepdim=True) - 80)
        x = self.norm((db @ self.dct).transpose(1, 2)).transpose(1, 2)
        return self.lstm(x)[0][:, -1]


class Video(nn.Module):
    """`StripCNN` (patch, patch_norm) or `OriginalStripCNN` (original)."""

    def __init__(self, network: str, features: int, face_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        if network in ("patch", "patch_norm"):

            def norm(width: int) -> list[nn.Module]:
                return [nn.BatchNorm2d(width)] if network == "patch_norm" else []

            layers += [nn.ZeroPad2d((0, 2, 0, 2)), nn.Conv2d(3, 32, 4, stride=2), *norm(32), nn.MaxPool2d(4), nn.ReLU()]
            for before, width in ((32, 96), (96, 128)):
                layers += [nn.Conv2d(before, width, 3, padding=1), *norm(width), nn.ReLU(), nn.MaxPool2d(2)]
        else:
            for before, kernel in ((3, 3), (32, 5), (32, 5)):
                layers += [nn.Conv2d(before, 32, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2)]
        self.convolutions = nn.Sequential(*layers)
        with torch.no_grad():
            found = self.convolutions.eval()(torch.zeros(1, 3, face_size, 5 * face_size))
        self.dense = nn.Linear(found[0].numel(), features)

    def forward(self, strip: Tensor) -> Tensor:
        """The features of each strip of bytes."""
        # The bytes lie as channels-last already: this is a view.
        x = self.convolutions((strip.float() / 127.5 - 1).permute(0, 3, 1, 2))
        return F.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1)))


class Fusion(nn.Module):
    """Both, concatenated, and a dense head."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        model = config["model"]
        self.audio = Audio(model["features"], model["lstm_layers"], model["mfcc"])
        self.video = Video(model["strip_network"], model["features"], config["prepare"]["face_size"])
        self.dropout = nn.Dropout(model["dropout_rate"])
        self.head = nn.Linear(2 * model["features"], 8)

    def forward(self, strip: Tensor, waveform: Tensor) -> Tensor:
        """The logits of each segment."""
        return self.head(self.dropout(torch.cat([self.audio(waveform), self.video(strip)], dim=1)))


def with_parameters(model: Fusion, params: Mapping[str, Any]) -> Fusion:
    """The model with the parameters of a `FusionNet`: the proof that both compute the same."""

    def put(target: Tensor, value: Any) -> None:
        target.data.copy_(torch.from_numpy(np.array(value, np.float32)))

    audio, video = params["audio"], params["video"]
    put(model.audio.norm.weight, audio["BatchNorm_0"]["scale"])
    put(model.audio.norm.bias, audio["BatchNorm_0"]["bias"])
    for layer in range(model.audio.lstm.num_layers):
        ours = audio[f"LSTM_{layer}"]
        put(getattr(model.audio.lstm, f"weight_ih_l{layer}"), np.asarray(ours["input"]["kernel"]).T)
        put(getattr(model.audio.lstm, f"weight_hh_l{layer}"), np.asarray(ours["recurrent"]).T)
        put(getattr(model.audio.lstm, f"bias_ih_l{layer}"), ours["input"]["bias"])
        getattr(model.audio.lstm, f"bias_hh_l{layer}").data.zero_()
    stems = [video[name]["patches"] for name in sorted(video) if name.startswith("PatchDense")]
    convolutions = [
        {"kernel": convolution_kernel(jnp.asarray(stem["kernel"]), patch=4, stride=2), "bias": stem["bias"]}
        for stem in stems
    ]
    convolutions += [video[name] for name in sorted(video) if name.startswith("Conv")]
    places = [layer for layer in model.video.convolutions if isinstance(layer, nn.Conv2d)]
    for place, ours in zip(places, convolutions, strict=True):
        put(place.weight, np.asarray(ours["kernel"]).transpose(3, 2, 0, 1))
        put(place.bias, ours["bias"])
    places = [layer for layer in model.video.convolutions if isinstance(layer, nn.BatchNorm2d)]
    norms = [video[name] for name in sorted(video) if name.startswith("BatchNorm")]
    for place, ours in zip(places, norms, strict=True):
        put(place.weight, ours["scale"])
        put(place.bias, ours["bias"])
    for ours, theirs in ((video["Dense_0"], model.video.dense), (params["Dense_0"], model.head)):
        put(theirs.weight, np.asarray(ours["kernel"]).T)
        put(theirs.bias, ours["bias"])
    return model
