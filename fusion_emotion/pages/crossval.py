"""A cross-validation's numbers to one HTML file that can be sent to someone."""

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.ravdess import STATEMENTS
from fusion_emotion.experiments.summary import (
    NETWORK,
    interval_text,
    mean_text,
    notes,
    protocol_title,
    std_text,
    system_title,
)
from fusion_emotion.pages import figures, page
from fusion_emotion.pages.run import OVERLAP, SYNTHETIC

REPORT = "crossval.html"

# Shares right of untrained raters on RAVDESS speech (Livingstone & Russo 2018, PLoS ONE 13(5) e0196391).
HUMAN = {"audio": 0.624, "video": 0.75, "audio+video": 0.80}
HUMAN_CAVEAT = (
    "Human raters, of RAVDESS speech (Livingstone & Russo 2018): 62.4 % from sound, 75 % from pictures, about 80 % "
    "from both (this last figure is unconfirmed). They were asked in another way: neutral and calm count as one answer "
    "for them and as two here, they had no training on takes like these, and theirs is a share of ratings rather than "
    "a UAR. No figure for each emotion is at hand, so one line stands for all."
)


def write_report(results: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Write `crossval.html` of the results of a workdir, whole or not at all."""
    modalities = results["modalities"]
    sections = [_section(name, protocol, results) for name, protocol in results["protocols"].items()]
    page.write(
        workdir / REPORT,
        "crossval.html",
        results=results,
        corpus_title=page.CORPUS_TITLES.get(results["corpus"], results["corpus"]),
        warnings=[SYNTHETIC] * (results["corpus"] == "sample")
        + [f"{name}: {OVERLAP[name]}" for name in results["protocols"] if name in OVERLAP],
        notes=notes(results),
        rows=[
            _row(name, protocol, system, found, modalities)
            for name, protocol in results["protocols"].items()
            for system, found in protocol["systems"].items()
        ],
        scores=figures.svg_uri(_scores(results)),
        sections=sections,
        human=HUMAN_CAVEAT if results["corpus"] == "ravdess" else "",
        settings=list(page.leaves(results["config"])),
        command=f"python launch.py --mode=crossval --workdir={shlex.quote(workdir.name)}",
        training_time=page.duration(sum(results["times"]["train_seconds"].values())),
        n_runs=sum(len(protocol["systems"][NETWORK]["runs"]) for protocol in results["protocols"].values()),
    )


def _row(
    name: str, protocol: Mapping[str, Any], system: str, found: Mapping[str, Any], modalities: str
) -> dict[str, Any]:
    over = "folds" if protocol["folds"] is not None else "seeds"
    return {
        "protocol": protocol_title(name, protocol),
        "leaky": protocol["on_both_sides"] is not None,
        "system": system_title(system, modalities),
        "uar": found["uar"]["pooled"],
        "interval": interval_text(found["uar"]["interval"]),
        "mean": mean_text(found["uar"], over),
        "std_seeds": std_text(found["uar"]["std_seeds"]),
        "war": found["war"]["pooled"],
        "war_mean": mean_text(found["war"], over),
        "macro_f1": found["macro_f1"]["pooled"],
        "macro_f1_mean": mean_text(found["macro_f1"], over),
        "chance": found["chance_uar"],
    }


def _scores(results: Mapping[str, Any]) -> Any:
    def score(place: int, system: str, found: Mapping[str, Any]) -> figures.Score:
        return figures.Score(
            title=system_title(system, results["modalities"]),
            value=found["uar"]["pooled"],
            interval=found["uar"]["interval"],
            runs=[run["uar"] for run in found["runs"]],
            chance=found["chance_uar"],
            mark=place,
        )

    groups = {
        protocol_title(name, protocol): [score(i, *each) for i, each in enumerate(_in_order(protocol["systems"]))]
        for name, protocol in results["protocols"].items()
    }
    return figures.scores(groups, xlabel="UAR of clips (%)")


def _in_order(systems: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The systems with the majority class last, so that each has the same mark where it is left out."""
    return sorted(systems.items(), key=lambda each: each[0] == "majority")


def _section(name: str, protocol: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one protocol."""
    systems = dict(_in_order(protocol["systems"]))
    network = systems[NETWORK]
    labels, modalities = results["label_names"], results["modalities"]
    # A constant answer has a recall of 1 and of 0.
    told = {system: found for system, found in systems.items() if system != "majority"}
    titles = {system: system_title(system, modalities) for system in systems}
    human = ("human raters, all emotions", HUMAN[modalities]) if results["corpus"] == "ravdess" else None
    before, after = network["calibration"]["before"], network["calibration"]["after"]
    speakers = network["by"]["speaker"]
    pictures = {
        "confusion": figures.confusion(np.array(network["confusion"]), labels, unit="clips"),
        "recalls": figures.marks(
            {titles[system]: found["recalls"] for system, found in told.items()},
            labels,
            xlabel="recall (% of the emotion's clips)",
            line=human,
        ),
        "reliability": figures.reliability(
            {
                f"as trained, ECE {100 * before['ece']:.1f} %": before,
                f"temperature of validation, ECE {100 * after['ece']:.1f} %": after,
            }
        ),
        "speakers": figures.marks(
            {
                titles[system]: [found["by"]["speaker"][speaker]["uar"] for speaker in speakers]
                for system, found in told.items()
            },
            [f"speaker {speaker}" for speaker in speakers],
            xlabel="UAR of the speaker's clips (%)",
        ),
    }
    if protocol["folds"] is not None:
        pictures["folds"] = figures.over_folds(
            {titles[s]: [(run["fold"], run["uar"]) for run in found["runs"]] for s, found in systems.items()},
            ylabel="UAR of the fold's clips (%)",
        )
    return {
        "name": name,
        "title": protocol_title(name, protocol),
        "meaning": protocols.MEANING[name],
        "leaky": protocol["on_both_sides"],
        "protocol": protocol,
        "n_seeds": len(protocol["seeds"]),
        "pictures": {key: figures.svg_uri(figure) for key, figure in pictures.items()},
        "recalls": [(label, [found["recalls"][i] for found in systems.values()]) for i, label in enumerate(labels)],
        "systems": list(titles.values()),
        "groups": {
            by: {_value_title(by, value): group for value, group in groups.items()}
            for by, groups in network["by"].items()
            if by != "speaker"
        },
        "temperatures": [run["temperature"] for run in network["runs"]],
    }


def _value_title(by: str, value: str) -> str:
    """The value of a field as a reader knows it."""
    known = dict(zip(("01", "02"), STATEMENTS, strict=True)) if by == "statement" else {}
    return known.get(value, value or "unknown")
