"""Sides of a comparison, timed a few calls each in turn, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping


def timed(call: Callable[[], object], *, times: int = 1) -> list[float]:
    """The milliseconds of each of some calls."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - began))
    return spent


def in_turn(sides: Mapping[str, Callable[[], list[float]]], *, rounds: int) -> dict[str, float]:
    """The median of the milliseconds that each side returns, when they are called one after the other, and again."""
    found = [{name: times() for name, times in sides.items()} for _ in range(rounds + 1)]
    # The first round warms up.
    return {name: statistics.median(ms for round_ in found[1:] for ms in round_[name]) for name in sides}
