"""Whether one workdir is better than another on the same clips: a paired test and an interval over speakers.

A workdir is a single run's or a cross-validation's. Of several seeds the answers are put together: UAR and WAR are
then the means over the seeds, for each seed answers the same clips, and a speaker's clips are swapped in all of them.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers as predictions
from fusion_emotion.evaluate import statistics
from fusion_emotion.evaluate.answers import PREDICTIONS, Predictions
from fusion_emotion.evaluate.results import RESULTS
from fusion_emotion.evaluate.statistics import Answers
from fusion_emotion.evaluate.table import table
from fusion_emotion.experiments.summary import NETWORK, interval_text
from fusion_emotion.experiments.summary import RESULTS as CROSSVAL

_NAMES: tuple[tuple[statistics.Statistic, str], ...] = (("uar", "UAR"), ("war", "WAR"))
_USUAL_LEVEL = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """What a workdir says under one protocol: the predictions of each seed, its folds pooled."""

    workdir: pathlib.Path
    protocol: str  # with its fold where there is one, and what it means
    seeds: Mapping[int, Predictions]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better `a` is than `b` by one statistic, in shares."""

    name: str
    a: float
    b: float
    interval: statistics.Interval
    test: statistics.Comparison


def sides(workdir: pathlib.Path) -> dict[str, Side]:
    """What a workdir says, by protocol. Raises UserError where it holds no results."""
    if (workdir / CROSSVAL).is_file():
        results = json.loads((workdir / CROSSVAL).read_text(encoding="utf-8"))
        found = {}
        for name, protocol in results["protocols"].items():
            seeds: dict[int, list[Predictions]] = {}
            for run in protocol["systems"][NETWORK]["runs"]:
                path = workdir / name / f"fold-{run['fold']}-seed-{run['seed']}" / PREDICTIONS
                seeds.setdefault(run["seed"], []).append(predictions.read(path))
            pooled = {seed: predictions.joined(folds) for seed, folds in seeds.items()}
            found[name] = Side(workdir=workdir, protocol=f"{name}: {protocol['meaning']}", seeds=pooled)
        return found
    try:
        results = json.loads((workdir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{workdir} holds neither {CROSSVAL} nor {RESULTS}: compare workdirs of --mode=train or --mode=crossval"
        ) from error
    protocol = results["protocol"]
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    title = f"{protocol['name']}{fold}: {protocol['meaning']}"
    said = predictions.read(workdir / PREDICTIONS)
    # Its own seed does not matter, for it has nothing but this one.
    return {protocol["name"]: Side(workdir=workdir, protocol=title, seeds={0: said})}


def compare(a: pathlib.Path, b: pathlib.Path) -> str:
    """What is to be printed of two workdirs, for each protocol that both have.

    Raises UserError where a workdir holds no results, or the clips differ.
    """
    of_a, of_b = sides(a), sides(b)
    shared = [name for name in of_a if name in of_b]
    if not shared:
        raise UserError(
            f"{a} ({', '.join(of_a)}) and {b} ({', '.join(of_b)}) have no protocol in common: "
            "compare runs of the same split"
        )
    said = [f"a  {a}", f"b  {b}"]
    for name in shared:
        said += ["", *_text(of_a[name], of_b[name])]
    return "\n".join(said)


def _text(a: Side, b: Side) -> list[str]:
    differences, unit = differ(a, b)
    one = next(iter(a.seeds.values()))
    n_seeds = "" if len(a.seeds) == len(b.seeds) == 1 else f"; seeds of a: {len(a.seeds)}, of b: {len(b.seeds)}"
    n_speakers = len(set(one.speakers))
    enough = differences[0].interval.n_speakers >= statistics.LEAST_SPEAKERS
    rows = [
        [
            each.name,
            *(f"{100 * value:.1f}" for value in (each.a, each.b)),
            f"{100 * each.interval.value:+.1f}",
            interval_text([each.interval.low, each.interval.high] if enough else None),
            f"{each.test.p_value:.4f}",
        ]
        for each in differences
    ]
    test = differences[0].test
    how = "every way counted" if test.exact else "10,000 ways drawn"
    lines = [
        f"protocol {a.protocol}",
        f"{len(one.clip_ids)} clips of {n_speakers} speaker{'s' * (n_speakers > 1)}{n_seeds}; per cent and points:",
        "",
        table(["", "a", "b", "a - b", f"95 % over {unit}s", "p"], rows),
        "",
        f"  p: of as large a difference when a and b swap all answers of a {unit} at random ({how}), two-sided",
    ]
    if unit == "clip":
        lines.append("  one speaker: clips were resampled and swapped, so this speaks of that person alone")
    elif 2 ** (1 - n_speakers) > _USUAL_LEVEL:
        lines.append(
            f"  {n_speakers} speakers cannot show less than p = {2 ** (1 - n_speakers):.4f}, whatever the answers"
        )
    return lines


def differ(a: Side, b: Side) -> tuple[list[Difference], str]:
    """The differences of two sides, and the unit that was resampled and swapped: speakers, or clips of only one.

    Raises UserError where the clips differ.
    """
    matched = [(_sorted(one), _sorted(other)) for one, other in _matched(a, b)]
    alone = len({name for one, _ in matched for name in one.speakers}) == 1
    both_a, both_b = (predictions.joined([pair[side] for pair in matched]) for side in (0, 1))
    found = []
    for statistic, name in _NAMES:
        test = statistics.permutation_test(
            both_a.labels,
            both_a.predicted,
            both_b.predicted,
            both_a.clip_ids if alone else both_a.speakers,
            statistic=statistic,
            seed=0,
        )
        of_a, of_b = ([_answers(said, by_clip=alone) for said in side.seeds.values()] for side in (a, b))
        interval = statistics.difference_interval(of_a, of_b, statistic=statistic, seed=0)
        values = [statistics.pooled_interval(each, statistic=statistic, seed=0).value for each in (of_a, of_b)]
        found.append(Difference(name=name, a=values[0], b=values[1], interval=interval, test=test))
    return found, "clip" if alone else "speaker"


def _answers(said: Predictions, *, by_clip: bool) -> Answers:
    return dataclasses.replace(said.answers, speakers=said.clip_ids) if by_clip else said.answers


def _sorted(said: Predictions) -> Predictions:
    order = np.argsort(np.asarray(said.clip_ids))
    return Predictions(
        clip_ids=[said.clip_ids[i] for i in order],
        speakers=[said.speakers[i] for i in order],
        labels=said.labels[order],
        predicted=said.predicted[order],
        log_prob=said.log_prob[order],
    )


def _matched(a: Side, b: Side) -> list[tuple[Predictions, Predictions]]:
    """Answers of `a` and of `b` to the same clips, each seed as often as any other. Raises UserError without."""
    if set(a.seeds) == set(b.seeds) and all(_clips(a.seeds[seed]) == _clips(b.seeds[seed]) for seed in a.seeds):
        return [(a.seeds[seed], b.seeds[seed]) for seed in a.seeds]
    every_a, every_b = list(a.seeds.values()), list(b.seeds.values())
    for one in every_a:
        for other in every_b:
            if difference := _difference(_clips(one), _clips(other)):
                raise UserError(
                    f"{a.workdir} (a) and {b.workdir} (b) cannot be paired: {difference}; "
                    "compare runs of the same clips, with the same protocol, fold and seeds"
                )
    return [(every_a[i % len(every_a)], every_b[i % len(every_b)]) for i in range(math.lcm(len(every_a), len(every_b)))]


def _clips(said: Predictions) -> dict[str, tuple[str, int]]:
    """The speaker and the label of each clip."""
    return dict(zip(said.clip_ids, zip(said.speakers, said.labels.tolist(), strict=True), strict=True))


def _difference(a: Mapping[str, tuple[str, int]], b: Mapping[str, tuple[str, int]]) -> str:
    """What differs between the clips of two sides; empty where nothing does."""
    only_a, only_b = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    if only_a or only_b:
        alone = [
            f"{len(names)} only in {side}, as {names[0]}" for side, names in (("a", only_a), ("b", only_b)) if names
        ]
        return f"a has {len(a)} clips and b {len(b)}, {' and '.join(alone)}"
    for name, (speaker, label) in sorted(a.items()):
        if b[name] != (speaker, label):
            return f"clip {name} is of speaker {speaker} and label {label} in a, {b[name][0]} and {b[name][1]} in b"
    return ""
