"""The pictures of the pages: pure functions of data to matplotlib figures, and figures to data URIs.

Colours are Okabe & Ito's (2008), which the colour-blind tell apart, and each line also has its own dash and marker. No
pyplot, so that neither a backend nor a window is chosen for whoever calls.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int16, UInt8
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fusion_emotion.prepare.settings import SAMPLE_RATE_HZ

BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#595959"

_WIDTH_IN = 4.8
_CARD_WIDTH_IN = 3.3  # three of them side by side
_STRIP_HEIGHT_PX = 96  # at most
_ENVELOPE_COLUMNS = 500
_LINES = ((BLUE, "-", "o"), (VERMILLION, "--", "s"))
_MOST_MARKERS = 40
_DYNAMIC_RANGE_DB = 70
# Someone's own matplotlibrc must not change a report, nor a report their figures.
_styled = style.context(
    [
        "default",
        {
            "font.size": 9,
            "axes.edgecolor": GREY,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.hashsalt": "report",
        },
    ]
)


@_styled
def confusion(counts: Int[np.ndarray, "C C"], label_names: Sequence[str], *, unit: str) -> Figure:
    """A confusion matrix: rows are true emotions; each cell holds its count of `unit` and its share of the row.

    A row without examples stays white and has no shares.
    """
    n = len(label_names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    figure = Figure(figsize=(_WIDTH_IN, _WIDTH_IN), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(n, n):
        if not totals[row]:
            continue
        # Above 0.72 white contrasts more with the blue than black does (WCAG's ratio).
        colour = "white" if shares[row, column] > 0.72 else "black" if counts[row, column] else GREY
        at: dict[str, Any] = {"ha": "center", "color": colour}
        bold = "bold" if counts[row, column] else "normal"
        axes.text(column, row + 0.02, str(counts[row, column]), va="bottom", size=9.5, weight=bold, **at)
        axes.text(column, row + 0.08, _percent(float(shares[row, column])), va="top", size=7.5, **at)
    axes.set_xticks(range(n), label_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), label_names)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#d0d0d0", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"predicted emotion ({unit})")
    axes.set_ylabel(f"true emotion ({unit})")
    return figure


@_styled
def recalls(
    shares: Sequence[float | None], counts: Sequence[int], label_names: Sequence[str], *, chance: float, unit: str
) -> Figure:
    """A bar for the recall of each emotion, its count of `unit`, and a line at the `chance` level.

    `shares` and `chance` are in [0, 1]; None is an emotion without examples.
    """
    n = len(label_names)
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + 0.34 * n), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(n), [100 * (share or 0) for share in shares], color=BLUE, height=0.66)
    for row, (share, count) in enumerate(zip(shares, counts, strict=True)):
        inside = share is not None and share > 0.75
        text = f"no {unit}" if share is None else _percent(share)
        at = (100 * share - 1.5 if inside else 100 * share + 1.5) if share is not None else 1.5
        # White beneath the text, for the line of chance may pass there.
        box = None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        colour = "white" if inside else "black" if share is not None else GREY
        axes.text(at, row, text, va="center", ha="right" if inside else "left", color=colour, bbox=box, zorder=3)
        axes.text(101.5, row, f"n = {count}", va="center", ha="left", color=GREY, size=8)
    axes.axvline(100 * chance, color=VERMILLION, linestyle="--", linewidth=1.4, label=f"chance, {100 * chance:.1f} %")
    figure.legend(loc="outside upper left", fontsize=8)
    axes.set_yticks(range(n), label_names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"recall (% of the emotion's {unit})")
    return figure


@_styled
def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    chosen_epoch: float | None,
    top: float | None = None,
) -> Figure:
    """Up to two named lines of (epochs, values) from 0 up to `top`, and where the checkpoint was chosen."""
    figure = Figure(figsize=(_WIDTH_IN, 3.0), layout="constrained")
    axes = figure.add_subplot()
    if chosen_epoch is not None:
        axes.axvline(chosen_epoch, color="black", linestyle=":", linewidth=1.4, label="chosen checkpoint")
    for (name, (epochs, values)), (colour, dash, marker) in zip(lines.items(), _LINES, strict=False):
        axes.plot(
            epochs,
            values,
            color=colour,
            linestyle=dash,
            marker=marker if len(epochs) <= _MOST_MARKERS else "",
            markersize=4,
            linewidth=1.6 if len(epochs) <= _MOST_MARKERS else 1.0,
            label=name,
            clip_on=False,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(0, top)
    axes.set_xlabel("training time (epochs)")
    axes.set_ylabel(ylabel)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, handlelength=2.4, columnspacing=1.2)
    return figure


@_styled
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
    # All in inches.
    heights = [0.26] * len(missing)
    left, right, bottom, top_margin, gap = 0.5, 0.14, 0.42, 0.06, 0.04
    width = _WIDTH_IN - left - right
    if waveform is not None:
        heights.insert(0, 0.8)
    if strip is not None:
        heights.insert(0, width * strip.shape[0] / strip.shape[1])
    height = bottom + sum(heights) + gap * len(heights) + top_margin
    figure = Figure(figsize=(_WIDTH_IN, height))
    top = height - top_margin
    panels: list[Axes] = []
    for each in heights:
        top -= each + gap
        panels.append(figure.add_axes((left / _WIDTH_IN, top / height, width / _WIDTH_IN, each / height)))
    for axes in panels:
        axes.set_xlim(start_s, start_s + 1)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelbottom=axes is panels[-1], length=3 if axes is panels[-1] else 0)
        axes.set_xticks(start_s + np.arange(6) / 5, [f"{start_s + k / 5:.1f}" for k in range(6)])
    panels[-1].set_xlabel("time in the clip (s)", labelpad=1)
    unused = iter(panels)
    if strip is not None:
        axes = next(unused)
        axes.imshow(strip, extent=(start_s, start_s + 1, 0, 1), aspect="auto", interpolation="bicubic")
        axes.set_yticks([])
    if waveform is not None:
        axes = next(unused)
        _draw_spectrogram(axes, waveform, start_s=start_s)
        axes.spines[["left", "bottom"]].set_visible(True)
    for axes, sentence in zip(unused, missing, strict=True):
        axes.set_facecolor("#eeeeee")
        axes.set_yticks([])
        axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", style="italic")
    return figure


@_styled
def sound(waveform: Int16[np.ndarray, "samples"]) -> Figure:
    """A clip's sound: its waveform, as high as its own peak, above its spectrogram."""
    figure = Figure(figsize=(_CARD_WIDTH_IN, 1.5))
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
    _draw_spectrogram(below, waveform, start_s=0)
    below.set_xlabel("time in the clip (s)", labelpad=1)
    return figure


def _draw_spectrogram(axes: Axes, waveform: Int16[np.ndarray, "samples"], *, start_s: float) -> None:
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


@_styled
def histogram(
    values: Float[np.ndarray, "clips"], *, xlabel: str, span: tuple[float | None, float | None] = (None, None)
) -> Figure:
    """How many clips have which value, with a line at the median; of `span`, None is where the values themselves end.

    A bar of a single clip among thousands is still drawn a line's width high, so that an outlier is seen.
    """
    low, high = (end if end is not None else each for end, each in zip(span, (values.min(), values.max()), strict=True))
    counts, edges = np.histogram(values, bins=25, range=(low, high))
    there = counts > 0
    figure = Figure(figsize=(_CARD_WIDTH_IN, 1.9), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(
        edges[:-1][there], counts[there], np.diff(edges)[there], align="edge", color=BLUE, edgecolor=BLUE, linewidth=1.5
    )
    median = float(np.median(values))
    axes.axvline(median, color=VERMILLION, linestyle="--", linewidth=1.4)
    axes.set_title(f"median {median:.3g}".replace("-", "−"), loc="right", size=8, color=GREY)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("clips")
    axes.set_xlabel(xlabel)
    return figure


def spectrogram_db(
    waveform: Int16[np.ndarray, "samples"], *, n_fft: int = 512, hop_length: int = 128
) -> Float[np.ndarray, "bins frames"]:
    """Power in dB below the loudest point of the window; 0 Hz to the Nyquist frequency; zeros beyond the ends."""
    padded = np.pad(waveform.astype(np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    power = np.abs(np.fft.rfft(frames * np.hanning(n_fft))) ** 2
    return 10 * np.log10(np.maximum(power, 1e-10) / max(power.max(), 1e-10)).T


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


@_styled
def svg_uri(figure: Figure) -> str:
    """A figure as a data URI of an SVG, its text as outlines: sharp at every size, the same bytes each time."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", out)


@_styled
def jpeg_uri(figure: Figure) -> str:
    """A figure as a data URI of a JPEG, for figures that hold photographs."""
    out = io.BytesIO()
    figure.savefig(out, format="jpeg", dpi=190, pil_kwargs={"quality": 85, "subsampling": 0, "optimize": True})
    return _data_uri("image/jpeg", out)


def strip_uri(strip: UInt8[np.ndarray, "S width 3"]) -> str:
    """A strip as a data URI of a JPEG, pixel by pixel; one that is large is made smaller."""
    picture = Image.fromarray(strip)
    picture.thumbnail((picture.width, _STRIP_HEIGHT_PX))
    out = io.BytesIO()
    picture.save(out, format="jpeg", quality=88, subsampling=0, optimize=True)
    return _data_uri("image/jpeg", out)


def _data_uri(kind: str, data: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
