"""The statistical figures of the pages: pure functions of data to matplotlib figures, and figures to data URIs.

Colours are Okabe & Ito's (2008), which the colour-blind tell apart. Each line also has a dash and a marker of its own.
No pyplot: it would choose a backend for the caller.
"""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from fusion_emotion.evaluate.table import percent

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#595959"
WIDTH_IN = 4.8
CARD_WIDTH_IN = 3.3  # three of them side by side

# Okabe & Ito's eight, for more than four groups.
_COLOURS = ("#E69F00", "#56B4E9", GREEN, "#F0E442", BLUE, VERMILLION, PURPLE, "#000000")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")

_LINES = ((BLUE, "-", "o"), (VERMILLION, "--", "s"))
_MARKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (GREY, "D"), (PURPLE, "v"))
# A user's matplotlibrc must not change a page, nor a page the user's figures.
styled = style.context(
    [
        "default",
        {
            "font.size": 9,
            "text.parse_math": False,  # a "$" in a name is a dollar
            "axes.axisbelow": True,
            "axes.edgecolor": GREY,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.6,
            "legend.columnspacing": 1.2,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "svg.hashsalt": "report",
        },
    ]
)


@styled
def confusion(counts: Int[np.ndarray, "C C"], label_names: Sequence[str], *, unit: str) -> Figure:
    """Draw a confusion matrix: rows are true emotions; a cell holds its count of `unit` and its share of the row.

    A row without examples stays white and has no shares.
    """
    n = len(label_names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, np.nan)
    figure, axes = _panel(WIDTH_IN)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(np.isfinite(shares)):
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
    axes.grid(which="minor", color="#d0d0d0")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=f"predicted emotion ({unit})", ylabel=f"true emotion ({unit})")
    return figure


@styled
def recalls(
    shares: Sequence[float | None], counts: Sequence[int], label_names: Sequence[str], *, chance: float, unit: str
) -> Figure:
    """Draw a bar for the recall of each emotion with its count of `unit`, and a line at the `chance` level.

    `shares` and `chance` are in [0, 1]; None is an emotion without examples.
    """
    rows = range(len(label_names))
    figure, axes = _panel(0.9 + 0.34 * len(rows))
    axes.barh(rows, [100 * (share or 0) for share in shares], color=BLUE, height=0.66)
    for row, (share, count) in enumerate(zip(shares, counts, strict=True)):
        end, text, colour = (0.0, f"no {unit}", GREY) if share is None else (100 * share, _percent(share), "black")
        if end > 75:
            axes.text(end - 1.5, row, text, va="center", ha="right", color="white", zorder=3)
        else:
            # White beneath the text, for the line of chance may pass there.
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axes.text(end + 1.5, row, text, va="center", color=colour, bbox=box, zorder=3)
        axes.text(101.5, row, f"n = {count}", va="center", color=GREY, size=8)
    axes.axvline(100 * chance, color=VERMILLION, linestyle="--", linewidth=1.4, label=f"chance, {100 * chance:.1f} %")
    figure.legend(loc="outside upper left")
    _name_rows(axes, rows, label_names)
    axes.set(xlabel=f"recall (% of the emotion's {unit})", ylim=axes.get_ylim()[::-1])
    return figure


@styled
def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    chosen_epoch: float | None,
    top: float | None = None,
) -> Figure:
    """Draw up to two named lines of (epochs, values) from 0 up to `top`, and the epoch of the chosen checkpoint."""
    figure, axes = _panel(3.0)
    if chosen_epoch is not None:
        axes.axvline(chosen_epoch, color="black", linestyle=":", linewidth=1.4, label="chosen checkpoint")
    for i, (name, (epochs, values)) in enumerate(lines.items()):
        # More than 40 markers would run into each other.
        look: dict[str, Any] = {"marker": "", "linewidth": 1.0} if len(epochs) > 40 else {"markersize": 4}
        _line(axes, i, name, epochs, values, **look)
    axes.set(xlabel="training time (epochs)", ylabel=ylabel, xlim=(0, None), ylim=(0, top))
    axes.grid()
    figure.legend(loc="outside upper left", ncols=3, handlelength=2.4)
    return figure


@styled
def histogram(
    values: Float[np.ndarray, "clips"], *, xlabel: str, span: tuple[float | None, float | None] = (None, None)
) -> Figure:
    """Draw the number of clips in each bin of `values` and the median; None in `span` is the end of the values.

    A bar of a single clip among thousands is still drawn a line's width high, so that an outlier is seen.
    """
    low, high = (end if end is not None else each for end, each in zip(span, (values.min(), values.max()), strict=True))
    counts, edges = np.histogram(values, bins=25, range=(low, high))
    there = counts > 0
    figure, axes = _panel(1.9, width_in=CARD_WIDTH_IN)
    axes.bar(
        edges[:-1][there], counts[there], np.diff(edges)[there], align="edge", color=BLUE, edgecolor=BLUE, linewidth=1.5
    )
    median = float(np.median(values))
    axes.axvline(median, color=VERMILLION, linestyle="--", linewidth=1.4)
    axes.set_title(f"median {median:.3g}".replace("-", "−"), loc="right", size=8, color=GREY)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set(xlabel=xlabel, ylabel="clips", xlim=(edges[0], edges[-1]), ylim=(0, None))
    return figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A statistic of one system, in shares: its value, the interval around it, and those of its runs."""

    title: str
    value: float
    interval: Sequence[float] | None
    runs: Sequence[float]
    chance: float
    mark: int  # index of the system's mark in `_MARKS`


@styled
def scores(groups: Mapping[str, Sequence[Score]], *, xlabel: str) -> Figure:
    """Draw a row for each score under its group's name: a mark with its interval, rings for its runs, and chance."""
    figure, axes = _panel(0.75 + 0.27 * sum(1 + len(group) for group in groups.values()), width_in=7.2)
    row, names = 0, {}
    for group, members in groups.items():
        axes.text(0.5, row, group, va="center", weight="bold", size=8.5)
        for score in members:
            row += 1
            colour = _MARKS[score.mark][0]
            ring: dict[str, Any] = {"color": "none", "edgecolor": colour, "linewidth": 0.7, "s": 16, "clip_on": False}
            # Beneath the bar, which would hide them.
            axes.scatter([100 * value for value in score.runs], [row + 0.24] * len(score.runs), **ring)
            if score.interval is not None:
                axes.plot([100 * end for end in score.interval], [row, row], color=colour, linewidth=2.2, zorder=3)
            _marks(axes, score.mark, [100 * score.value], [row], zorder=4)
            axes.plot([100 * score.chance] * 2, [row - 0.38, row + 0.38], color="black", linestyle=":", linewidth=1.4)
            names[row] = score.title
        row += 1
    _name_rows(axes, [*names], [*names.values()])
    axes.grid(axis="x")
    axes.set(xlabel=xlabel, ylim=(row - 0.4, -0.6))
    return figure


@styled
def marks(
    values: Mapping[str, Sequence[float | None]],
    names: Sequence[str],
    *,
    xlabel: str,
    line: tuple[str, float] | None = None,
) -> Figure:
    """Draw a row for each of `names` with a mark for each series of shares, and a named line at a share."""
    figure, axes = _panel(1.0 + 0.24 * len(names))
    for i, (name, shares) in enumerate(values.items()):
        known = np.array([(100 * share, row) for row, share in enumerate(shares) if share is not None]).reshape(-1, 2)
        _marks(axes, i, known[:, 0], known[:, 1] + _aside(i, len(values), apart=0.16), label=name, zorder=3)
    if line is not None:
        axes.axvline(100 * line[1], color="black", linestyle="--", linewidth=1.2, label=line[0])
    figure.legend(loc="outside upper left", ncols=2)
    _name_rows(axes, range(len(names)), names)
    axes.grid()
    axes.set(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    return figure


@styled
def over_folds(values: Mapping[str, Sequence[tuple[int, float]]], *, ylabel: str) -> Figure:
    """Draw the (fold, share) of each run of up to four systems, side by side within a fold."""
    figure, axes = _panel(3.0)
    folds = sorted({fold for runs in values.values() for fold, _ in runs})
    for i, (name, runs) in enumerate(values.items()):
        at = [folds.index(fold) + _aside(i, len(values), apart=0.14) for fold, _ in runs]
        _marks(axes, i, at, [100 * share for _, share in runs], label=name)
    figure.legend(loc="outside upper left", ncols=2)
    axes.set_xticks(range(len(folds)), [str(fold) for fold in folds])
    axes.grid(axis="y")
    axes.set(xlabel="held-out fold (number)", ylabel=ylabel, xlim=(-0.5, len(folds) - 0.5), ylim=(0, 100))
    return figure


@styled
def reliability(calibration: Mapping[str, Any], *, temperature: str) -> Figure:
    """Draw how often clips are right against the model's confidence, above the share of clips in each bin.

    `before` and `after` the division by a temperature there are `ece`, and `confidence`, `accuracy` (shares, None for
    an empty bin) and `count` of the bins.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 100], [0, 100], color=GREY, linestyle=":", linewidth=1.2, label="as sure as right")
    for i, (name, when) in enumerate((("as trained", "before"), (f"temperature {temperature}", "after"))):
        bins, counts = calibration[when], np.array(calibration[when]["count"])
        known = [(100 * c, 100 * a) for c, a in zip(bins["confidence"], bins["accuracy"], strict=True) if c is not None]
        _line(above, i, f"{name}, ECE {percent(bins['ece'])}", *np.array(known).reshape(-1, 2).T, linewidth=1.4)
        # The bars of a bin stand side by side.
        left, width = (np.arange(len(counts)) + 0.1 + 0.4 * i) * 100 / len(counts), 40 / len(counts)
        colour = _LINES[i][0]
        fill: dict[str, Any] = {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if i else {"color": colour}
        below.bar(left, 100 * counts / max(1, counts.sum()), width, align="edge", linewidth=0.6, **fill)
    figure.legend(loc="outside upper left")
    above.grid()
    above.set(ylabel="right (% of the bin's clips)", xlim=(0, 100), ylim=(0, 100))
    below.set(ylabel="clips (%)", xlabel="confidence: probability of the answer (%)")
    return figure


@styled
def degradation(
    lines: Mapping[str, Sequence[tuple[float, Sequence[float] | None]]],
    steps: Sequence[str],
    *,
    chance: float,
    level: tuple[str, float] | None,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw up to two named lines of (share, interval) at each of `steps`, over chance and a named `level`, if any."""
    figure, axes = _panel(3.1)
    if level is not None:
        name, share = level
        axes.axhline(100 * share, color=GREEN, linestyle="-.", linewidth=1.4, label=f"{name}, {100 * share:.1f} %")
    axes.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.4, label=f"chance, {100 * chance:.1f} %")
    for i, (name, points) in enumerate(lines.items()):
        place = np.arange(len(points)) + _aside(i, len(lines), apart=0.05)
        _line(axes, i, name, place, [100 * share for share, _ in points], zorder=3 - i)
        whisker: dict[str, Any] = {"color": _LINES[i][0], "linewidth": 1.0, "zorder": 3 - i, "clip_on": False}
        for at, (_, interval) in zip(place, points, strict=True):
            if interval is not None:
                axes.plot([at, at], [100 * end for end in interval], **whisker)
    axes.set_xticks(range(len(steps)), steps)
    axes.grid(axis="y")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.25, len(steps) - 0.75), ylim=(0, 100))
    figure.legend(loc="outside upper left", ncols=2, handlelength=2.8)
    return figure


@styled
def scatter(
    places: Float[np.ndarray, "n 2"], groups: Sequence[str], names: Sequence[str], *, shares: Float[np.ndarray, "2"]
) -> Figure:
    """Draw a mark at each place, of a colour and a shape for its group; `shares` are of the variance along each axis.

    `names` are the groups' in the order of the legend.
    """
    columns = 4
    figure, axes = _panel(3.9 + 0.17 * -(-len(names) // columns))
    for i, name in enumerate(names):
        # The shapes move on by one with each round of colours, so that 64 groups differ.
        colour, marker = _COLOURS[i % len(_COLOURS)], _SHAPES[(i + i // len(_COLOURS)) % len(_SHAPES)]
        x, y = places[np.asarray(groups) == name].T
        axes.scatter(x, y, s=26, c=colour, marker=marker, edgecolors="black", linewidths=0.4, label=name)
    axes.set_xlabel(f"first principal component ({_percent(shares[0])} of the variance)")
    axes.set_ylabel(f"second principal component ({_percent(shares[1])})")
    axes.set_aspect("equal", "datalim")
    axes.grid()
    figure.legend(loc="outside lower left", ncols=columns, handletextpad=0.2, columnspacing=1.0)
    return figure


def _panel(height_in: float, *, width_in: float = WIDTH_IN) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _line(axes: Axes, i: int, name: str, x: ArrayLike, y: ArrayLike, **look: Any) -> None:
    """Draw the i-th line of a figure."""
    colour, dash, marker = _LINES[i]
    usual = {"marker": marker, "markersize": 5, "linewidth": 1.6}
    axes.plot(x, y, color=colour, linestyle=dash, label=name, clip_on=False, **{**usual, **look})


def _marks(axes: Axes, i: int, x: ArrayLike, y: ArrayLike, **look: Any) -> None:
    """Draw marks of the i-th system of a figure."""
    colour, marker = _MARKS[i]
    axes.plot(x, y, linestyle="none", color=colour, marker=marker, markeredgecolor="white", clip_on=False, **look)


def _name_rows(axes: Axes, places: Sequence[int], names: Sequence[str]) -> None:
    """Name each row, along which there are shares in %."""
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 100)


def _aside(i: int, n: int, *, apart: float) -> float:
    """Return the offset of the i-th of n series, so that none hides another."""
    return apart * (i - (n - 1) / 2)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


@styled
def svg_uri(figure: Figure) -> str:
    """A figure as a data URI of an SVG, its text as outlines: sharp at every size, the same bytes each time."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return data_uri("image/svg+xml", out)


def data_uri(kind: str, data: io.BytesIO) -> str:
    """Bytes of a media type `kind` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
