"""Compare two workdirs on the same clips: a paired permutation test, and an interval over speakers.

A workdir is that of a run or of a cross-validation. UAR and WAR are means over the seeds, which all answer the same
clips. The test swaps a speaker's clips in all seeds at once.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers, statistics
from fusion_emotion.evaluate.answers import PREDICTIONS, RESULTS, Answers
from fusion_emotion.evaluate.table import NETWORK, interval_text, table
from fusion_emotion.experiments.summary import RESULTS as CROSSVAL
from fusion_emotion.experiments.summary import Key, by_seed

_NAMES: tuple[tuple[statistics.Statistic, str], ...] = (("uar", "UAR"), ("war", "WAR"))
_USUAL_LEVEL = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """The answers of a workdir under one protocol."""

    title: str  # of the protocol: its name, its fold if there is one, and its meaning
    seeds: Mapping[int, Answers]  # the folds of each seed joined


def compare(a: pathlib.Path, b: pathlib.Path) -> str:
    """Describe the difference of two workdirs under each protocol that both have.

    Raises UserError if a workdir holds no results, or if their clips differ.
    """
    sides_a, sides_b = _read(a), _read(b)
    shared = [name for name in sides_a if name in sides_b]
    if not shared:
        raise UserError(
            f"{a} ({', '.join(sides_a)}) and {b} ({', '.join(sides_b)}) have no protocol in common: "
            "compare runs of the same split"
        )
    lines = [f"a  {a}", f"b  {b}"]
    for name in shared:
        pairs = _pairs(sides_a[name], sides_b[name])
        if mismatch := next(filter(None, (_mismatch(one, other) for one, other in pairs)), None):
            raise UserError(
                f"{a} (a) and {b} (b) cannot be paired: {mismatch}; "
                "compare runs of the same clips, with the same protocol, fold and seeds"
            )
        lines += ["", *_text(sides_a[name], sides_b[name])]
    return "\n".join(lines)


def _read(workdir: pathlib.Path) -> dict[str, Side]:
    """Read the answers of a workdir, by protocol. Raises UserError if it holds no results."""
    if (workdir / CROSSVAL).is_file():
        results = json.loads((workdir / CROSSVAL).read_text(encoding="utf-8"))
        return {name: _read_crossval(workdir / name, protocol) for name, protocol in results["protocols"].items()}
    try:
        protocol = json.loads((workdir / RESULTS).read_text(encoding="utf-8"))["protocol"]
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{workdir} holds neither {CROSSVAL} nor {RESULTS}: compare workdirs of --mode=train or --mode=crossval"
        ) from error
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    title = f"{protocol['name']}{fold}: {protocol['meaning']}"
    # Two single runs are compared whatever their seeds are.
    return {protocol["name"]: Side(title=title, seeds={0: answers.read(workdir / PREDICTIONS)})}


def _read_crossval(folder: pathlib.Path, protocol: Mapping) -> Side:
    system = {
        Key(run["fold"], run["seed"]): answers.read(folder / f"fold-{run['fold']}-seed-{run['seed']}" / PREDICTIONS)
        for run in protocol["systems"][NETWORK]["runs"]
    }
    return Side(title=f"{folder.name}: {protocol['meaning']}", seeds=by_seed(system))


def _pairs(a: Side, b: Side) -> list[tuple[Answers, Answers]]:
    """Pair the answers of equal seeds; if the seeds differ, pair each with others, all equally often."""
    if set(a.seeds) == set(b.seeds):
        return [(a.seeds[seed], b.seeds[seed]) for seed in a.seeds]
    seeds_a, seeds_b = list(a.seeds.values()), list(b.seeds.values())
    return [(seeds_a[i % len(seeds_a)], seeds_b[i % len(seeds_b)]) for i in range(math.lcm(len(seeds_a), len(seeds_b)))]


def _mismatch(a: Answers, b: Answers) -> str:
    """Describe the first difference between the clips of two sides; "" if they are the same."""
    labels_a, labels_b = a.labels, b.labels
    only = {"a": sorted(labels_a.keys() - labels_b.keys()), "b": sorted(labels_b.keys() - labels_a.keys())}
    if alone := [f"{len(names)} only in {side}, as {names[0]}" for side, names in only.items() if names]:
        return f"a has {len(labels_a)} clips and b {len(labels_b)}, {' and '.join(alone)}"
    for clip_id, in_a in sorted(labels_a.items()):
        if in_a != (in_b := labels_b[clip_id]):
            return f"clip {clip_id} is of speaker {in_a[0]} and label {in_a[1]} in a, {in_b[0]} and {in_b[1]} in b"
    return ""


def _text(a: Side, b: Side) -> list[str]:
    """Describe the difference of two sides that have the same clips."""
    first = next(iter(a.seeds.values()))
    speakers = {speaker for seed in a.seeds.values() for speaker in seed.speakers} - {""}
    n_clips, n_speakers = len(first.clip_ids), len({*first.speakers} - {""})
    of_whom = f"{n_speakers} speaker{'s' * (n_speakers > 1)}" if speakers else "speakers who are not named"
    n_seeds = "" if len(a.seeds) == len(b.seeds) == 1 else f"; seeds of a: {len(a.seeds)}, of b: {len(b.seeds)}"
    by_clip = len(speakers) < 2
    unit = "clip" if by_clip else "speaker"
    if by_clip:
        a, b = _clips_as_speakers(a), _clips_as_speakers(b)
    rows, exact = _rows(a, b)
    permutations = "all permutations" if exact else "10,000 random permutations"
    lines = [
        f"protocol {a.title}",
        f"{n_clips} clips of {of_whom}{n_seeds}; per cent and points:",
        "",
        table(["", "a", "b", "a - b", f"95 % over {unit}s", "p"], rows),
        "",
        f"  p: two-sided, of a difference at least as large if a and b swap all answers of a {unit} ({permutations})",
    ]
    if not speakers:
        lines.append("  speakers are not named: clips are resampled and swapped, as if each were of another person")
    elif by_clip:
        lines.append("  one speaker: clips are resampled and swapped, so this speaks of that person alone")
    elif (least_p := 2 ** (1 - n_speakers)) > _USUAL_LEVEL:
        lines.append(f"  {n_speakers} speakers cannot reach a p below {least_p:.4f}, whatever the answers")
    return lines


def _clips_as_speakers(side: Side) -> Side:
    """Make clips the unit that is resampled and swapped, for speakers who are one, or not named."""
    seeds = {seed: dataclasses.replace(clips, speakers=clips.clip_ids) for seed, clips in side.seeds.items()}
    return dataclasses.replace(side, seeds=seeds)


def _rows(a: Side, b: Side) -> tuple[list[list[str]], bool]:
    """Return the rows of the table, and True if every permutation was counted."""
    seeds_a, seeds_b = list(a.seeds.values()), list(b.seeds.values())
    one, other = (answers.join(side) for side in zip(*_pairs(a, b), strict=True))
    rows = []
    for statistic, name in _NAMES:
        measure = statistics.STATISTICS[statistic]
        means = [np.mean([measure(seed.confusion) for seed in seeds]) for seeds in (seeds_a, seeds_b)]
        interval = statistics.difference_interval(seeds_a, seeds_b, statistic=statistic, seed=0)
        test = statistics.permutation_test(one, other, statistic=statistic, seed=0)
        difference = [f"{100 * interval.value:+.1f}", interval_text(interval.bounds), f"{test.p_value:.4f}"]
        rows.append([name, *(f"{100 * mean:.1f}" for mean in means), *difference])
    return rows, test.exact
