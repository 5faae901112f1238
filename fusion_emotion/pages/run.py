"""The results of a workdir to one HTML file that can be sent to someone: nothing beside it, no script in it."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.results import PREDICTIONS, RESULTS
from fusion_emotion.evaluate.table import percent
from fusion_emotion.pages import figures, page, pictures
from fusion_emotion.pages.page import duration
from fusion_emotion.prepare.records import MANIFEST, Row, read_rows
from fusion_emotion.train.writer import read_metrics
from fusion_emotion.units import FRAME_RATE_HZ

if TYPE_CHECKING:
    from fusion_emotion.train.loop import Setup

EXAMPLES_PER_EMOTION = 2

# What is on both sides, and what the numbers therefore do not say; the other protocols hold speakers apart.
_SAME_SPEAKERS = (
    "The same speakers are in the training and the test part: these numbers do not say how well the model does "
    "on people it has never seen."
)
OVERLAP = {
    "random": _SAME_SPEAKERS,
    "takes": _SAME_SPEAKERS,
    "random_windows": (
        "Windows of the same clips are in the training and the test part: these numbers do not say how well the model "
        "does on clips, or on people, it has never seen."
    ),
}
SYNTHETIC = "The sample corpus is synthetic: a proof of the pipeline, not of emotion recognition."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A test clip as the sheet of examples shows it."""

    clip_id: str
    speaker: str
    true: str
    predicted: str
    probability: float  # of `predicted`, in [0, 1]
    picture: str  # data URI
    alt: str

    @property
    def right(self) -> bool:
        """Whether the prediction is the true label."""
        return self.true == self.predicted


def write_report(setup: "Setup", workdir: pathlib.Path, path: pathlib.Path) -> None:
    """Write the report of a workdir that has results to `path`, whole or not at all.

    Raises UserError where the results cannot be read or are of other clips than the test part of `setup`.
    """
    results = _results(workdir)
    predictions = _predictions(workdir)
    if {row["clip_id"] for row in predictions} != {row.clip_id for row in setup.windows["test"].rows}:
        raise _evaluate_first(workdir, PREDICTIONS, "is of other clips than the test part")
    page.write(
        path,
        "run.html",
        results=results,
        corpus_title=page.CORPUS_TITLES.get(results["corpus"], results["corpus"]),
        notes=notes(results),
        levels=[("clip", results["test"]["clip"]), ("window", results["test"]["window"])],
        emotions=_emotions(results),
        pictures=_pictures(results, read_metrics(workdir)),
        examples=_examples(setup, results, predictions),
        incomplete=_incomplete(setup.folder / MANIFEST),
        settings=list(page.leaves(results["config"])),
        credit=page.CREDITS.get(results["corpus"], ""),
        command=f"python launch.py --mode=evaluate --workdir={shlex.quote(workdir.name)}",
        workdir=workdir.name,
        training_time="unknown" if results["train_seconds"] is None else duration(results["train_seconds"]),
    )


def notes(results: Mapping[str, Any]) -> list[str]:
    """What must be said beside the numbers: that the corpus is synthetic, what is on both sides of the split."""
    said = [SYNTHETIC] if results["corpus"] == "sample" else []
    if not results["protocol"]["speaker_independent"]:
        said.append(OVERLAP[results["protocol"]["name"]])
    return said


def choose(predictions: Sequence[Mapping[str, Any]], label: int) -> list[Mapping[str, Any]]:
    """Up to `EXAMPLES_PER_EMOTION` clips of a label, a right and a wrong one where there are both.

    The order is that of a hash of the clip's name, so that neither looks nor confidence choose.
    """
    clips = sorted((row for row in predictions if row["label"] == label), key=lambda row: page.hashed(row["clip_id"]))
    right = [row for row in clips if row["predicted"] == label]
    wrong = [row for row in clips if row["predicted"] != label]
    mixed = [*right[:1], *wrong[:1], *right[1:], *wrong[1:]]
    return mixed[:EXAMPLES_PER_EMOTION]


def _results(workdir: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((workdir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise _evaluate_first(workdir, RESULTS, "cannot be read") from error


def _predictions(workdir: pathlib.Path) -> list[dict[str, Any]]:
    try:
        lines = (workdir / PREDICTIONS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, json.JSONDecodeError) as error:
        raise _evaluate_first(workdir, PREDICTIONS, "cannot be read") from error


def _evaluate_first(workdir: pathlib.Path, name: str, what: str) -> UserError:
    return UserError(f"{workdir / name} {what}: evaluate again (--mode=evaluate, the same --workdir)")


def _emotions(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per emotion: its recalls, its counts and what it was most often taken for."""
    names, test = results["label_names"], results["test"]
    clips = np.array(test["clip"]["confusion"])
    rows = []
    for label, name in enumerate(names):
        mistaken = np.where(np.arange(len(names)) == label, 0, clips[label])
        most = int(mistaken.argmax())
        rows.append(
            {
                "name": name,
                "clips": int(clips[label].sum()),
                "right": int(clips[label, label]),
                "clip_recall": test["clip"]["recalls"][label],
                "window_recall": test["window"]["recalls"][label],
                "taken_for": f"{names[most]} ({mistaken[most]})" if mistaken[most] else "",
            }
        )
    return rows


def _pictures(results: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Data URIs by name; the curves only where there are rows to draw."""
    names, test = results["label_names"], results["test"]
    uris = {
        f"confusion_{level}": figures.svg_uri(
            figures.confusion(np.array(test[level]["confusion"]), names, unit=f"{level}s")
        )
        for level in ("clip", "window")
    }
    uris["recalls"] = figures.svg_uri(
        figures.recalls(
            test["clip"]["recalls"],
            [sum(row) for row in test["clip"]["confusion"]],
            names,
            chance=test["clip"]["chance_uar"],
            unit="clips",
        )
    )
    calibration = test["calibration"]
    uris["reliability"] = figures.svg_uri(
        figures.reliability(
            {
                f"as trained, ECE {percent(calibration['before']['ece'])}": calibration["before"],
                f"temperature {calibration['temperature']:.2f}, ECE {percent(calibration['after']['ece'])}": (
                    calibration["after"]
                ),
            }
        )
    )
    chosen = next((row["epoch"] for row in log if row["step"] == results["checkpoint"]["step"]), None)

    def line(part: str, name: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
        rows = [row for row in log if row["part"] == part]
        return [row["epoch"] for row in rows], [scale * row[name] for row in rows]

    if log:
        uris["losses"] = figures.svg_uri(
            figures.curves(
                {"training": line("train", "loss"), "validation": line("validation", "validation_loss")},
                ylabel="cross-entropy of a window (nats)",
                chosen_epoch=chosen,
            )
        )
        uris["uars"] = figures.svg_uri(
            figures.curves(
                {
                    "clips": line("validation", "validation_uar", 100),
                    "windows": line("validation", "validation_window_uar", 100),
                },
                ylabel="validation UAR (%)",
                chosen_epoch=chosen,
                top=100,
            )
        )
    return uris


def _examples(
    setup: "Setup", results: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> list[list[Example]]:
    """For each emotion its examples: the middle window of each chosen clip."""
    windows, source = setup.windows["test"], setup.source("test")
    clip_of = {row.clip_id: index for index, row in enumerate(windows.rows)}
    modalities = results["modalities"]

    def example(row: Mapping[str, Any]) -> Example:
        of_clip = np.flatnonzero(windows.clip == clip_of[row["clip_id"]])
        middle = int(of_clip[len(of_clip) // 2])
        window = source.window(middle)
        start_s = float(windows.start[middle]) / FRAME_RATE_HZ
        seen = "video" in modalities and bool(window["has_video"])
        heard = "audio" in modalities and bool(window["has_audio"]) and bool(window["waveform"].any())
        missing = [
            sentence
            for sentence, modality, there in (
                ("no face was found in this second", "video", seen),
                ("there is no sound in this second", "audio", heard),
            )
            if modality in modalities and not there
        ]
        shown = ["five face crops"] * seen + ["the spectrogram of the sound"] * heard + missing
        figure = pictures.example(
            window["strip"] if seen else None,
            window["waveform"] if heard else None,
            start_s=start_s,
            missing=missing,
        )
        log_prob = np.array(row["log_prob"])
        probability = np.exp(log_prob - log_prob.max())
        return Example(
            clip_id=row["clip_id"],
            speaker=row["speaker"],
            true=results["label_names"][row["label"]],
            predicted=results["label_names"][row["predicted"]],
            probability=float(probability[row["predicted"]] / probability.sum()),
            picture=pictures.jpeg_uri(figure),
            alt=f"Clip {row['clip_id']} from {start_s:.1f} s to {start_s + 1:.1f} s: {', '.join(shown)}",
        )

    return [[example(row) for row in choose(predictions, label)] for label in range(len(results["label_names"]))]


def _incomplete(manifest: pathlib.Path) -> list[Row]:
    """The clips of the corpus that are quarantined or lack something, with the reason."""
    return [row for row in read_rows(manifest) if row.reason]
