"""The numbers of a cross-validation as one HTML file that can be sent to someone."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fusion_emotion.corpora.corpus import Corpus
from fusion_emotion.corpora.protocols import protocol as protocol_of
from fusion_emotion.evaluate.table import (
    NETWORK,
    interval_text,
    mean_text,
    protocol_title,
    speakers_text,
    std_text,
    system_title,
)
from fusion_emotion.pages import figures, page


def write_report(results: Mapping[str, Any], path: pathlib.Path, *, corpus: Corpus, caveats: Sequence[str]) -> None:
    """Write the page of a cross-validation's results, all or nothing; `caveats` are those of its numbers."""
    modalities, protocols = results["modalities"], results["protocols"]
    warnings = {name: protocol_of(name).warning for name in protocols}
    human = corpus.human.get(modalities)
    page.write(
        path,
        "crossval.html",
        results=results,
        corpus_title=corpus.title,
        notes=[corpus.note] * bool(corpus.note) + [f"{name}: {text}" for name, text in warnings.items() if text],
        caveats=caveats,
        rows=[
            _row(name, protocol, system, numbers, modalities)
            for name, protocol in protocols.items()
            for system, numbers in protocol["systems"].items()
        ],
        scores=figures.svg_uri(_scores(results)),
        sections=[_section(name, protocol, results, corpus) for name, protocol in protocols.items()],
        human=corpus.human_caveat if human is not None else "",
        settings=list(page.leaves(results["config"])),
        command=f"python launch.py --mode=crossval --workdir={shlex.quote(path.parent.name)}",
        training_time=page.duration(sum(results["times"]["train_seconds"].values())),
        n_runs=sum(len(protocol["systems"][NETWORK]["runs"]) for protocol in protocols.values()),
    )


def _row(
    name: str, protocol: Mapping[str, Any], system: str, numbers: Mapping[str, Any], modalities: str
) -> dict[str, Any]:
    """A row of the table of results."""
    over = "folds" if protocol["folds"] is not None else "seeds"
    uar, war, macro_f1 = numbers["uar"], numbers["war"], numbers["macro_f1"]
    return {
        "protocol": protocol_title(name, protocol),
        "leaky": protocol["on_both_sides"] is not None,
        "system": system_title(system, modalities),
        "cells": [
            f"{100 * uar['pooled']:.1f}",
            interval_text(uar["interval"]),
            mean_text(uar, over),
            std_text(uar["std_seeds"]),
            f"{100 * war['pooled']:.1f}",
            mean_text(war, over),
            f"{100 * macro_f1['pooled']:.1f}",
            mean_text(macro_f1, over),
            f"{100 * numbers['chance_uar']:.1f}",
        ],
    }


def _scores(results: Mapping[str, Any]) -> Figure:
    groups = {
        protocol_title(name, protocol): [
            figures.Score(
                title=system_title(system, results["modalities"]),
                value=numbers["uar"]["pooled"],
                interval=numbers["uar"]["interval"],
                runs=[run["uar"] for run in numbers["runs"]],
                chance=numbers["chance_uar"],
                mark=place,
            )
            for place, (system, numbers) in enumerate(_in_order(protocol["systems"]))
        ]
        for name, protocol in results["protocols"].items()
    }
    return figures.scores(groups, xlabel="UAR of clips (%)")


def _in_order(systems: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The systems with the majority class last, so that the others keep their marks where it is left out."""
    return sorted(systems.items(), key=lambda item: item[0] == "majority")


def _section(name: str, protocol: Mapping[str, Any], results: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """The part of the page about one protocol."""
    systems, labels = dict(_in_order(protocol["systems"])), results["label_names"]
    network, titles = systems[NETWORK], {system: system_title(system, results["modalities"]) for system in systems}
    human = corpus.human.get(results["modalities"])
    return {
        "name": name,
        "title": protocol_title(name, protocol),
        "meaning": protocol["meaning"],
        "leaky": protocol["on_both_sides"],
        "protocol": protocol,
        "speakers": speakers_text(protocol),
        "n_seeds": len(protocol["seeds"]),
        "pictures": _figures(protocol, systems, titles, labels, human),
        "recalls": [(label, [numbers["recalls"][i] for numbers in systems.values()]) for i, label in enumerate(labels)],
        "systems": list(titles.values()),
        "groups": {
            by: {
                corpus.value_titles.get(by, {}).get(value, value or "unknown"): group for value, group in groups.items()
            }
            for by, groups in network["by"].items()
            if by != "speaker"
        },
        "temperatures": [run["temperature"] for run in network["runs"]],
    }


def _figures(
    protocol: Mapping[str, Any],
    systems: Mapping[str, Any],
    titles: Mapping[str, str],
    labels: Sequence[str],
    human: float | None,
) -> dict[str, str]:
    """Data URIs of the figures of a protocol by name."""
    network = systems[NETWORK]
    # The recalls of a constant answer are 0 and 1.
    shown = {titles[system]: numbers for system, numbers in systems.items() if system != "majority"}
    recalls = {title: numbers["recalls"] for title, numbers in shown.items()}
    line = None if human is None else ("human raters, all emotions", human)
    drawn = {
        "confusion": figures.confusion(np.array(network["confusion"]), labels, unit="clips"),
        "recalls": figures.marks(recalls, labels, xlabel="recall (% of the emotion's clips)", line=line),
        "reliability": figures.reliability(network["calibration"], temperature="of validation"),
    }
    if speakers := list(network["by"].get("speaker", ())):  # clips may be without
        uars = {title: [each["by"]["speaker"][who]["uar"] for who in speakers] for title, each in shown.items()}
        names = [f"speaker {speaker}" if speaker else "not named" for speaker in speakers]
        drawn["speakers"] = figures.marks(uars, names, xlabel="UAR of the speaker's clips (%)")
    if protocol["folds"] is not None:
        by_fold = {titles[s]: [(run["fold"], run["uar"]) for run in each["runs"]] for s, each in systems.items()}
        drawn["folds"] = figures.over_folds(by_fold, ylabel="UAR of the fold's clips (%)")
    return {name: figures.svg_uri(figure) for name, figure in drawn.items()}
