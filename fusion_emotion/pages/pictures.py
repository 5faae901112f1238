"""What pages show of faces and sounds: figures of windows, spectrograms and explanations, and media as data URIs.

Pure functions in the style of `figures`, which has those of numbers.
"""

import functools
import io
import wave
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int16, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from fusion_emotion.pages.figures import BLUE, CARD_WIDTH_IN, WIDTH_IN, data_uri, styled
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

_SENTENCE_IN = 0.26
_STRIP_HEIGHT_PX = 96  # at most
_ENVELOPE_COLUMNS = 500
_DYNAMIC_RANGE_DB = 70

_Draw = Callable[[Axes], None]


@styled
def example(
    strip: UInt8[np.ndarray, "S width 3"] | None,
    waveform: Int16[np.ndarray, "samples"] | None,
    *,
    start_s: float,
    missing: Sequence[str] = (),
) -> Figure:
    """One window: its strip above the spectrogram of its sound, over the same second, which begins at `start_s`.

    `strip` or `waveform` is None where it is not to be drawn; each of `missing` is a sentence in a bar of its own.
    """
    left_in, right_in = 0.5, 0.14
    panels: list[tuple[float, _Draw]] = []
    if strip is not None:
        height_in = (WIDTH_IN - left_in - right_in) * strip.shape[0] / strip.shape[1]
        panels.append((height_in, functools.partial(_draw_faces, strip, start_s=start_s)))
    if waveform is not None:
        panels.append((0.8, functools.partial(_draw_spectrogram, waveform, start_s=start_s)))
    panels += [(_SENTENCE_IN, functools.partial(_draw_sentence, sentence)) for sentence in missing]
    figure = _over_a_second(panels, start_s=start_s, left_in=left_in, right_in=right_in, top_in=0.06, gap_in=0.04)
    for axes in figure.axes:
        # Of these panels only the spectrogram has a scale of its own; around the others lines would be a frame.
        axes.spines[["left", "bottom"]].set_visible(len(axes.get_yticks()) > 0)
        axes.tick_params(axis="y", length=3 if axes is figure.axes[-1] else 0)
    return figure


@styled
def explanation(
    *,
    strip: UInt8[np.ndarray, "S width 3"] | None,
    heat: Float[np.ndarray, "rows columns"] | None,
    log_mel_db: Float[np.ndarray, "time n_mels"] | None,
    relevance: Float[np.ndarray, "time n_mels"] | None,
    centres_hz: Float[np.ndarray, "n_mels"],
    start_s: float,
) -> Figure:
    """A window's strip, plain and with its `heat`, and its log-mel spectrogram above the `relevance` of its cells.

    Where `strip` or `log_mel_db` is None a bar says that it is missing; where `heat` or `relevance` is, nothing does.
    `centres_hz` are the bands'; all is over the second that begins at `start_s`.
    """
    left_in, right_in = 0.52, 0.5
    panels: list[tuple[float, _Draw]] = []
    if heat is not None and strip is not None:
        height_in = (WIDTH_IN - left_in - right_in) / FRAME_RATE_HZ
        for picture, name in ((strip, "faces"), (_heated(strip, heat), "Grad-CAM")):
            panels.append((height_in, functools.partial(_draw_faces, picture, name=name, start_s=start_s)))
    elif heat is not None:
        panels.append((_SENTENCE_IN, functools.partial(_draw_sentence, "no face in this second")))
    if relevance is not None and log_mel_db is not None:
        # The few strongest cells would leave all others pale.
        most = max(float(np.quantile(np.abs(relevance), 0.99)), 1e-12)
        # Orange speaks for the answer and purple against it: Brewer's PuOr, which the colour-blind tell apart.
        signed: dict[str, Any] = {"cmap": colormaps["PuOr_r"], "vmin": -most, "vmax": most}
        # Marked away from the ends, where the panel above and that below would meet.
        cells = functools.partial(_draw_cells, start_s=start_s, centres_hz=centres_hz, bands_at=(0.1, 0.5, 0.9))
        for values, colours in ((log_mel_db, {"cmap": colormaps["cividis"]}), (relevance, signed)):
            panels.append((0.85, functools.partial(cells, values, colours=colours)))
    elif relevance is not None:
        panels.append((_SENTENCE_IN, functools.partial(_draw_sentence, "no sound in this second")))
    return _over_a_second(panels, start_s=start_s, left_in=left_in, right_in=right_in, top_in=0, gap_in=0.07)


@styled
def sound(waveform: Int16[np.ndarray, "samples"]) -> Figure:
    """A clip's sound: its waveform, as high as its own peak, above its spectrogram."""
    figure = Figure(figsize=(CARD_WIDTH_IN, 1.5))
    # Placed by hand, so that those of a sheet stand one below the other.
    below = figure.add_axes((0.1, 0.26, 0.88, 0.42))
    above = figure.add_axes((0.1, 0.7, 0.88, 0.29), sharex=below)
    columns = np.array_split(waveform.astype(np.int32), min(_ENVELOPE_COLUMNS, len(waveform)))
    time_s = np.linspace(0, len(waveform) / SAMPLE_RATE_HZ, len(columns))
    low, high = [column.min() for column in columns], [column.max() for column in columns]
    above.fill_between(time_s, low, high, color=BLUE, linewidth=0.5)
    peak = max(max(high), -min(low), 1)
    above.set_ylim(-peak, peak)
    above.set_axis_off()
    _draw_spectrogram(waveform, below, start_s=0)
    below.set_xlabel("time in the clip (s)", labelpad=1)
    return figure


@styled
def log_mel(
    db: Float[np.ndarray, "time n_mels"], *, centres_hz: Float[np.ndarray, "n_mels"], span_db: tuple[float, float]
) -> Figure:
    """A log-mel spectrogram of a second as the model gets it; colours span `span_db`, `centres_hz` are the bands'."""
    figure = Figure(figsize=(CARD_WIDTH_IN, 1.45))
    axes = figure.add_axes((0.12, 0.29, 0.73, 0.67))
    colours = {"cmap": colormaps["cividis"], "vmin": span_db[0], "vmax": span_db[1]}
    _draw_cells(db, axes, start_s=0, colours=colours, centres_hz=centres_hz, bands_at=(0, 1 / 3, 2 / 3, 1))
    axes.set_xticks(np.arange(6) / 5)
    axes.set_xlabel("time (s)", labelpad=1)
    return figure


def _over_a_second(
    panels: Sequence[tuple[float, _Draw]],
    *,
    start_s: float,
    left_in: float,
    right_in: float,
    top_in: float,
    gap_in: float,
) -> Figure:
    """Panels, each of a height in inches, one below the other over the second that begins at `start_s`."""
    height_in = 0.42 + sum(each + gap_in for each, _ in panels) + top_in
    figure = Figure(figsize=(WIDTH_IN, height_in))
    bottom_in = height_in - top_in
    for i, (each, draw) in enumerate(panels, start=1):
        bottom_in -= each + gap_in
        width = (WIDTH_IN - left_in - right_in) / WIDTH_IN
        axes = figure.add_axes((left_in / WIDTH_IN, bottom_in / height_in, width, each / height_in))
        draw(axes)
        axes.set_xlim(start_s, start_s + 1)
        axes.set_xticks(start_s + np.arange(6) / 5, [f"{start_s + k / 5:.1f}" for k in range(6)])
        axes.tick_params(axis="x", labelbottom=i == len(panels), length=3 if i == len(panels) else 0)
    axes.set_xlabel("time in the clip (s)", labelpad=1)
    return figure


def _draw_faces(picture: UInt8[np.ndarray, "S width 3"], axes: Axes, *, start_s: float, name: str = "") -> None:
    axes.imshow(picture, extent=(start_s, start_s + 1, 0, 1), aspect="auto", interpolation="bicubic")
    axes.set_yticks([])
    axes.set_ylabel(name)


def _draw_sentence(sentence: str, axes: Axes) -> None:
    axes.set_facecolor("#eeeeee")
    axes.set_yticks([])
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", style="italic")


def _draw_spectrogram(waveform: Int16[np.ndarray, "samples"], axes: Axes, *, start_s: float) -> None:
    axes.imshow(
        spectrogram_db(waveform),
        cmap=colormaps["Greys"],
        vmin=-_DYNAMIC_RANGE_DB,
        vmax=0,
        origin="lower",
        extent=(start_s, start_s + len(waveform) / SAMPLE_RATE_HZ, 0, SAMPLE_RATE_HZ / 2000),
        aspect="auto",
        interpolation="bilinear",
    )
    axes.set_yticks([0, 4, 8])
    axes.set_ylabel("kHz", labelpad=2)


def _draw_cells(
    values: Float[np.ndarray, "time n_mels"],
    axes: Axes,
    *,
    start_s: float,
    colours: Mapping[str, Any],
    centres_hz: Float[np.ndarray, "n_mels"],
    bands_at: Sequence[float],
) -> None:
    """Cells of a second; the bands marked are those `bands_at`, in shares of the way from the first to the last."""
    n_times, n_mels = values.shape
    # Frames are centred on their times, the first and the last on the ends of the second.
    half = 0.5 / (n_times - 1)
    extent = (start_s - half, start_s + 1 + half, -0.5, n_mels - 0.5)
    axes.imshow(values.T, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **colours)
    bands = (np.array(bands_at) * (n_mels - 1)).round().astype(int)
    axes.set_yticks(bands)
    axes.set_ylabel("mel band", labelpad=2)
    hz = axes.secondary_yaxis("right")
    hz.set_yticks(bands, [f"{centres_hz[band] / 1000:.1f}" for band in bands])
    hz.set_ylabel("kHz", labelpad=3)


def _heated(strip: UInt8[np.ndarray, "S width 3"], heat: Float[np.ndarray, "rows columns"]) -> np.ndarray:
    """A strip in grey, with colour the more the hotter it is; the hottest place has all of it."""
    share = heat / max(float(heat.max()), 1e-12)
    size = (strip.shape[1], strip.shape[0])
    share = np.asarray(Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(Image.fromarray(strip).convert("L"))[..., None] / 255
    coloured = colormaps["inferno"](0.25 + 0.65 * share[..., 0])[..., :3]
    opacity = 0.75 * np.clip(share, 0, 1)
    return np.round(255 * ((1 - opacity) * grey + opacity * coloured)).astype(np.uint8)


def spectrogram_db(
    waveform: Int16[np.ndarray, "samples"], *, n_fft: int = 512, hop_length: int = 128
) -> Float[np.ndarray, "bins frames"]:
    """Power in dB below the loudest point of the window; 0 Hz to the Nyquist frequency; zeros beyond the ends."""
    padded = np.pad(waveform.astype(np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    power = np.abs(np.fft.rfft(frames * np.hanning(n_fft))) ** 2
    return 10 * np.log10(np.maximum(power, 1e-10) / max(power.max(), 1e-10)).T


@styled
def jpeg_uri(figure: Figure) -> str:
    """A figure as a data URI of a JPEG, for figures that hold photographs."""
    out = io.BytesIO()
    figure.savefig(out, format="jpeg", dpi=190, pil_kwargs={"quality": 85, "subsampling": 0, "optimize": True})
    return data_uri("image/jpeg", out)


def strip_uri(strip: UInt8[np.ndarray, "S width 3"]) -> str:
    """A strip as a data URI of a JPEG, pixel by pixel; one that is large is made smaller."""
    picture = Image.fromarray(strip)
    picture.thumbnail((picture.width, _STRIP_HEIGHT_PX))
    out = io.BytesIO()
    picture.save(out, format="jpeg", quality=88, subsampling=0)
    return data_uri("image/jpeg", out)


def wav_uri(waveform: Int16[np.ndarray, "samples"]) -> str:
    """A sound as a data URI of a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(waveform.astype("<i2").tobytes())
    return data_uri("audio/wav", out)
