"""Numbers as text: tables for a terminal, and the cells that tables and pages share."""

from collections.abc import Mapping, Sequence
from typing import Any

NETWORK = "network"  # among the systems of a cross-validation; the others are baselines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  " + "  ".join([first, *others])

    return "\n".join([line(header), "  " + "  ".join("-" * width for width in widths), *map(line, rows)])


def percent(fraction: float | None) -> str:
    """Format a fraction as a percentage, None and nan as a dash."""
    return "-" if fraction is None or fraction != fraction else f"{100 * fraction:.1f} %"


def interval_text(interval: Sequence[float] | None) -> str:
    """Format an interval in per cent, None as a dash."""
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def mean_text(spread: Mapping[str, Any], over: str) -> str:
    """Format a mean in per cent, with its standard deviation over folds or seeds if there is one."""
    std = spread[f"std_{over}"]
    return f"{100 * spread['mean']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def std_text(std: float | None) -> str:
    """Format a standard deviation in percentage points, None as a dash."""
    return "-" if std is None else f"{100 * std:.1f}"


def speakers_text(protocol: Mapping[str, Any]) -> str:
    """Say how many speakers a protocol tests."""
    n = len(protocol["speakers"])
    return {0: "speakers who are not named", 1: "one speaker"}.get(n, f"{n} speakers")


def protocol_title(name: str, protocol: Mapping[str, Any]) -> str:
    """The name of a protocol of a `crossval.json`, and what its parts share, which stands beside every number."""
    return f"{name} ({protocol['on_both_sides'] or 'speaker-independent'})"


def system_title(system: str, modalities: str) -> str:
    """The name of a system in tables."""
    return f"network, {modalities}" if system == NETWORK else f"baseline {system}"
