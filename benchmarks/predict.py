"""Prediction of films of 720p, against real time, against the package `fer` and against a plain recipe, in one run.

    PYTHONPATH=. python benchmarks/predict.py FOLDER [MODEL] [--insightface_root=DIR] [--minutes=1,10,60]
        [--fer_python=PATH]

FOLDER holds mp4 files; MODEL is a released model or the workdir of a finished training. The long films are one clip
over and over, copied without encoding into a temporary folder (77 MB a minute). Each measurement is a process of its
own, which prints the length of the film over the time, and its peak memory above that at its start. `--fer_python` is
the Python of an environment with `fer`: pip install fer tensorflow-cpu "moviepy<2" "setuptools<81". The plain recipe is
OpenCV, SCRFD at 640 px on every full frame, and `face-base` once a frame. Both peers read 300 frames.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import av
from absl import app, flags

from fusion_emotion.config import RELEASED_MODEL

_ROOT = flags.DEFINE_string("insightface_root", "~/.insightface", "Folder of InsightFace's packs.")
_MINUTES = flags.DEFINE_list("minutes", ["1", "10"], "Lengths of the films.")
_FER = flags.DEFINE_string("fer_python", "", "Python of an environment with fer; empty: leave it out.")
_LAUNCH = pathlib.Path(__file__).parents[1] / "launch.py"

OURS = """
import json, sys, tempfile, time
began = time.perf_counter()
from fusion_emotion import Recognizer
from benchmarks.predict import peak_mb
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
recognizer = Recognizer.load(sys.argv[2], insightface_root=sys.argv[6])
recognizer(sys.argv[4])
ready_s, start_mb = time.perf_counter() - began, peak_mb()
began = time.perf_counter()
seconds = 0.0
for path in json.loads(sys.argv[1]):
    told = recognizer(path)
    seconds += told.duration_s
    if sys.argv[5]:
        told.save(tempfile.mkdtemp(), [sys.argv[5]])
spent = time.perf_counter() - began
print(json.dumps({"x": seconds / spent, "ready_s": ready_s, "above_mb": peak_mb() - start_mb, "start_mb": start_mb}))
"""

PLAIN = """
import json, sys, time
import cv2, numpy as np
from fusion_emotion.models.weights import load_model
from fusion_emotion.models.batch import batch_spec, noise
from fusion_emotion.predict.recognizer import find
from fusion_emotion.predict.windows import Model
from insightface.model_zoo import get_model
import glob
found = get_model(glob.glob(sys.argv[2] + "/models/*/det_*.onnx")[0])
found.prepare(-1, input_size=(640, 640))
loaded = load_model(find("face-base")[0])
model = Model(loaded)
example = {name: value[0] for name, value in noise(batch_spec(loaded.config), n_classes=8).items()}
model([example])
began, n, film = time.perf_counter(), 0, cv2.VideoCapture(json.loads(sys.argv[1])[0])
while n < 300:
    there, frame = film.read()
    if not there:
        break
    boxes, _ = found.detect(frame)
    for box in boxes[:1]:
        left, top, right, bottom = box[:4].astype(int)
        face = cv2.resize(frame[max(0, top):bottom, max(0, left):right], (model.face_size,) * 2)
        model([{**example, "faces": np.stack([face] * model.n_frames)}])
    n += 1
print(json.dumps({"x": n / film.get(cv2.CAP_PROP_FPS) / (time.perf_counter() - began)}))
"""

FER = """
import json, sys, time
import cv2
from fer.fer import FER
found = FER()
began, n, film = time.perf_counter(), 0, cv2.VideoCapture(json.loads(sys.argv[1])[0])
while n < 300:
    there, frame = film.read()
    if not there:
        break
    found.detect_emotions(frame)
    if not n:
        began, n = time.perf_counter(), 0  # without the first call
    n += 1
print(json.dumps({"x": n / film.get(cv2.CAP_PROP_FPS) / (time.perf_counter() - began)}))
"""


def peak_mb() -> float:
    """Return the peak of this process's memory, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) / 1024 if match else 0.0


def repeated(source: pathlib.Path, target: pathlib.Path, seconds: float) -> pathlib.Path:
    """Copy the packets of a film over and over, until it lasts `seconds`."""
    with av.open(str(source)) as first, av.open(str(target), "w") as out:
        tracks = [first.streams.video[0], first.streams.audio[0]]
        length_s = max(float((track.duration or 0) * (track.time_base or 0)) for track in tracks)
        written = {track.index: out.add_stream_from_template(track) for track in tracks}
        for number in range(max(1, round(seconds / length_s))):
            with av.open(str(source)) as again:
                for packet in again.demux(again.streams.video[0], again.streams.audio[0]):
                    if not packet.size or packet.dts is None or packet.pts is None:
                        continue
                    if number and packet.pts < 0:  # of a sound's encoder, before its begin
                        continue
                    shift = round(number * length_s / float(packet.time_base))
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = written[packet.stream.index]
                    out.mux(packet)
    return target


def measured(program: str, paths: list[pathlib.Path], *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run a program on films in a process of its own, and return what it measured."""
    command = [python, "-c", program, json.dumps([str(path) for path in paths]), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=_LAUNCH.parent, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    return dict(json.loads(ran.stdout.strip().splitlines()[-1]))


def first_row_s(film: pathlib.Path, model: str, folder: pathlib.Path, root: str) -> float:
    """Return the seconds from the start of the command to its first rows on the disk."""
    command = [
        sys.executable,
        str(_LAUNCH),
        "--mode=predict",
        f"--input={film}",
        f"--model={model}",
        f"--output={folder}",
        f"--config.run.cache={folder.parent / 'cache'}",
        f"--config.run.insightface_root={root}",
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = folder / f".{film.stem}.rows"
    while process.poll() is None and not (rows.exists() and b'"step"' in rows.read_bytes()):
        time.sleep(0.01)
    spent = time.perf_counter() - began
    process.kill()
    process.wait()
    return spent


def main(argv: list[str]) -> None:
    """Print a row for each measurement."""
    folder, model = pathlib.Path(argv[1]), argv[2] if len(argv) > 2 else RELEASED_MODEL
    root = str(pathlib.Path(_ROOT.value).expanduser())
    clips = sorted(folder.rglob("*.mp4"))
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        common = (model, str(place / "compiled"), str(clips[0]))
        measured(OURS, clips[:1], *common, "", root)  # fills the compilation cache
        row = measured(OURS, clips, *common, "", root)
        print(f"{len(clips)} clips of 720p                 {row['x']:5.1f} x real time")
        films = {float(m): repeated(clips[0], place / f"{m}.mp4", 60 * float(m)) for m in _MINUTES.value[:2]}
        shortest = films[min(films)]
        for index in range(2):
            spent = first_row_s(shortest, model, place / f"out{index}", root)
        print(f"first rows after the start       {spent:5.1f} s, with a warm compilation cache")
        for minutes in map(float, _MINUTES.value):
            film = films.get(minutes) or repeated(clips[0], place / "long.mp4", 60 * minutes)
            row = measured(OURS, [film], *common, "", root)
            memory = f"{row['above_mb']:.0f} MB above the {row['start_mb']:.0f} at the start"
            print(f"{minutes:g} min of 720p, tables           {row['x']:5.1f} x real time, {memory}", flush=True)
            film.unlink() if film not in (shortest,) else None
        row = measured(OURS, [shortest], *common, "mp4", root)
        print(f"with the drawing, 720p           {row['x']:5.1f} x real time")
        small = place / "small.mp4"
        with av.open(str(shortest)) as source, av.open(str(small), "w") as out:
            track = out.add_stream("libx264", rate=30, options={"preset": "veryfast"})
            track.width, track.height, track.pix_fmt = 640, 360, "yuv420p"
            for frame in source.decode(video=0):
                out.mux(track.encode(frame.reformat(640, 360)))
            out.mux(track.encode())
        row = measured(OURS, [small], *common, "mp4", root)
        print(f"with the drawing, 360p           {row['x']:5.1f} x real time")
        peers = [("plain recipe", PLAIN, sys.executable)] + [("fer", FER, _FER.value)] * bool(_FER.value)
        for name, program, python in peers:
            row = measured(program, [shortest], root, python=python)
            print(f"{name:<12} 720p                {row['x']:5.2f} x real time")


if __name__ == "__main__":
    app.run(main)
