"""The networks of fusion_emotion as one would write them in PyTorch: channels-last, torch.stft, nn.LSTM."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from fusion_emotion.models.cpu_kernels import convolution_kernel
from fusion_emotion.models.frontend import cepstrum, mel_filters


class LogMel(nn.Module):
    """A mel spectrogram in dB, clipped 80 dB below its maximum."""

    def __init__(self, mfcc: Mapping[str, Any]):
        super().__init__()
        self.mfcc = mfcc
        filters = mel_filters(16_000, mfcc["n_fft"], mfcc["n_mels"], mfcc["fmin"], mfcc["fmax"])
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()))
        self.register_buffer("window", torch.hann_window(mfcc["n_fft"]))

    def forward(self, waveform: Tensor) -> Tensor:
        """The spectrogram of int16 sound, [batch, time, bands]."""
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
        return torch.maximum(db, db.amax((1, 2), keepdim=True) - 80)


class Audio(nn.Module):
    """MFCC, batch normalisation, LSTM; the last hidden state."""

    def __init__(self, features: int, layers: int, mfcc: Mapping[str, Any]):
        super().__init__()
        self.log_mel = LogMel(mfcc)
        dct = np.asarray(cepstrum(jnp.eye(mfcc["n_mels"]), n_mfcc=mfcc["n_mfcc"]))
        self.register_buffer("dct", torch.from_numpy(dct.copy()))
        self.norm = nn.BatchNorm1d(mfcc["n_mfcc"])
        self.lstm = nn.LSTM(mfcc["n_mfcc"], features, layers, batch_first=True)

    def forward(self, waveform: Tensor) -> Tensor:
        """The features of each second of int16 sound."""
        x = self.norm((self.log_mel(waveform) @ self.dct).transpose(1, 2)).transpose(1, 2)
        return self.lstm(x)[0][:, -1]

    def put_parameters(self, ours: Mapping[str, Any]) -> None:
        """Take those of an `AudioLSTM`."""
        put_norms([self.norm], ours)
        for layer in range(self.lstm.num_layers):
            put_lstm(self.lstm, f"l{layer}", ours[f"LSTM_{layer}"])


class Residual(nn.Module):
    """Two convolutions of three frames beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.short = nn.Conv1d(before, width, 1, stride=stride) if before != width or stride > 1 else None
        self.first = nn.Conv1d(before, width, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, time]."""
        short = self.short(x) if self.short else x
        x = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(x)) + short)


class Voice(nn.Module):
    """`VoiceNet` on clips without silence at their ends."""

    def __init__(self, features: int, mfcc: Mapping[str, Any], widths: tuple[int, ...] = (96, 128, 160, 192)):
        super().__init__()
        self.log_mel = LogMel(mfcc)
        sizes = zip((mfcc["n_mels"], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Residual(*size, stride=min(2, i)) for i, size in enumerate(sizes, start=1)))
        self.lstm = nn.LSTM(widths[-1], features // 2, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, 1))
        self.dense = nn.Linear(2 * features, features)

    def forward(self, waveform: Tensor) -> Tensor:
        """The features of each clip of int16 sound."""
        x = self.log_mel(waveform)
        x = x - x.mean(dim=1, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1)
        x, _ = self.lstm(self.blocks(x.transpose(1, 2)).transpose(1, 2))
        weight = self.score(x).softmax(dim=1)
        mean = (weight * x).sum(dim=1)
        deviation = (weight * (x - mean[:, None]).square()).sum(dim=1).clamp(min=1e-5).sqrt()
        return F.relu(self.dense(torch.cat([mean, deviation], dim=1)))

    def put_parameters(self, ours: Mapping[str, Any]) -> None:
        """Take those of a `VoiceNet`; flax numbers the layers in the order in which they are made."""
        dense = [ours[f"Dense_{i}"] for i in range(sum(name.startswith("Dense") for name in ours))]
        for block in self.blocks:
            if block.short:
                layer = dense.pop(0)
                put(block.short.weight, np.asarray(layer["kernel"]).T[..., None])
                put(block.short.bias, layer["bias"])
            for convolution in (block.first, block.second):
                kernel = np.asarray(dense.pop(0)["kernel"])
                put(convolution.weight, kernel.reshape(3, -1, kernel.shape[1]).transpose(2, 1, 0))
        put_norms([norm for block in self.blocks for norm in block.norms], ours)
        for name, suffix in (("LSTM_0", "l0"), ("LSTM_1", "l0_reverse")):
            put_lstm(self.lstm, suffix, ours[name])
        for layer, theirs in zip(dense, (self.score[2], self.score[0], self.dense), strict=True):
            put_linear(theirs, layer)


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

    def put_parameters(self, ours: Mapping[str, Any]) -> None:
        """Take those of a `StripEncoder`."""
        put_convolutions(self.convolutions, ours, patch=4)
        put_linear(self.dense, ours["Dense_0"])


class Face(nn.Module):
    """`FaceCNN` on strips of one grey face."""

    def __init__(self, features: int, widths: tuple[tuple[int, ...], ...] = ((64,), (128, 128), (192, 192))):
        super().__init__()

        def normed(layer: nn.Conv2d) -> list[nn.Module]:
            return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]

        layers: list[nn.Module] = [nn.ZeroPad2d((0, 4, 0, 4)), *normed(nn.Conv2d(1, 32, 6, stride=2))]
        before = 32
        for index, group in enumerate(widths, start=1):
            for width in group:
                layers += normed(nn.Conv2d(before, width, 3, padding=1, bias=False))
                before = width
            layers += [nn.MaxPool2d(2)] if index < len(widths) else []
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(2 * before, features)
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]))

    def forward(self, strip: Tensor) -> Tensor:
        """The features of each face of bytes."""
        x = (strip.float() / 255 @ self.luma)[:, None]
        x = x - x.mean((1, 2, 3), keepdim=True)
        x = self.convolutions(x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=0.02))
        return F.relu(self.dense(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)))

    def put_parameters(self, ours: Mapping[str, Any]) -> None:
        """Take those of a `FaceCNN`."""
        put_convolutions(self.convolutions, ours, patch=6)
        put_linear(self.dense, ours["Dense_0"])


class Fusion(nn.Module):
    """The modalities of a config, concatenated, and a dense head."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        model, features = config["model"], config["model"]["features"]
        self.audio: nn.Module | None = None
        self.video: nn.Module | None = None
        if "audio" in model["modalities"]:
            whole = model["voice_network"] == "whole_clip"
            self.audio = (
                Voice(features, model["mfcc"]) if whole else Audio(features, model["lstm_layers"], model["mfcc"])
            )
        if "video" in model["modalities"]:
            single = model["strip_network"] == "face"
            self.video = (
                Face(features) if single else Video(model["strip_network"], features, config["prepare"]["face_size"])
            )
        self.dropout = nn.Dropout(model["dropout_rate"])
        self.head = nn.Linear(features * len(model["modalities"].split("+")), 8)

    def forward(self, strip: Tensor, waveform: Tensor) -> Tensor:
        """The logits of each segment."""
        found = [self.audio(waveform)] if self.audio else []
        found += [self.video(strip)] if self.video else []
        return self.head(self.dropout(torch.cat(found, dim=1)))


def with_parameters(model: Fusion, params: Mapping[str, Any]) -> Fusion:
    """The model with the parameters of a `FusionNet`: the proof that both compute the same."""
    for name in ("audio", "video"):
        if branch := getattr(model, name):
            branch.put_parameters(params[name])
    put_linear(model.head, params["Dense_0"])
    return model


def put(target: Tensor, value: Any) -> None:
    """Set a parameter."""
    target.data.copy_(torch.from_numpy(np.array(value, np.float32)))


def put_linear(target: nn.Linear, ours: Mapping[str, Any]) -> None:
    """Set a dense layer."""
    put(target.weight, np.asarray(ours["kernel"]).T)
    put(target.bias, ours["bias"])


def put_norms(targets: Sequence[nn.Module], ours: Mapping[str, Any]) -> None:
    """Set batch normalisations, in order."""
    for index, target in enumerate(targets):
        put(target.weight, ours[f"BatchNorm_{index}"]["scale"])
        put(target.bias, ours[f"BatchNorm_{index}"]["bias"])


def put_lstm(target: nn.LSTM, suffix: str, ours: Mapping[str, Any]) -> None:
    """Set a layer of an LSTM."""
    put(getattr(target, f"weight_ih_{suffix}"), np.asarray(ours["input"]["kernel"]).T)
    put(getattr(target, f"weight_hh_{suffix}"), np.asarray(ours["recurrent"]).T)
    put(getattr(target, f"bias_ih_{suffix}"), ours["input"]["bias"])
    getattr(target, f"bias_hh_{suffix}").data.zero_()


def put_convolutions(target: nn.Sequential, ours: Mapping[str, Any], *, patch: int) -> None:
    """Set convolutions, the first of which may be a `PatchDense`, and their batch normalisations."""
    layers = []
    if stem := ours.get("PatchDense_0"):
        kernel = convolution_kernel(jnp.asarray(stem["patches"]["kernel"]), patch=patch, stride=2)
        layers = [{"kernel": kernel, "bias": stem["patches"]["bias"]}]
    layers += [ours[f"Conv_{i}"] for i in range(sum(name.startswith("Conv") for name in ours))]
    for place, layer in zip([each for each in target if isinstance(each, nn.Conv2d)], layers, strict=True):
        put(place.weight, np.asarray(layer["kernel"]).transpose(3, 2, 0, 1))
        if place.bias is not None:
            put(place.bias, layer["bias"])
    put_norms([each for each in target if isinstance(each, nn.BatchNorm2d)], ours)
