"""The numbers and arrays of an analysis as one HTML file that can be sent to someone."""

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusion_emotion.corpora.corpus import Corpus
from fusion_emotion.corpora.protocols import Protocol
from fusion_emotion.pages import figures, page, pictures


def write_analysis(
    results: Mapping[str, Any], material: Mapping[str, Any], path: pathlib.Path, *, corpus: Corpus, protocol: Protocol
) -> None:
    """Write the page of an analysis to `path`, all or nothing; `material` are the arrays beside the numbers."""
    explained: dict[str, list[tuple[Mapping[str, Any], str]]] = {"Right": [], "Wrong": []}
    for clip, arrays in zip(results["explained"], material["explained"], strict=True):
        figure = pictures.explanation(**arrays, centres_hz=material["centres_hz"], start_s=clip["start_s"])
        explained["Right" if clip["true"] == clip["predicted"] else "Wrong"].append((clip, pictures.jpeg_uri(figure)))
    page.write(
        path,
        "analysis.html",
        results=results,
        corpus_title=corpus.title,
        notes=page.notes(corpus, protocol),
        curves=[(curve, _curve(curve, results)) for curve in results["curves"]],
        explained=explained.items(),
        pictures=_planes(results, material["places"]) if results["features"] else {},
        credit=corpus.credit,
        command=f"python launch.py --mode=analyse --workdir={shlex.quote(path.parent.name)}",
        workdir=path.parent.name,
    )


def _curve(curve: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The picture of a curve, with a level at the score without the degraded modality."""
    given, without = results["worth"]["given"], curve["without"]
    return figures.svg_uri(
        figures.degradation(
            {name: [(score["uar"], score["interval"]) for score in scores] for name, scores in curve["lines"].items()},
            curve["steps"],
            chance=results["test"]["chance_uar"],
            level=(without, given[without]["uar"]) if without in given else None,
            xlabel=f"{curve['axis']} ({curve['unit']})",
            ylabel="UAR of clips (%)",
        )
    )


def _planes(results: Mapping[str, Any], places: np.ndarray) -> dict[str, str]:
    """Pictures of the test clips in the plane of their features, by emotion and by speaker, if there are several."""
    clips, names = results["features"]["clips"], results["label_names"]
    groups = {"emotion": [names[clip["label"]] for clip in clips], "speaker": [clip["speaker"] for clip in clips]}
    legend = {by: sorted(set(of), key=names.index if by == "emotion" else None) for by, of in groups.items()}
    shares = np.array(results["features"]["variance_shares"])
    return {
        by: figures.svg_uri(figures.scatter(places, groups[by], legend[by], shares=shares))
        for by in results["features"]["chance"]
    }
