"""The pictures of the pages: pure functions of data to matplotlib figures, and figures to data URIs.

Colours are Okabe & Ito's (2008), which the colour-blind tell apart, and each line also has its own dash and marker. No
pyplot, so that neither a backend nor a window is chosen for whoever calls.
"""

import base64
import dataclasses
import functools
import io
import wave
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int16, UInt8
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fusion_emotion.prepare.settings import SAMPLE_RATE_HZ, STRIP_FRAMES

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"

# Okabe & Ito's eight, for what has more than two kinds.
_COLOURS = ("#E69F00", "#56B4E9", GREEN, "#F0E442", BLUE, VERMILLION, "#CC79A7", "#000000")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")

_WIDTH_IN = 4.8
_WIDE_IN = 7.2
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
def log_mel(
    db: Float[np.ndarray, "time n_mels"], *, centres_hz: Float[np.ndarray, "n_mels"], span_db: tuple[float, float]
) -> Figure:
    """A log-mel spectrogram of a second as the model gets it; colours span `span_db`, `centres_hz` are the bands'."""
    figure = Figure(figsize=(_CARD_WIDTH_IN, 1.45))
    axes = figure.add_axes((0.12, 0.29, 0.73, 0.67))
    n_mels = db.shape[1]
    picture = axes.imshow(
        db.T,
        cmap=colormaps["cividis"],
        vmin=span_db[0],
        vmax=span_db[1],
        origin="lower",
        # Frames are centred on their times, the first on 0 s and the last on 1 s.
        extent=(-0.5 / (len(db) - 1), 1 + 0.5 / (len(db) - 1), -0.5, n_mels - 0.5),
        aspect="auto",
        interpolation="nearest",
    )
    picture.set_rasterized(True)
    bands = np.linspace(0, n_mels - 1, 4).round().astype(int)
    axes.set_xticks(np.arange(6) / 5)
    axes.set_xlabel("time (s)", labelpad=1)
    axes.set_yticks(bands)
    axes.set_ylabel("mel band", labelpad=2)
    right = axes.secondary_yaxis("right")
    right.set_yticks(bands, [f"{centres_hz[band] / 1000:.1f}" for band in bands])
    right.set_ylabel("kHz", labelpad=3)
    return figure


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A statistic of one system, in shares: its value, the interval around it, and those of its runs."""

    title: str
    value: float
    interval: Sequence[float] | None
    runs: Sequence[float]
    chance: float
    mark: int  # which of `_MARKS` stands for the system


_MARKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (GREY, "D"))


@_styled
def scores(groups: Mapping[str, Sequence[Score]], *, xlabel: str) -> Figure:
    """A row for each score, under the name of its group: a mark with its interval, its runs as small rings, chance."""
    n_rows = sum(1 + len(group) for group in groups.values())
    figure = Figure(figsize=(_WIDE_IN, 0.75 + 0.27 * n_rows), layout="constrained")
    axes = figure.add_subplot()
    row, places, names = 0, [], []
    for group, members in groups.items():
        axes.text(0.5, row, group, va="center", weight="bold", size=8.5)
        for score in members:
            row += 1
            colour, marker = _MARKS[score.mark]
            ring: dict[str, Any] = {"color": "none", "edgecolor": colour, "linewidth": 0.7, "s": 16, "clip_on": False}
            # Beneath the bar, which would hide them.
            axes.scatter([100 * value for value in score.runs], [row + 0.24] * len(score.runs), **ring)
            if score.interval is not None:
                axes.plot([100 * end for end in score.interval], [row, row], color=colour, linewidth=2.2, zorder=3)
            look: dict[str, Any] = {"marker": marker, "color": colour, "markeredgecolor": "white", "clip_on": False}
            axes.plot(100 * score.value, row, zorder=4, **look)
            axes.plot([100 * score.chance] * 2, [row - 0.38, row + 0.38], color="black", linestyle=":", linewidth=1.4)
            places.append(row)
            names.append(score.title)
        row += 1
    axes.set_yticks(places, names)
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    return figure


@_styled
def marks(
    values: Mapping[str, Sequence[float | None]],
    names: Sequence[str],
    *,
    xlabel: str,
    line: tuple[str, float] | None = None,
) -> Figure:
    """A row for each of `names` with a mark for each series of shares, and a line with its name at a share."""
    figure = Figure(figsize=(_WIDTH_IN, 1.0 + 0.24 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for i, ((name, shares), (colour, marker)) in enumerate(zip(values.items(), _MARKS, strict=False)):
        # A little apart, so that none hides another.
        aside = 0.16 * (i - (len(values) - 1) / 2)
        known = [(100 * share, row + aside) for row, share in enumerate(shares) if share is not None]
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markeredgecolor": "white",
            "linestyle": "none",
            "clip_on": False,
        }
        axes.plot([x for x, _ in known], [y for _, y in known], label=name, zorder=3, **look)
    if line is not None:
        axes.axvline(100 * line[1], color="black", linestyle="--", linewidth=1.2, label=line[0])
    figure.legend(loc="outside upper left", ncols=2, fontsize=8, columnspacing=1.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    return figure


@_styled
def over_folds(values: Mapping[str, Sequence[tuple[int, float]]], *, ylabel: str) -> Figure:
    """The (fold, share) of each run of up to four systems, side by side within a fold."""
    figure = Figure(figsize=(_WIDTH_IN, 3.0), layout="constrained")
    axes = figure.add_subplot()
    folds = sorted({fold for runs in values.values() for fold, _ in runs})
    place = {fold: i for i, fold in enumerate(folds)}
    for i, ((name, runs), (colour, marker)) in enumerate(zip(values.items(), _MARKS, strict=False)):
        # As above.
        aside = 0.14 * (i - (len(values) - 1) / 2)
        axes.plot(
            [place[fold] + aside for fold, _ in runs],
            [100 * share for _, share in runs],
            color=colour,
            marker=marker,
            markeredgecolor="white",
            linestyle="none",
            label=name,
            clip_on=False,
        )
    figure.legend(loc="outside upper left", ncols=2, fontsize=8, columnspacing=1.2)
    axes.set_xticks(range(len(folds)), [str(fold) for fold in folds])
    axes.set_xlim(-0.5, len(folds) - 0.5)
    axes.set_ylim(0, 100)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("held-out fold (number)")
    axes.set_ylabel(ylabel)
    return figure


@_styled
def reliability(lines: Mapping[str, Mapping[str, Any]]) -> Figure:
    """How often clips are right against how sure the model is, above the share of clips in each bin of confidence.

    Each of up to two lines has `confidence` and `accuracy` (shares, None for an empty bin) and `count` of its bins.
    """
    figure = Figure(figsize=(_WIDTH_IN, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 100], [0, 100], color=GREY, linestyle=":", linewidth=1.2, label="as sure as right")
    for i, ((name, bins), (colour, dash, marker)) in enumerate(zip(lines.items(), _LINES, strict=False)):
        known = [(100 * c, 100 * a) for c, a in zip(bins["confidence"], bins["accuracy"], strict=True) if c is not None]
        above.plot(
            [c for c, _ in known],
            [a for _, a in known],
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=5,
            linewidth=1.4,
            label=name,
            clip_on=False,
        )
        n = len(bins["count"])
        width = 100 / n
        shares = [100 * count / max(1, sum(bins["count"])) for count in bins["count"]]
        # The bars of a bin stand side by side.
        left = [width * (k + 0.1 + 0.4 * i) for k in range(n)]
        fill: dict[str, Any] = (
            {"color": colour} if i == 0 else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        )
        below.bar(left, shares, 0.4 * width, align="edge", linewidth=0.6, **fill)
    figure.legend(loc="outside upper left", fontsize=8)
    above.set_xlim(0, 100)
    above.set_ylim(0, 100)
    above.grid(color="#e4e4e4", linewidth=0.6)
    above.set_axisbelow(True)
    above.set_ylabel("right (% of the bin's clips)")
    below.set_ylabel("clips (%)")
    below.set_xlabel("confidence: probability of the answer (%)")
    return figure


@_styled
def degradation(
    lines: Mapping[str, Sequence[tuple[float, Sequence[float] | None]]],
    steps: Sequence[str],
    *,
    chance: float,
    level: tuple[str, float] | None,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Up to two named lines of a share and its interval at each of `steps`, over chance and a named `level`, if any."""
    figure = Figure(figsize=(_WIDTH_IN, 3.1), layout="constrained")
    axes = figure.add_subplot()
    if level is not None:
        name, share = level
        axes.axhline(100 * share, color=GREEN, linestyle="-.", linewidth=1.4, label=f"{name}, {100 * share:.1f} %")
    axes.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.4, label=f"chance, {100 * chance:.1f} %")
    for i, ((name, points), (colour, dash, marker)) in enumerate(zip(lines.items(), _LINES, strict=False)):
        # A little apart, so that no interval hides another.
        place = np.arange(len(points)) + 0.05 * (i - (len(lines) - 1) / 2)
        look: dict[str, Any] = {"color": colour, "zorder": 3 - i, "clip_on": False}
        axes.plot(
            place,
            [100 * share for share, _ in points],
            dash,
            marker=marker,
            markersize=5,
            label=name,
            linewidth=1.6,
            **look,
        )
        for at, (_, interval) in zip(place, points, strict=True):
            if interval is not None:
                axes.plot([at, at], [100 * end for end in interval], linewidth=1.0, **look)
    axes.set_xticks(range(len(steps)), steps)
    axes.set_xlim(-0.25, len(steps) - 0.75)
    axes.set_ylim(0, 100)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    figure.legend(loc="outside upper left", ncols=2, fontsize=8, handlelength=2.8, columnspacing=1.2)
    return figure


@_styled
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
    # All in inches.
    left, right, bottom, gap = 0.52, 0.5, 0.42, 0.07
    width = _WIDTH_IN - left - right
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    if heat is not None and strip is not None:
        for picture, name in ((strip, "faces"), (_heated(strip, heat), "Grad-CAM")):
            panels.append((width / STRIP_FRAMES, functools.partial(_draw_faces, picture, name, start_s=start_s)))
    elif heat is not None:
        panels.append((0.26, functools.partial(_draw_absence, "no face in this second")))
    if relevance is not None and log_mel_db is not None:
        # The few strongest cells would leave all others pale.
        most = max(float(np.quantile(np.abs(relevance), 0.99)), 1e-12)
        # Orange speaks for the answer and purple against it: Brewer's PuOr, which the colour-blind tell apart.
        signed: dict[str, Any] = {"cmap": colormaps["PuOr_r"], "vmin": -most, "vmax": most}
        for values, colours in ((log_mel_db, {"cmap": colormaps["cividis"]}), (relevance, signed)):
            panels.append((0.85, functools.partial(_draw_cells, values, centres_hz, start_s=start_s, colours=colours)))
    elif relevance is not None:
        panels.append((0.26, functools.partial(_draw_absence, "no sound in this second")))
    height = bottom + sum(each + gap for each, _ in panels)
    figure = Figure(figsize=(_WIDTH_IN, height))
    top = height
    for each, draw in panels:
        top -= each + gap
        axes = figure.add_axes((left / _WIDTH_IN, top / height, width / _WIDTH_IN, each / height))
        draw(axes)
        axes.set_xlim(start_s, start_s + 1)
        last = draw is panels[-1][1]
        axes.set_xticks(start_s + np.arange(6) / 5, [f"{start_s + k / 5:.1f}" for k in range(6)])
        axes.tick_params(axis="x", labelbottom=last, length=3 if last else 0)
    axes.set_xlabel("time in the clip (s)", labelpad=1)
    return figure


def _draw_faces(picture: UInt8[np.ndarray, "S width 3"], name: str, axes: Axes, *, start_s: float) -> None:
    axes.imshow(picture, extent=(start_s, start_s + 1, 0, 1), aspect="auto", interpolation="bicubic")
    axes.set_yticks([])
    axes.set_ylabel(name)


def _draw_absence(sentence: str, axes: Axes) -> None:
    axes.set_facecolor("#eeeeee")
    axes.set_yticks([])
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", style="italic")


def _draw_cells(
    values: Float[np.ndarray, "time n_mels"],
    centres_hz: Float[np.ndarray, "n_mels"],
    axes: Axes,
    *,
    start_s: float,
    colours: Mapping[str, Any],
) -> None:
    n_times, n_mels = values.shape
    # Frames are centred on their times, the first and the last on the ends of the second.
    half = 0.5 / (n_times - 1)
    extent = (start_s - half, start_s + 1 + half, -0.5, n_mels - 0.5)
    axes.imshow(values.T, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **colours)
    # Away from the ends, where those of the panel above and below would meet.
    bands = (np.array([0.1, 0.5, 0.9]) * (n_mels - 1)).round().astype(int)
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


@_styled
def scatter(
    places: Float[np.ndarray, "n 2"],
    groups: Sequence[str],
    names: Sequence[str],
    *,
    shares: Float[np.ndarray, "2"],
) -> Figure:
    """A mark at each place, of a colour and a shape for its group; `shares` are of the variance along each axis.

    `names` are the groups' in the order of the legend.
    """
    columns = 4
    figure = Figure(figsize=(_WIDTH_IN, 3.9 + 0.17 * -(-len(names) // columns)), layout="constrained")
    axes = figure.add_subplot()
    of = np.asarray(groups)
    for i, name in enumerate(names):
        # The shapes move on by one with each round of colours, so that 64 groups differ.
        colour, marker = _COLOURS[i % len(_COLOURS)], _SHAPES[(i + i // len(_COLOURS)) % len(_SHAPES)]
        x, y = places[of == name].T
        axes.scatter(x, y, s=26, c=colour, marker=marker, edgecolors="black", linewidths=0.4, label=name)
    axes.set_xlabel(f"first principal component ({_percent(float(shares[0]))} of the variance)")
    axes.set_ylabel(f"second principal component ({_percent(float(shares[1]))})")
    axes.set_aspect("equal", "datalim")
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower left", ncols=columns, fontsize=8, handletextpad=0.2, columnspacing=1.0)
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


def wav_uri(waveform: Int16[np.ndarray, "samples"]) -> str:
    """A sound as a data URI of a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(waveform.astype("<i2").tobytes())
    return _data_uri("audio/wav", out)


def _data_uri(kind: str, data: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
