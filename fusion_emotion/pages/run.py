"""The results of a run as one HTML file that can be sent to someone: it needs no other file and runs no script."""

import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers as answers_
from fusion_emotion.evaluate.answers import PREDICTIONS, RESULTS, Answers, hashed
from fusion_emotion.evaluate.statistics import apply_temperature
from fusion_emotion.input.data import Data
from fusion_emotion.pages import figures, page, pictures
from fusion_emotion.prepare.records import MANIFEST, read_rows
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME

EXAMPLES_PER_EMOTION = 2


def write_report(workdir: pathlib.Path, path: pathlib.Path, *, data: Data, log: Sequence[Mapping[str, Any]]) -> None:
    """Write the report of a workdir that has results to `path`, all or nothing; `log` are the rows of its metrics.

    Raises UserError if the results cannot be read, or are of an older version or of other clips than those of `data`.
    """
    try:
        results = json.loads((workdir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise _evaluate_first(workdir / RESULTS, "cannot be read") from error
    if "segment" not in results.get("test", {}):
        raise _evaluate_first(workdir / RESULTS, "was made by an older version")
    answers = answers_.read(workdir / PREDICTIONS)
    if set(answers.clip_ids) != {row.clip_id for row in data.parts["test"].rows}:
        raise _evaluate_first(workdir / PREDICTIONS, "is of other clips than the test part")
    # Where each clip is one segment, both levels have the same numbers.
    test = results["parts"]["test"]
    levels = ("clip", "segment") if test["segments"] > test["clips"] else ("clip",)
    page.write(
        path,
        "run.html",
        results=results,
        corpus_title=data.corpus.title,
        notes=page.notes(data.corpus, data.protocol),
        levels=levels,
        by_segment=data.protocol.unit == "segment",
        emotions=_emotions(results),
        pictures=_pictures(results, log, levels),
        examples=_examples(data, results, answers),
        incomplete=[row for row in read_rows(data.folder / MANIFEST) if row.reason],
        settings=list(page.leaves(results["config"])),
        credit=data.corpus.credit,
        command=f"python launch.py --mode=evaluate --workdir={shlex.quote(workdir.name)}",
        workdir=workdir.name,
        training_time="unknown" if results["train_seconds"] is None else page.duration(results["train_seconds"]),
    )


def _evaluate_first(path: pathlib.Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}: evaluate again (--mode=evaluate, the same --workdir)")


def choose(answers: Answers, label: int) -> list[int]:
    """Choose up to `EXAMPLES_PER_EMOTION` clips of a label, a right and a wrong one if there are both.

    The hash of the clip's name orders them, so that neither looks nor confidence choose. Returns their indices.
    """
    clips = sorted(np.flatnonzero(answers.true == label).tolist(), key=lambda clip: hashed(answers.clip_ids[clip]))
    right = [clip for clip in clips if answers.predicted[clip] == label]
    wrong = [clip for clip in clips if answers.predicted[clip] != label]
    return [*right[:1], *wrong[:1], *right[1:], *wrong[1:]][:EXAMPLES_PER_EMOTION]


def _emotions(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each emotion: its recalls, its counts, and the emotion it was most often taken for."""
    names, test = results["label_names"], results["test"]
    confusion = np.array(test["clip"]["confusion"])
    rows = []
    for label, name in enumerate(names):
        mistaken = np.where(np.arange(len(names)) == label, 0, confusion[label])
        most = int(mistaken.argmax())
        rows.append(
            {
                "name": name,
                "clips": int(confusion[label].sum()),
                "right": int(confusion[label, label]),
                "recalls": {level: test[level]["recalls"][label] for level in ("clip", "segment")},
                "taken_for": f"{names[most]} ({mistaken[most]})" if mistaken[most] else "",
            }
        )
    return rows


def _pictures(results: Mapping[str, Any], log: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> dict[str, str]:
    """Data URIs by name; the curves only if there are rows to draw."""
    names, test, calibration = results["label_names"], results["test"], results["test"]["calibration"]
    drawn = {
        f"confusion_{level}": figures.confusion(np.array(test[level]["confusion"]), names, unit=f"{level}s")
        for level in levels
    }
    clip, counts = test["clip"], [sum(row) for row in test["clip"]["confusion"]]
    drawn["recalls"] = figures.recalls(clip["recalls"], counts, names, chance=clip["chance_uar"], unit="clips")
    drawn["reliability"] = figures.reliability(calibration, temperature=f"{calibration['temperature']:.2f}")
    chosen = next((row["epoch"] for row in log if row["step"] == results["checkpoint"]["step"]), None)

    def line(part: str, name: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
        rows = [row for row in log if row["part"] == part]
        return [row["epoch"] for row in rows], [scale * row[name] for row in rows]

    if log:
        losses = {"training": line("train", "loss"), "validation": line("validation", "validation_loss")}
        ylabel = "cross-entropy of a segment (nats)"
        drawn["losses"] = figures.curves(losses, ylabel=ylabel, chosen_epoch=chosen)
        of_level = {"clip": "validation_uar", "segment": "validation_segment_uar"}
        uars = {f"{level}s": line("validation", of_level[level], 100) for level in levels}
        drawn["uars"] = figures.curves(uars, ylabel="validation UAR (%)", chosen_epoch=chosen, top=100)
    return {name: figures.svg_uri(figure) for name, figure in drawn.items()}


def _examples(data: Data, results: Mapping[str, Any], answers: Answers) -> list[list[dict[str, Any]]]:
    """The examples of each emotion: the middle segment of each chosen clip."""
    source = data.source("test")
    names, modalities = results["label_names"], results["modalities"]
    clip_of = {row.clip_id: clip for clip, row in enumerate(source.segments.rows)}
    probability = np.exp(apply_temperature(answers.log_prob, 1.0))

    def example(index: int) -> dict[str, Any]:
        clip_id, predicted = answers.clip_ids[index], int(answers.predicted[index])
        segment = source.segment(source.segments.middle(clip_of[clip_id]))
        n_frames = int(segment["n_frames"])
        start_s, length_s = int(segment["start"]) / FRAME_RATE_HZ, n_frames / FRAME_RATE_HZ
        faces, waveform = segment["faces"][:n_frames], segment["waveform"][: n_frames * SAMPLES_PER_FRAME]
        has_faces = "video" in modalities and bool(segment["has_video"])
        has_sound = "audio" in modalities and bool(segment["has_audio"]) and bool(waveform.any())
        missing = ["no face was found here"] * ("video" in modalities and not has_faces)
        missing += ["there is no sound here"] * ("audio" in modalities and not has_sound)
        parts = ["face crops"] * has_faces + ["the spectrogram of the sound"] * has_sound + missing
        shown = (faces if has_faces else None, waveform if has_sound else None)
        figure = pictures.example(*shown, start_s=start_s, length_s=length_s, missing=missing)
        return {
            "clip_id": clip_id,
            "speaker": answers.speakers[index],
            "true": names[answers.true[index]],
            "predicted": names[predicted],
            "probability": float(probability[index, predicted]),
            "picture": pictures.jpeg_uri(figure),
            "alt": f"Clip {clip_id} from {start_s:.1f} s to {start_s + length_s:.1f} s: {', '.join(parts)}",
        }

    return [[example(index) for index in choose(answers, label)] for label in range(len(names))]
