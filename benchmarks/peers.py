"""How well a package that people use today names the emotions of the clips that this project is measured on.

    PYTHONPATH=. python benchmarks/peers.py KIND FOLDER "TITLE OF THE CLIPS" --fer_python=PATH
    PYTHONPATH=. python benchmarks/peers.py ravdess FOLDER "TITLE OF THE CLIPS" --face=MODEL --voice=WORKDIR

KIND is ferplus, the test part of FER+ (majority label, eight labels), or ravdess or cremad, films of these (seven
labels, calm counts as neutral). `--fer_python` is the Python of an environment with the package `fer`, as its page
says: pip install fer tensorflow-cpu "moviepy<2" "setuptools<81". Its network was trained on the training part of
FER2013, whose pictures are those of FER+ under other labels. Of a film it sees five frames a second, and the mean of
its answers counts; a clip without a face counts as wrong. `--face` is `face-base` with a head for films that was fitted
to none of the people (--mode=films); results/faces.csv has `face-base` on FER+. `--voice` is a training that heard none
of them; with both there is also the voice with the face, joined as in `av-base`. It prints rows of
results/peers.csv.
"""

import csv
import functools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

from fusion_emotion import Recognizer
from fusion_emotion.corpora import catalogue, labels
from fusion_emotion.corpora.corpus import Wanted
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import metrics
from fusion_emotion.evaluate.results import surroundings
from fusion_emotion.models.weights import load_model

_FER = flags.DEFINE_string("fer_python", "", "Python of an environment with fer.")
_FACE = flags.DEFINE_string("face", "", "A model of faces whose head for films was fitted to none of the people.")
_VOICE = flags.DEFINE_string("voice", "", "Workdir of a voice that heard none of the people of the films.")
_INSIGHTFACE = flags.DEFINE_string("insightface_root", "~/.insightface", "Root of InsightFace's packs.")
_SETS = {
    "ferplus": "neutral, happy, surprised, sad, angry, disgust, fearful, contempt",
    "ravdess": "basic7",
    "cremad": "basic7",
}

FER = """
import json, sys
import cv2
from fer.fer import FER
finder = FER()
for path in json.load(sys.stdin):
    film, number, totals = cv2.VideoCapture(path), 0, {}
    every = max(1, round((film.get(cv2.CAP_PROP_FPS) or 5) / 5))
    while True:
        there, frame = film.read()
        if not there:
            break
        number += 1
        if (number - 1) % every:
            continue
        # A picture of FER+ is a face already; fer adds 10 px on each side of a box.
        whole = [(10, 10, 28, 28)] if frame.shape[:2] == (48, 48) else None
        for face in finder.detect_emotions(frame, face_rectangles=whole)[:1]:
            for emotion, share in face["emotions"].items():
                totals[emotion] = totals.get(emotion, 0.0) + float(share)
    print("answer", json.dumps([path, max(totals, key=totals.get) if totals else ""]), flush=True)
"""


def of_fer(paths: Sequence[str]) -> list[str]:
    """Return what `fer` says of each clip, "" where it finds no face."""
    ran = subprocess.run([_FER.value, "-c", FER], input=json.dumps(paths), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    said = dict(json.loads(line[7:]) for line in ran.stdout.splitlines() if line.startswith("answer "))
    return [labels.known_word(said[path]) for path in paths]


def of_model(name: str, paths: Sequence[str]) -> list[str]:
    """Return what a model, or two joined by +, says of each clip, "" where it finds nothing to judge."""
    recognizer = Recognizer.load(name, insightface_root=_INSIGHTFACE.value)
    said = []
    for path in paths:
        try:
            told = recognizer(path)
        except UserError:
            said.append("")
        else:
            said.append(told.label_names[int(np.argmax(told.main.mean))])
    return said


System = tuple[str, str, Callable[[Sequence[str]], list[str]]]


def systems(kind: str) -> dict[str, System]:
    """Return, for each system, what it was trained on, the flag of its command, and what gives its answers."""
    chosen: dict[str, System] = {}
    if _FER.value:
        chosen["fer"] = ("FER2013", "--fer_python=PYTHON", of_fer)
    seen = heard = ""
    if _FACE.value:
        films = load_model(_FACE.value).about.get("films")
        if not films or kind == "ferplus":
            raise SystemExit("--face is a folder of --mode=films, for clips of films")
        seen = f"FER+; films of other people of {films['trained_on']}"
        chosen["face-base"] = (seen, f"--face={_FACE.value}", functools.partial(of_model, _FACE.value))
    if _VOICE.value:
        heard = f"other people of {load_model(_VOICE.value).about['trained_on']}"
        chosen["voice"] = (heard, f"--voice={_VOICE.value}", functools.partial(of_model, _VOICE.value))
    if _FACE.value and _VOICE.value:
        flag, both = f"--face={_FACE.value} --voice={_VOICE.value}", f"{_VOICE.value}+{_FACE.value}"
        chosen["voice + face-base"] = (f"{heard}; {seen}", flag, functools.partial(of_model, both))
    return chosen


def main(argv: list[str]) -> None:
    """Print a row for each system."""
    kind, folder, title = argv[1:]
    judges = systems(kind)
    if not judges:
        raise SystemExit("nothing to judge by: set --fer_python, --face or --voice")
    corpus = catalogue.corpus(kind)
    classes = labels.parse(_SETS[kind])
    wanted = Wanted(audio_alone=False, channel="speech")
    clips = [
        clip for clip in catalogue.find_clips(corpus, pathlib.Path(folder), wanted).clips if clip.split in ("", "test")
    ]
    true = [classes.of(clip.emotion) for clip in clips]
    paths = [str(clip.path) for clip in clips]
    around = surroundings()
    out = csv.writer(sys.stdout)
    measured = ("clips", "answered", "uar", "war", "chance_uar")
    out.writerow(("peer", "trained_on", "corpus", *measured, "machine", "devices", "date", "command"))
    for name, (trained_on, flag, answers_of) in judges.items():
        said = answers_of(paths)
        # One class more, for no answer and for what is no label here.
        none = len(classes.names)
        answers = [none if (label := classes.of(word)) is None else label for word in said]
        confusion = metrics.confusion_matrix(np.array(true), np.array(answers), none + 1)
        scores = (f"{float(measure(confusion)):.4f}" for measure in (metrics.uar, metrics.war, metrics.chance_level))
        command = f'PYTHONPATH=. python benchmarks/peers.py {kind} FOLDER "{title}" {flag}'
        row = (
            name,
            trained_on,
            title,
            len(clips),
            sum(map(bool, said)),
            *scores,
            around["machine"],
            "; ".join(around["devices"]),
        )
        out.writerow((*row, around["date"], command))


if __name__ == "__main__":
    app.run(main)
