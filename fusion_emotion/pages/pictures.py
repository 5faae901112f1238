"""Figures of faces and sounds: segments, spectrograms and explanations; and media as data URIs.

Pure functions in the style of `figures`, which draws numbers.
"""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.io.wavfile
from jaxtyping import Float, Int16, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from fusion_emotion.pages.figures import BLUE, CARD_WIDTH_IN, WIDTH_IN, data_uri, styled
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

_LEFT_IN, _TOP_IN, _GAP_IN = 0.5, 0.06, 0.04  # around panels

_Panel = tuple[float, Callable[[Axes], None]]  # its height in inches, and what draws it


@styled
def example(
    faces: UInt8[np.ndarray, "T S S 3"] | None,
    waveform: Int16[np.ndarray, "samples"] | None,
    *,
    start_s: float,
    length_s: float,
    missing: Sequence[str] = (),
) -> Figure:
    """Draw a segment's faces above the spectrogram of its sound, over its place in the clip.

    Faces or waveform that are None are not drawn; each of `missing` is a sentence in a bar of its own.
    """
    right_in = 0.14
    panels: list[_Panel] = []
    if faces is not None:
        panels.append(_strip(np.hstack([*faces]), start_s, length_s, right_in=right_in))
    if waveform is not None:
        panels.append((0.8, functools.partial(_draw_spectrogram, waveform, start_s)))
    figure = _over_time([*panels, *map(_sentence, missing)], start_s, length_s, right_in=right_in)
    for axes in figure.axes:
        # Only the spectrogram has a scale of its own; around the other panels lines would be a frame.
        axes.spines[["left", "bottom"]].set_visible(len(axes.get_yticks()) > 0)
        axes.tick_params(axis="y", length=3 if axes is figure.axes[-1] else 0)
    return figure


@styled
def explanation(
    *,
    faces: UInt8[np.ndarray, "T S S 3"] | None,
    heat: Float[np.ndarray, "rows columns"] | None,
    log_mel_db: Float[np.ndarray, "time n_mels"] | None,
    relevance: Float[np.ndarray, "time n_mels"] | None,
    centres_hz: Float[np.ndarray, "n_mels"],
    start_s: float,
    length_s: float,
) -> Figure:
    """Draw a segment's faces, plain and with their `heat`, and its spectrogram above the `relevance` of its cells.

    Where `faces` or `log_mel_db` is None, a bar says so; `heat` and `relevance` are None if the network has no such
    modality. `centres_hz` are the frequencies of the bands.
    """
    right_in = 0.5
    panels: list[_Panel] = []
    if heat is not None and faces is not None:
        plain = np.hstack([*faces])
        for picture, name in ((plain, "faces"), (_heated(plain, heat), "Grad-CAM")):
            panels.append(_strip(picture, start_s, length_s, right_in=right_in, name=name))
    elif heat is not None:
        panels.append(_sentence("no face in this segment"))
    if relevance is not None and log_mel_db is not None:
        # The few strongest cells would leave all others pale.
        most = max(float(np.quantile(np.abs(relevance), 0.99)), 1e-12)
        # Orange speaks for the answer and purple against it: Brewer's PuOr, which the colour-blind tell apart.
        signed = {"cmap": "PuOr_r", "vmin": -most, "vmax": most}
        for cells, look in ((log_mel_db, {"cmap": "cividis"}), (relevance, signed)):
            # Bands are marked away from the ends, where neighbouring panels would meet.
            bands: dict[str, Any] = {"centres_hz": centres_hz, "bands_at": (0.1, 0.5, 0.9)}
            panels.append((0.85, functools.partial(_draw_cells, cells, start_s, length_s, look=look, **bands)))
    elif relevance is not None:
        panels.append(_sentence("no sound in this segment"))
    return _over_time(panels, start_s, length_s, right_in=right_in)


@styled
def sound(waveform: Int16[np.ndarray, "samples"]) -> Figure:
    """Draw a clip's waveform, as high as its own peak, above its spectrogram."""
    figure = Figure(figsize=(CARD_WIDTH_IN, 1.5))
    # At fixed places, so that the panels of a sheet's clips are aligned.
    below = figure.add_axes((0.1, 0.26, 0.85, 0.42))
    above = figure.add_axes((0.1, 0.7, 0.85, 0.29), sharex=below)
    columns = np.array_split(waveform.astype(np.int32), min(500, len(waveform)))
    time_s = np.linspace(0, len(waveform) / SAMPLE_RATE_HZ, len(columns))
    low, high = [column.min() for column in columns], [column.max() for column in columns]
    above.fill_between(time_s, low, high, color=BLUE, linewidth=0.5)
    peak = max(max(high), -min(low), 1)
    above.set_ylim(-peak, peak)
    above.set_axis_off()
    _draw_spectrogram(waveform, 0, below)
    below.set_xlabel("time in the clip (s)", labelpad=1)
    return figure


@styled
def log_mel(
    db: Float[np.ndarray, "time n_mels"],
    *,
    centres_hz: Float[np.ndarray, "n_mels"],
    span_db: tuple[float, float],
    length_s: float,
) -> Figure:
    """Draw a log-mel spectrogram as the model gets it, its colours over `span_db`, its bands at `centres_hz`."""
    figure = Figure(figsize=(CARD_WIDTH_IN, 1.45))
    axes = figure.add_axes((0.12, 0.29, 0.73, 0.67))
    look = {"cmap": "cividis", "vmin": span_db[0], "vmax": span_db[1]}
    _draw_cells(db, 0, length_s, axes, look=look, centres_hz=centres_hz, bands_at=(0, 1 / 3, 2 / 3, 1))
    axes.set_xticks(_times_s(0, length_s))
    axes.set_xlabel("time (s)", labelpad=1)
    return figure


def _times_s(start_s: float, length_s: float) -> Float[np.ndarray, "n"]:
    """Return the times to mark on an axis: whole frames, at most nine."""
    n_frames = round(length_s * FRAME_RATE_HZ)
    return start_s + np.arange(0, n_frames + 1, math.ceil(n_frames / 8)) / FRAME_RATE_HZ


def _over_time(panels: Sequence[_Panel], start_s: float, length_s: float, *, right_in: float) -> Figure:
    """Draw panels one below the other over the same time of a clip."""
    height_in = 0.42 + sum(panel_in + _GAP_IN for panel_in, _ in panels) + _TOP_IN
    figure = Figure(figsize=(WIDTH_IN, height_in))
    left, width = _LEFT_IN / WIDTH_IN, (WIDTH_IN - _LEFT_IN - right_in) / WIDTH_IN
    bottom_in = height_in - _TOP_IN
    times_s = _times_s(start_s, length_s)
    for panel_in, draw in panels:
        bottom_in -= panel_in + _GAP_IN
        axes = figure.add_axes((left, bottom_in / height_in, width, panel_in / height_in))
        draw(axes)
        axes.set_xlim(start_s, start_s + length_s)
        axes.set_xticks(times_s, [f"{time_s:.1f}" for time_s in times_s])
        axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.tick_params(axis="x", labelbottom=True, length=3)
    axes.set_xlabel("time in the clip (s)", labelpad=1)
    return figure


def _sentence(sentence: str) -> _Panel:
    def draw(axes: Axes) -> None:
        axes.set_facecolor("#eeeeee")
        axes.set_yticks([])
        axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", style="italic")

    return 0.26, draw


def _strip(
    picture: UInt8[np.ndarray, "S width 3"], start_s: float, length_s: float, *, right_in: float, name: str = ""
) -> _Panel:
    def draw(axes: Axes) -> None:
        axes.imshow(picture, extent=(start_s, start_s + length_s, 0, 1), aspect="auto", interpolation="bicubic")
        axes.set_yticks([])
        axes.set_ylabel(name)

    return (WIDTH_IN - _LEFT_IN - right_in) / (picture.shape[1] / picture.shape[0]), draw


def _draw_spectrogram(waveform: Int16[np.ndarray, "samples"], start_s: float, axes: Axes) -> None:
    extent = (start_s, start_s + len(waveform) / SAMPLE_RATE_HZ, 0, SAMPLE_RATE_HZ / 2000)
    shades: dict[str, Any] = {"cmap": "Greys", "vmin": -70, "vmax": 0, "interpolation": "bilinear"}
    axes.imshow(spectrogram_db(waveform), origin="lower", extent=extent, aspect="auto", **shades)
    axes.set_yticks([0, 4, 8])
    axes.set_ylabel("kHz", labelpad=2)


def _draw_cells(
    values: Float[np.ndarray, "time n_mels"],
    start_s: float,
    length_s: float,
    axes: Axes,
    *,
    look: Mapping[str, Any],
    centres_hz: Float[np.ndarray, "n_mels"],
    bands_at: Sequence[float],
) -> None:
    """Draw cells of a segment; bands are marked at the fractions `bands_at` of the way from the first to the last."""
    n_times, n_mels = values.shape
    # Frames are centred on their times, the first and the last on the ends of the segment.
    half_s = 0.5 * length_s / max(1, n_times - 1)
    extent = (start_s - half_s, start_s + length_s + half_s, -0.5, n_mels - 0.5)
    axes.imshow(values.T, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **look)
    bands = (np.array(bands_at) * (n_mels - 1)).round().astype(int)
    axes.set_yticks(bands)
    axes.set_ylabel("mel band", labelpad=2)
    hz = axes.secondary_yaxis("right")
    hz.set_yticks(bands, [f"{centres_hz[band] / 1000:.1f}" for band in bands])
    hz.set_ylabel("kHz", labelpad=3)


def _heated(strip: UInt8[np.ndarray, "S width 3"], heat: Float[np.ndarray, "rows columns"]) -> np.ndarray:
    """Colour a strip in grey by its heat; the hottest place has the full colour."""
    opacity = heat / max(float(heat.max()), 1e-12)
    picture = Image.fromarray(strip)
    opacity = np.asarray(Image.fromarray(opacity.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR))
    grey = np.asarray(picture.convert("L"))[..., None] / 255
    coloured = colormaps["inferno"](0.25 + 0.65 * opacity)[..., :3]
    opacity = 0.75 * np.clip(opacity, 0, 1)[..., None]
    return np.round(255 * ((1 - opacity) * grey + opacity * coloured)).astype(np.uint8)


def spectrogram_db(waveform: Int16[np.ndarray, "samples"]) -> Float[np.ndarray, "bins frames"]:
    """Power in dB below the loudest point, from 0 Hz to the Nyquist frequency, with zeros beyond the ends."""
    padded = np.pad(waveform.astype(np.float64), 256)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::128]
    power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
    return 10 * np.log10(np.maximum(power, 1e-10) / max(power.max(), 1e-10)).T


@styled
def jpeg_uri(figure: Figure) -> str:
    """A figure as a data URI of a JPEG, for figures that hold photographs."""
    out = io.BytesIO()
    figure.savefig(out, format="jpeg", dpi=190, pil_kwargs={"quality": 85, "subsampling": 0, "optimize": True})
    return data_uri("image/jpeg", out)


def strip_uri(faces: UInt8[np.ndarray, "T S S 3"]) -> str:
    """Faces side by side as a data URI of a JPEG, pixel by pixel; large ones are made smaller."""
    picture = Image.fromarray(np.hstack([*faces]))
    picture.thumbnail((picture.width, 96))
    out = io.BytesIO()
    picture.save(out, format="jpeg", quality=88, subsampling=0)
    return data_uri("image/jpeg", out)


def wav_uri(waveform: Int16[np.ndarray, "samples"]) -> str:
    """A sound as a data URI of a WAV file."""
    out = io.BytesIO()
    scipy.io.wavfile.write(out, SAMPLE_RATE_HZ, waveform)
    return data_uri("audio/wav", out)
