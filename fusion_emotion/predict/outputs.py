"""The files of a prediction: tables, annotations, captions, pages and films."""

import csv
import json
import math
import mimetypes
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic
from fusion_emotion.predict.prediction import STEP_S, Prediction

SCHEMA = "fusion_emotion.prediction/1"


def save(
    prediction: Prediction, folder: pathlib.Path, formats: Sequence[str], *, name: str = "", key: str = ""
) -> list[pathlib.Path]:
    """Write a prediction as `NAME.FORMAT` for each format; return the paths. Raises UserError.

    The JSON file, which is written last, keeps `key`: by it a later run knows that all is done.
    """
    name = name or pathlib.PurePath(prediction.source).stem
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form in sorted(formats, key=lambda form: form == "json"):
            if form == "mp4" and "width" not in prediction.about:
                continue  # a voice has no film
            path = folder / f"{name}.{_SUFFIXES.get(form, form)}"
            with atomic(path) as partial:
                if form == "json":
                    content = json.dumps({**described(prediction), "key": key}, indent=1, ensure_ascii=False)
                    partial.write_text(content, encoding="utf-8")
                else:
                    _WRITERS[form](prediction, partial)
            written.append(path)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror}): choose another --output"
        ) from error
    return written


def _csv(prediction: Prediction, path: pathlib.Path) -> None:
    columns = prediction.columns()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if isinstance(value, float) and math.isnan(value) else value for value in row)


def described(prediction: Prediction) -> dict[str, Any]:
    """Return the prediction as JSON: source, model, settings, people, summary, segments, timeline, warnings, notice."""
    columns = prediction.columns()
    del columns["file"]
    return {
        "schema": SCHEMA,
        "source": {"path": prediction.source, **prediction.about, "read_s": prediction.duration_s},
        "model": dict(prediction.model),
        "settings": dict(prediction.settings),
        "label": prediction.label,
        "confidence": _known(prediction.confidence),
        "people": [
            {
                "id": person.name,
                "main": person.main,
                "first_s": round(float(person.step[0]) * STEP_S, 3) if len(person.step) else None,
                "last_s": round(float(person.step[-1] + person.n_frames[-1]) * STEP_S, 3) if len(person.step) else None,
                "share": round(float((person.found > 0).mean()), 4) if len(person.step) else 0.0,
            }
            for person in prediction.people
        ],
        "summary": {
            person.name: {
                "mean": dict(zip(prediction.label_names, map(_known, person.mean.tolist()), strict=True)),
                "share_of_time": _shares(prediction, person.name),
            }
            for person in prediction.people
        },
        "segments": [vars(segment) for segment in prediction.segments],
        "timeline": {name: [_known(value) for value in values] for name, values in columns.items()},
        "warnings": list(prediction.warnings),
        "notice": prediction.notice,
    }


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _shares(prediction: Prediction, person: str) -> dict[str, float]:
    segments = [segment for segment in prediction.segments if segment.person == person]
    total = sum(segment.end - segment.start for segment in segments)
    shares: dict[str, float] = {}
    for segment in segments:
        shares[segment.label] = shares.get(segment.label, 0.0) + (segment.end - segment.start) / total
    return {label: round(share, 4) for label, share in shares.items()}


def _html(prediction: Prediction, path: pathlib.Path) -> None:
    from fusion_emotion.pages.timeline import page

    path.write_text(page([(described(prediction), prediction.source)], folder=path.parent), encoding="utf-8")


def write_index(folder: pathlib.Path, jsons: Mapping[str, pathlib.Path]) -> pathlib.Path:
    """Write `index.html`, one viewer for predictions; their JSON files are given by the recordings' places today."""
    from fusion_emotion.pages.timeline import page

    read = [(json.loads(path.read_text(encoding="utf-8")), source) for source, path in jsons.items()]
    with atomic(folder / "index.html") as partial:
        partial.write_text(page(read, folder=folder), encoding="utf-8")
    return folder / "index.html"


def _annotated(prediction: Prediction, path: pathlib.Path) -> Any:
    """Return an ELAN file with a tier of segments for each person, in milliseconds."""
    from pympi import Elan

    elan = Elan.Eaf(author="fusion_emotion")
    elan.remove_tier("default")
    source = pathlib.Path(prediction.source).absolute()
    # pympi knows the types of few suffixes.
    kind = mimetypes.guess_type(source.name)[0] or "unknown"
    elan.add_linked_file(str(source), relpath=os.path.relpath(source, path.parent), mimetype=kind)
    elan.add_property("notice", prediction.notice)
    for person in prediction.people:
        elan.add_tier(person.name)
    for segment in prediction.segments:
        elan.add_annotation(segment.person, round(1000 * segment.start), round(1000 * segment.end), segment.label)
    return elan


def _eaf(prediction: Prediction, path: pathlib.Path) -> None:
    # pympi keeps a copy of a file that is there, and takes "-" for standard output.
    _annotated(prediction, path).to_file(str(path))


def _textgrid(prediction: Prediction, path: pathlib.Path) -> None:
    from pympi import Praat

    grid = Praat.TextGrid(xmin=0, xmax=prediction.duration_s)
    for person in prediction.people:
        tier = grid.add_tier(person.name)
        for segment in prediction.segments:
            if segment.person == person.name:
                tier.add_interval(segment.start, min(segment.end, prediction.duration_s), segment.label)
    grid.to_file(str(path))


def _captions(form: str) -> Callable[[Prediction, pathlib.Path], None]:
    def write(prediction: Prediction, path: pathlib.Path) -> None:
        import pysubs2

        captions = pysubs2.SSAFile()
        several = len(prediction.people) > 1
        for segment in prediction.segments:
            who = f"{segment.person}: " if several else ""
            text = f"{who}{segment.label} ({segment.confidence:.0%})"
            start, end = round(1000 * segment.start), round(1000 * segment.end)
            captions.append(pysubs2.SSAEvent(start=start, end=end, text=text))
        path.write_text(captions.to_string(form), encoding="utf-8")

    return write


def _parquet(prediction: Prediction, path: pathlib.Path) -> None:
    try:
        prediction.to_pandas().to_parquet(path)
    except ImportError as error:
        raise UserError("parquet needs pandas and pyarrow: pip install pandas pyarrow") from error


def _png(prediction: Prediction, path: pathlib.Path) -> None:
    prediction.plot().savefig(path, format="png", dpi=120)


def _mp4(prediction: Prediction, path: pathlib.Path) -> None:
    from fusion_emotion.predict.overlay import write

    write(prediction, path)


_SUFFIXES = {"textgrid": "TextGrid", "mp4": "emotions.mp4"}
_WRITERS: Mapping[str, Callable[[Prediction, pathlib.Path], None]] = {
    "csv": _csv,
    "html": _html,
    "eaf": _eaf,
    "textgrid": _textgrid,
    "vtt": _captions("vtt"),
    "srt": _captions("srt"),
    "parquet": _parquet,
    "png": _png,
    "mp4": _mp4,
}
