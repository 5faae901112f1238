"""Compare the released model of faces, and both models together, with the package `fer` on the same pictures and films.

    python results/peers.py --ferplus=PATH --films=PATH --voice=WORKDIR --fer_python=/other/env/bin/python

PATH are FER+ and RAVDESS films, WORKDIR is a model of voices that has not heard the films' speakers. The second
environment has `fer` (pip install fer tensorflow-cpu "moviepy<2" "setuptools<81"), which needs other versions than
ours. Labels are those of `basic7`; pictures of contempt are left out, and calm counts as neutral. Writes
results/peers.csv.
"""

import csv
import json
import pathlib
import subprocess
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from fusion_emotion.corpora import catalogue, labels
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.evaluate.results import surroundings
from fusion_emotion.models.weights import load_model
from fusion_emotion.predict.recognizer import Recognizer, find
from fusion_emotion.predict.windows import Model, example
from fusion_emotion.prepare.media import Still
from fusion_emotion.progress import bar

_FERPLUS = flags.DEFINE_string("ferplus", None, "The folder of FER+.", required=True)
_FILMS = flags.DEFINE_string("films", None, "A folder of RAVDESS films of speech.", required=True)
_VOICE = flags.DEFINE_string("voice", None, "A model of voices that has not heard their speakers.", required=True)
_FER = flags.DEFINE_string("fer_python", None, "Python of an environment with fer.", required=True)
BASIC7 = labels.parse("basic7")

# Pictures whole, films five frames a second, the mean over frames; "" where no face is found in a film.
FER = """
import json, sys
import cv2, numpy as np
from fer.fer import FER
given = json.load(sys.stdin)
found, told = FER(), []
for path in given:
    film = cv2.VideoCapture(path)
    rate, number, sums = film.get(cv2.CAP_PROP_FPS) or 5.0, 0, []
    is_still = path.endswith(".png")
    while True:
        there, frame = film.read()
        if not there:
            break
        if is_still or number % max(1, round(rate / 5)) == 0:
            whole = [(0, 0, frame.shape[1], frame.shape[0])] if is_still else None
            faces = found.detect_emotions(frame, face_rectangles=whole)
            if faces:
                largest = max(faces, key=lambda face: face["box"][2] * face["box"][3])
                sums.append(largest["emotions"])
        number += 1
    mean = {name: float(np.mean([one[name] for one in sums])) for name in (sums[0] if sums else {})}
    told.append(max(mean, key=mean.get) if mean else "")
print(json.dumps(told))
"""


def by_fer(clips: Sequence[Clip]) -> list[int | None]:
    """Return the label that `fer` gives each clip; None where it finds no face."""
    given = json.dumps([str(clip.path) for clip in clips])
    ran = subprocess.run([_FER.value, "-c", FER], input=given, capture_output=True, text=True, check=True)
    return [BASIC7.of(word) if word else None for word in json.loads(ran.stdout.splitlines()[-1])]


def by_face(clips: Sequence[Clip]) -> list[int | None]:
    """Return the label that the released model of faces gives pictures that are crops already."""
    model = Model(load_model(find("face-base")[0]), batch_size=128)
    place = [BASIC7.of(name) for name in model.label_names]
    kept = [index for index, label in enumerate(place) if label is not None]
    nothing = np.zeros(0, np.int16)
    crops = (next(Still(clip.path).frames()) for clip in clips)
    batch = [example(model, (crop[None], np.ones(1, bool)), nothing, 1) for crop in crops]
    chosen = model(batch)[:, kept].argmax(axis=1)
    return [place[kept[index]] for index in chosen.tolist()]


def by_recognizer(name: str, clips: Sequence[Clip]) -> list[int | None]:
    """Return the label that a recogniser gives each film; None where there is nothing to read."""
    recognizer = Recognizer.load(name)
    told: list[int | None] = []
    for clip in bar(clips, desc=name.rsplit("/", 1)[-1], unit="clip"):
        mean = recognizer(clip.path).main.mean
        sums = np.zeros(len(BASIC7.names))
        for word, share in zip(recognizer.label_names, mean, strict=True):
            if (label := BASIC7.of(word)) is not None:
                sums[label] += share
        told.append(int(sums.argmax()) if np.isfinite(sums).all() else None)
    return told


def row(what: str, system: str, clips: Sequence[Clip], told: Sequence[int | None], command: str) -> dict[str, object]:
    """Return a row of the table; an answer that is missing is wrong."""
    true = [BASIC7.of(clip.emotion) for clip in clips]
    right = np.array([one == other for one, other in zip(true, told, strict=True)])
    recalls = [right[[label == one for one in true]].mean() for label in sorted({*true})]
    around = surroundings()
    return {
        "what": what,
        "system": system,
        "clips": len(clips),
        "speakers": len({clip.speaker for clip in clips} - {""}),
        "without_answer": sum(label is None for label in told),
        "uar": round(float(np.mean(recalls)), 4),
        "war": round(float(right.mean()), 4),
        **{name: around[name] for name in ("commit", "machine", "date")},
        "devices": " ".join(around["devices"]),
        "command": command,
    }


def clips_of(corpus: str, root: str) -> list[Clip]:
    """Return the clips of a corpus that have a label of `basic7`; of FER+ those of the test part."""
    wanted = catalogue.Wanted(audio_alone=False, channel="speech")
    found = catalogue.find_clips(catalogue.corpus(corpus), pathlib.Path(root), wanted).clips
    return [clip for clip in found if clip.split in ("", "test") and BASIC7.of(clip.emotion) is not None]


def main(argv: list[str]) -> None:
    """Run all systems, print the table and write it."""
    del argv
    command = "python results/peers.py --ferplus=PATH --films=PATH --voice=WORKDIR --fer_python=PYTHON"
    pictures, films = clips_of("ferplus", _FERPLUS.value), clips_of("ravdess", _FILMS.value)
    of_pictures, of_films = "FER+ test part", "RAVDESS films"
    rows = [
        row(of_pictures, "face-base", pictures, by_face(pictures), command),
        row(of_pictures, "fer", pictures, by_fer(pictures), command),
        row(of_films, "face-base", films, by_recognizer("face-base", films), command),
        row(of_films, "voice", films, by_recognizer(_VOICE.value, films), command),
        row(of_films, "voice and face-base", films, by_recognizer(f"{_VOICE.value}+face-base", films), command),
        row(of_films, "fer", films, by_fer(films), command),
    ]
    for one in rows:
        print(*(one[name] for name in ("what", "system", "clips", "without_answer", "uar", "war")))
    with (pathlib.Path(__file__).parent / "peers.csv").open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    app.run(main)
