"""The runs of a cross-validation to one set of numbers: `crossval.json` and the table in the terminal.

Two ways to put folds together stand side by side. The mean over folds comes with its standard deviation. Pooled, the
test parts of a seed's folds are one set of clips, each predicted once; a statistic of these is averaged over the seeds,
and its interval is of resampled speakers.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from fusion_emotion.corpora import label_names, protocols
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers as predictions
from fusion_emotion.evaluate import metrics, statistics
from fusion_emotion.evaluate.answers import PREDICTIONS, Predictions
from fusion_emotion.evaluate.results import RESULTS as RUN_RESULTS
from fusion_emotion.evaluate.results import reliability
from fusion_emotion.evaluate.statistics import STATISTICS, Answers
from fusion_emotion.evaluate.table import table
from fusion_emotion.experiments.crossval import Run
from fusion_emotion.files import atomic
from fusion_emotion.prepare.records import Row

RESULTS = "crossval.json"
NETWORK = "network"
By = Literal["sex", "intensity", "statement", "speaker"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What a system said on one split, and the temperature that its validation part asked for."""

    fold: int
    seed: int
    predictions: Predictions
    temperature: float | None

    @property
    def log_prob_scaled(self) -> np.ndarray:
        """The log-probabilities at that temperature."""
        assert self.temperature is not None
        return statistics.apply_temperature(self.predictions.log_prob, self.temperature)


def summarise(config: Mapping[str, Any], runs: Sequence[Run], baseline_names: Sequence[str]) -> dict[str, Any]:
    """The numbers of finished runs. Raises UserError where a run's predictions are not of its test part."""
    names = label_names(config["data"]["corpus"])
    of_runs = {run: json.loads((run.workdir / RUN_RESULTS).read_text(encoding="utf-8")) for run in runs}
    seeds_of: dict[str, dict[str, dict[int, list[Predictions]]]] = {}
    by_protocol: dict[str, Any] = {}
    for protocol in dict.fromkeys(run.protocol for run in runs):
        here = [run for run in runs if run.protocol == protocol]
        systems = {NETWORK: [_of_network(run, of_runs[run]) for run in here]}
        if protocol != "random_windows":
            splits = {run.baseline_path(""): run for run in here}
            systems |= {name: [_of_baseline(run, name) for run in splits.values()] for name in baseline_names}
        rows = {row.clip_id: row for run in here for row in run.test_rows}
        seeds_of[protocol] = {name: by_seed(parts) for name, parts in systems.items()}
        by_protocol[protocol] = {
            "meaning": protocols.MEANING[protocol],
            "on_both_sides": protocols.ON_BOTH_SIDES.get(protocol),
            "folds": sorted({run.fold for run in here}) if protocol in protocols.WITH_FOLDS else None,
            "seeds": sorted({run.seed for run in here}),
            "clips": len(rows),
            "speakers": sorted({row.speaker for row in rows.values()}),
            "systems": {name: measure(parts, names, rows) for name, parts in systems.items()},
        }
    first = of_runs[runs[0]]
    return {
        "corpus": config["data"]["corpus"],
        "modalities": config["model"]["modalities"],
        "label_names": list(names),
        "protocols": by_protocol,
        "inflation": inflation(seeds_of),
        "parameters": first["parameters"],
        **{name: first[name] for name in ("versions", "commit", "devices", "machine")},
        # What differs when the same runs are made again.
        "times": {
            "train_seconds": {
                protocol: sum(
                    results["train_seconds"] or 0 for run, results in of_runs.items() if run.protocol == protocol
                )
                for protocol in by_protocol
            },
            "date": max(results["date"] for results in of_runs.values()),
        },
        "config": config,
    }


def by_seed(parts: Sequence[Part]) -> dict[int, list[Predictions]]:
    """The predictions of each seed's folds."""
    seeds: dict[int, list[Predictions]] = {}
    for part in parts:
        seeds.setdefault(part.seed, []).append(part.predictions)
    return seeds


def answers_of(seeds: Mapping[int, Sequence[Predictions]]) -> list[Answers]:
    """The answers of each seed, its folds pooled."""
    return [predictions.joined(folds).answers for folds in seeds.values()]


def _of_network(run: Run, results: Mapping[str, Any]) -> Part:
    said = _checked(run, run.workdir / PREDICTIONS)
    temperature = results["test"]["calibration"]["temperature"]
    return Part(fold=run.fold, seed=run.seed, predictions=said, temperature=temperature)


def _of_baseline(run: Run, name: str) -> Part:
    said = _checked(run, run.baseline_path(name))
    # Not of the run's seed: where there are folds, a baseline is the same with every one.
    return Part(fold=run.fold, seed=run.split_seed, predictions=said, temperature=None)


def _checked(run: Run, path: pathlib.Path) -> Predictions:
    said = predictions.read(path)
    if set(said.clip_ids) != {row.clip_id for row in run.test_rows}:
        raise UserError(
            f"{path} is of other clips than the test part of {run}: the corpus has changed; choose another --workdir"
        )
    return said


def measure(parts: Sequence[Part], names: Sequence[str], rows: Mapping[str, Row]) -> dict[str, Any]:
    """The numbers of one system under one protocol; `rows` are those of the clips by name."""
    seeds = by_seed(parts)
    answers = answers_of(seeds)
    every = predictions.joined([part.predictions for part in parts])
    confusions = [metrics.confusion_matrix(a.true, a.predicted, len(names)) for a in answers]
    confusion = np.sum(confusions, axis=0)
    of_run = [
        metrics.confusion_matrix(part.predictions.labels, part.predictions.predicted, len(names)) for part in parts
    ]
    scaled = all(part.temperature is not None for part in parts)
    return {
        "runs": [
            {"fold": part.fold, "seed": part.seed, "clips": int(counts.sum())}
            | {name: STATISTICS[name](counts) for name in STATISTICS}
            | ({"temperature": part.temperature} if scaled else {})
            for part, counts in zip(parts, of_run, strict=True)
        ],
        **{
            name: _spread(parts, [STATISTICS[name](counts) for counts in of_run])
            | _interval(statistics.pooled_interval(answers, statistic=name, seed=0))
            for name in STATISTICS
        },
        "chance_uar": float(np.mean([metrics.chance_level(counts) for counts in confusions])),
        "recalls": [_known(recall) for recall in metrics.recalls(confusion)],
        "confusion": confusion.tolist(),
        "calibration": {
            "before": reliability(every.log_prob, every.labels),
            "after": reliability(np.concatenate([part.log_prob_scaled for part in parts]), every.labels)
            if scaled
            else None,
        },
        "by": {
            by: {
                value: dataclasses.asdict(group)
                for value, group in statistics.breakdown(
                    [rows[name] for name in every.clip_ids], every.labels, every.predicted, by
                ).items()
            }
            for by in get_args(By)
        },
    }


def _spread(parts: Sequence[Part], values: Sequence[float]) -> dict[str, float | None]:
    """The mean of the runs; the standard deviations over folds, of their means over seeds, and over seeds likewise."""

    def std_over(keys: Sequence[int]) -> float | None:
        means = [
            statistics.mean_std([v for v, key in zip(values, keys, strict=True) if key == each])[0]
            for each in sorted(set(keys))
        ]
        return _known(statistics.mean_std(means)[1])

    return {
        "mean": float(np.mean(values)),
        "std_folds": std_over([part.fold for part in parts]),
        "std_seeds": std_over([part.seed for part in parts]),
    }


def _interval(interval: statistics.Interval) -> dict[str, Any]:
    known = interval.n_speakers >= statistics.LEAST_SPEAKERS
    return {"pooled": interval.value, "interval": [interval.low, interval.high] if known else None}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def inflation(seeds_of: Mapping[str, Mapping[str, Mapping[int, Sequence[Predictions]]]]) -> list[dict[str, Any]]:
    """How much more each system reaches under a protocol with something on both sides than under one without.

    The speakers are resampled for both at once.
    """
    found = []
    for leaky in (name for name in seeds_of if name in protocols.ON_BOTH_SIDES):
        for honest in (name for name in seeds_of if name in protocols.SPEAKER_INDEPENDENT):
            for system in seeds_of[leaky]:
                a, b = (answers_of(seeds_of[protocol][system]) for protocol in (leaky, honest))
                interval = statistics.difference_interval(a, b, statistic="uar", seed=0)
                found.append(
                    {"system": system, "protocol": leaky, "over": honest}
                    | {"uar": interval.value, "interval": _interval(interval)["interval"]}
                )
    return found


def write(results: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Write the numbers to the workdir, whole or not at all."""
    with atomic(workdir / RESULTS) as partial:
        partial.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")


def system_title(system: str, modalities: str) -> str:
    """What a system is called in tables."""
    return f"network, {modalities}" if system == NETWORK else f"baseline {system}"


def protocol_title(name: str, protocol: Mapping[str, Any]) -> str:
    """A protocol's name and what it has on both sides, for it is said beside each number."""
    return f"{name} ({protocol['on_both_sides'] or 'speaker-independent'})"


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval in per cent; a dash where there is none."""
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def mean_text(spread: Mapping[str, Any], over: str) -> str:
    """A mean in per cent with the standard deviation over folds or seeds, where there is one."""
    std = spread[f"std_{over}"]
    return f"{100 * spread['mean']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def std_text(std: float | None) -> str:
    """A standard deviation in points; a dash where there is none."""
    return "-" if std is None else f"{100 * std:.1f}"


def notes(results: Mapping[str, Any]) -> list[str]:
    """What must be said of the numbers: why there is no interval, what inflates them and by how much."""
    said = []
    for name, protocol in results["protocols"].items():
        n = len(protocol["speakers"])
        if n < statistics.LEAST_SPEAKERS:
            few = "one speaker" if n == 1 else f"{n} speakers"
            said.append(f"{name} tests {few}: too few for an interval, and they say nothing of other people.")
    for each in results["inflation"]:
        if each["system"] == NETWORK:
            interval = each["interval"]
            between = f" (95 % over speakers: {interval_text(interval)})" if interval else ""
            said.append(
                f"Inflation: {each['protocol']} ({protocols.ON_BOTH_SIDES[each['protocol']]}) shows "
                f"{100 * each['uar']:+.1f} points of UAR{between} against {each['over']} (speaker-independent)."
            )
    return said


def text(results: Mapping[str, Any]) -> str:
    """The tables at the end of a cross-validation; each row names its protocol."""
    lines = [f"{results['corpus']}, {results['modalities']}, clip level, per cent:"]
    rows, recalls = [], []
    for name, protocol in results["protocols"].items():
        n_folds = f"{len(protocol['folds'])} folds" if protocol["folds"] is not None else "a split a seed"
        seeds = ", ".join(map(str, protocol["seeds"]))
        n = len(protocol["speakers"])
        n_speakers = "one speaker" if n == 1 else f"{n} speakers"
        lines += [
            f"  {name}: {protocol['meaning']}",
            f"    {n_folds}; seeds {seeds}; {protocol['clips']} clips of {n_speakers}",
        ]
        for system, found in protocol["systems"].items():
            title = f"{protocol_title(name, protocol)}: {system_title(system, results['modalities'])}"
            over = "folds" if protocol["folds"] is not None else "seeds"
            rows.append(
                [
                    title,
                    f"{100 * found['uar']['pooled']:.1f}",
                    interval_text(found["uar"]["interval"]),
                    mean_text(found["uar"], over),
                    std_text(found["uar"]["std_seeds"]),
                    *(mean_text(found[statistic], over) for statistic in ("war", "macro_f1")),
                    *(f"{100 * found[statistic]['pooled']:.1f}" for statistic in ("war", "macro_f1")),
                    f"{100 * found['chance_uar']:.1f}",
                ]
            )
            recalls.append([title, *("-" if r is None else f"{100 * r:.0f}" for r in found["recalls"])])
    header = ["", "UAR", "95 %", "UAR mean", "± seeds", "WAR mean", "F1 mean", "WAR", "macro-F1", "chance"]
    return "\n".join(
        [
            *lines,
            "",
            table(header, rows),
            "",
            "  UAR, WAR and macro-F1 are pooled over folds and averaged over seeds; 95 %: of resampled speakers.",
            "  A mean is over runs, ± its standard deviation over folds, or over seeds where there are no folds;",
            "  ± seeds: the standard deviation of the seeds' means.",
            "",
            table(["recall", *results["label_names"]], recalls),
            *(["", *(f"  {note}" for note in notes(results))] if notes(results) else []),
        ]
    )
