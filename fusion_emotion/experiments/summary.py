"""The numbers of a cross-validation: `crossval.json` and the tables in the terminal.

Folds are combined in two ways, side by side. The mean over folds comes with its standard deviation. Pooled, the test
parts of a seed's folds are one set of clips, each predicted once; a statistic of that set is averaged over seeds, and
its interval is over resampled speakers.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fusion_emotion.corpora.catalogue import corpus_of
from fusion_emotion.corpora.protocols import Protocol
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers, metrics, statistics, table
from fusion_emotion.evaluate.answers import PREDICTIONS, Answers
from fusion_emotion.evaluate.answers import RESULTS as RUN_RESULTS
from fusion_emotion.evaluate.statistics import STATISTICS, Statistic
from fusion_emotion.experiments.crossval import Run
from fusion_emotion.files import atomic
from fusion_emotion.prepare.records import Row

RESULTS = "crossval.json"


class Key(NamedTuple):
    """The run that answers come from, and the temperature fitted on its validation part (None for a baseline)."""

    fold: int
    seed: int
    temperature: float | None = None


System: TypeAlias = Mapping[Key, Answers]  # the answers of one system under one protocol, run by run
Value = TypeVar("Value")


def summarise(config: Mapping[str, Any], runs: Sequence[Run], baseline_names: Sequence[str]) -> dict[str, Any]:
    """Compute the numbers of finished runs. Raises UserError if the predictions of a run are of other clips."""
    run_results = {run: json.loads((run.workdir / RUN_RESULTS).read_text(encoding="utf-8")) for run in runs}
    by_protocol = {run.protocol: [other for other in runs if other.protocol == run.protocol] for run in runs}
    systems = {
        protocol: _systems({run: run_results[run] for run in chosen}, baseline_names)
        for protocol, chosen in by_protocol.items()
    }
    first, described = run_results[runs[0]], corpus_of(config)
    return {
        "corpus": described.name,
        "modalities": config["model"]["modalities"],
        "label_names": list(runs[0].label_names),
        "protocols": {
            protocol.name: describe(protocol, chosen, systems[protocol], described.groups)
            for protocol, chosen in by_protocol.items()
        },
        "inflation": inflation(systems),
        **{name: first[name] for name in ("parameters", "versions", "commit", "devices", "machine")},
        # Only these differ if the same runs are repeated.
        "times": {
            "train_seconds": {
                protocol.name: sum(run_results[run]["train_seconds"] or 0 for run in chosen)
                for protocol, chosen in by_protocol.items()
            },
            "date": max(results["date"] for results in run_results.values()),
        },
        "config": config,
    }


def _systems(run_results: Mapping[Run, Mapping[str, Any]], baseline_names: Sequence[str]) -> Mapping[str, System]:
    """Read the answers of the network and of the baselines in the runs of one protocol."""
    network = {
        Key(run.fold, run.seed, results["test"]["calibration"]["temperature"]): _read(run, run.workdir / PREDICTIONS)
        for run, results in run_results.items()
    }
    # Baselines depend on the seed of the split, not on that of the run.
    splits = {Key(run.fold, run.split_seed): run for run in run_results if run.protocol.unit != "segment"}
    names = baseline_names if splits else ()
    return {table.NETWORK: network} | {
        name: {key: _read(run, run.baseline_path(name)) for key, run in splits.items()} for name in names
    }


def _read(run: Run, path: pathlib.Path) -> Answers:
    run_answers = answers.read(path)
    if set(run_answers.clip_ids) != {row.clip_id for row in run.test_rows}:
        raise UserError(
            f"{path} is of other clips than the test part of {run}: the corpus has changed; choose another --workdir"
        )
    return run_answers


def describe(
    protocol: Protocol, runs: Sequence[Run], systems: Mapping[str, System], groups: Sequence[str]
) -> dict[str, Any]:
    """Compute the entry of one protocol in `crossval.json`; `groups` are the fields of a row to break down by."""
    rows = {row.clip_id: row for run in runs for row in run.test_rows}
    return {
        "meaning": protocol.meaning,
        "on_both_sides": protocol.on_both_sides or None,
        "folds": sorted({run.fold for run in runs}) if protocol.with_folds else None,
        "seeds": sorted({run.seed for run in runs}),
        "clips": len(rows),
        "speakers": sorted({row.speaker for row in rows.values()} - {""}),  # "": not known
        "systems": {name: _measure(system, rows, groups) for name, system in systems.items()},
    }


def _measure(system: System, rows: Mapping[str, Row], groups: Sequence[str]) -> dict[str, Any]:
    """Compute the numbers of one system under one protocol; `rows` are its clips by id."""
    everything, pooled = answers.join(list(system.values())), list(by_seed(system).values())
    scaled = [
        statistics.apply_temperature(run_answers.log_prob, key.temperature)
        for key, run_answers in system.items()
        if key.temperature is not None
    ]
    return {
        "runs": [_run_numbers(key, run_answers) for key, run_answers in system.items()],
        **{name: _statistic(system, pooled, name) for name in STATISTICS},
        "chance_uar": float(np.mean([metrics.chance_level(seed.confusion) for seed in pooled])),
        "recalls": [statistics.known(recall) for recall in metrics.recalls(everything.confusion)],
        "confusion": everything.confusion.tolist(),
        "calibration": {
            "before": statistics.calibration(everything.log_prob, everything.true),
            "after": statistics.calibration(np.concatenate(scaled), everything.true) if scaled else None,
        },
        "by": {
            group: statistics.breakdown(everything, values)
            for group, values in statistics.groupings(
                [rows[clip_id] for clip_id in everything.clip_ids], groups
            ).items()
        },
    }


def _run_numbers(key: Key, run_answers: Answers) -> dict[str, Any]:
    return {
        "fold": key.fold,
        "seed": key.seed,
        "clips": len(run_answers.clip_ids),
        **{name: statistic(run_answers.confusion) for name, statistic in STATISTICS.items()},
        **({} if key.temperature is None else {"temperature": key.temperature}),
    }


def _statistic(system: System, pooled: Sequence[Answers], name: Statistic) -> dict[str, Any]:
    """Compute a statistic: its mean over runs, its standard deviations over folds and over seeds, and pooled."""
    values = {key: STATISTICS[name](run_answers.confusion) for key, run_answers in system.items()}
    interval = statistics.pooled_interval(pooled, statistic=name, seed=0)
    return {
        "mean": float(np.mean(list(values.values()))),
        "std_folds": _std_of_means(_grouped(values, "fold")),
        "std_seeds": _std_of_means(_grouped(values, "seed")),
        "pooled": interval.value,
        "interval": interval.bounds,
    }


def _std_of_means(groups: Mapping[int, Sequence[float]]) -> float | None:
    """Compute the sample standard deviation of the groups' means; None for a single group."""
    means = [np.mean(groups[name]) for name in sorted(groups)]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def _grouped(values: Mapping[Key, Value], by: str) -> dict[int, list[Value]]:
    """Group values by the fold or the seed of their key."""
    groups: dict[int, list[Value]] = {}
    for key, value in values.items():
        groups.setdefault(getattr(key, by), []).append(value)
    return groups


def by_seed(system: System) -> dict[int, Answers]:
    """Join the folds of each seed."""
    return {seed: answers.join(folds) for seed, folds in _grouped(system, "seed").items()}


def inflation(systems: Mapping[Protocol, Mapping[str, System]]) -> list[dict[str, Any]]:
    """Compute how much higher each system's UAR is under a leaky protocol than under a speaker-independent one.

    The same speakers are drawn for both.
    """
    differences = []
    for leaky in (protocol for protocol in systems if not protocol.speaker_independent):
        for honest in (protocol for protocol in systems if protocol.speaker_independent):
            for name in systems[leaky]:
                a, b = (list(by_seed(systems[protocol][name]).values()) for protocol in (leaky, honest))
                interval = statistics.difference_interval(a, b, statistic="uar", seed=0)
                difference = {"uar": interval.value, "interval": interval.bounds}
                differences.append({"system": name, "protocol": leaky.name, "over": honest.name, **difference})
    return differences


def write(results: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Write the numbers to the workdir, all or nothing."""
    with atomic(workdir / RESULTS) as partial:
        partial.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return the caveats of the numbers: too few speakers for an interval, and inflation by leaks."""
    protocols = results["protocols"]
    caveats = [
        f"{name} tests clips of {table.speakers_text(protocol)}: "
        + (
            "too few for an interval, and they say nothing of other people."
            if protocol["speakers"]
            else "there is no interval over people, and the same person may be on both sides."
        )
        for name, protocol in protocols.items()
        if len(protocol["speakers"]) < statistics.LEAST_SPEAKERS
    ]
    for difference in results["inflation"]:
        if difference["system"] == table.NETWORK:
            leaky, interval = difference["protocol"], difference["interval"]
            between = f" (95 % over speakers: {table.interval_text(interval)})" if interval else ""
            caveats.append(
                f"Inflation: {leaky} ({protocols[leaky]['on_both_sides']}) shows {100 * difference['uar']:+.1f} points "
                f"of UAR{between} against {difference['over']} (speaker-independent)."
            )
    return caveats


def text(results: Mapping[str, Any]) -> str:
    """Return the tables at the end of a cross-validation; each row names its protocol."""
    lines = [f"{results['corpus']}, {results['modalities']}, clip level, per cent:"]
    rows, recalls = [], []
    for name, protocol in results["protocols"].items():
        n_folds = "one split a seed" if protocol["folds"] is None else f"{len(protocol['folds'])} folds"
        seeds = ", ".join(map(str, protocol["seeds"]))
        lines += [
            f"  {name}: {protocol['meaning']}",
            f"    {n_folds}; seeds {seeds}; {protocol['clips']} clips of {table.speakers_text(protocol)}",
        ]
        for system, numbers in protocol["systems"].items():
            title = f"{table.protocol_title(name, protocol)}: {table.system_title(system, results['modalities'])}"
            rows.append([title, *_cells(numbers, "seeds" if protocol["folds"] is None else "folds")])
            recalls.append([title, *("-" if r is None else f"{100 * r:.0f}" for r in numbers["recalls"])])
    header = ["", "UAR", "95 %", "UAR mean", "± seeds", "WAR mean", "F1 mean", "WAR", "macro-F1", "chance"]
    lines += [
        "",
        table.table(header, rows),
        "",
        "  UAR, WAR and macro-F1 are pooled over folds and averaged over seeds; 95 %: of resampled speakers.",
        "  A mean is over runs, ± its standard deviation over folds, or over seeds if there are no folds;",
        "  ± seeds: the standard deviation of the seeds' means.",
        "",
        table.table(["recall", *results["label_names"]], recalls),
    ]
    if caveats := notes(results):
        lines += ["", *(f"  {note}" for note in caveats)]
    return "\n".join(lines)


def _cells(numbers: Mapping[str, Any], over: str) -> list[str]:
    uar, war, macro_f1 = (numbers[name] for name in ("uar", "war", "macro_f1"))
    return [
        f"{100 * uar['pooled']:.1f}",
        table.interval_text(uar["interval"]),
        table.mean_text(uar, over),
        table.std_text(uar["std_seeds"]),
        table.mean_text(war, over),
        table.mean_text(macro_f1, over),
        *(f"{100 * value:.1f}" for value in (war["pooled"], macro_f1["pooled"], numbers["chance_uar"])),
    ]
