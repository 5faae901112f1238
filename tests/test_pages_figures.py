"""Every figure renders, to the same bytes for the same input, and leaves matplotlib as it was."""

import base64
import io
import subprocess
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fusion_emotion.pages import figures, pictures

BINS = {"ece": 0.1, "confidence": [None, 0.7], "accuracy": [None, 0.6], "count": [0, 5]}
FACES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
SOUND = np.random.default_rng(0).integers(-999, 999, 9_600).astype(np.int16)
CELLS = np.random.default_rng(0).normal(size=(38, 80))
HZ = np.linspace(80, 8000, 80)
PLACE = {"start_s": 1.0, "length_s": 0.6}

DRAWN: dict[str, Callable[[], Figure]] = {
    "confusion": lambda: figures.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], unit="clips"),
    "recalls": lambda: figures.recalls([0.9, None], [4, 0], ["a", "b"], chance=0.5, unit="clips"),
    "curves": lambda: figures.curves({"a": ([1, 2], [3, 4]), "b": ([], [])}, ylabel="y", chosen_epoch=1.5, top=9),
    "histogram": lambda: figures.histogram(np.array([1.0] * 5000 + [0.0]), xlabel="x", span=(0, None)),
    "equal values": lambda: figures.histogram(np.array([-40.0, -40.0]), xlabel="x"),
    "scores": lambda: figures.scores(
        {"g": [figures.Score(title="t", value=0.5, interval=[0.4, 0.6], runs=[0.5], chance=0.1, mark=0)]}, xlabel="x"
    ),
    "marks": lambda: figures.marks({"a": [0.5, None]}, ["x", "y"], xlabel="x", line=("human", 0.6)),
    "over_folds": lambda: figures.over_folds({"a": [(0, 0.5), (3, 0.6)]}, ylabel="y"),
    "reliability": lambda: figures.reliability({"before": BINS, "after": BINS}, temperature="1.5"),
    "degradation": lambda: figures.degradation(
        {"a": [(0.5, [0.4, 0.6]), (0.2, None)]}, ["0", "1"], chance=0.1, level=("b", 0.3), xlabel="x", ylabel="y"
    ),
    "scatter": lambda: figures.scatter(np.eye(2), ["a", "b"], ["a", "b"], shares=np.array([0.5, 0.2])),
    "example": lambda: pictures.example(FACES, SOUND, **PLACE, missing=["nothing else"]),
    "long example": lambda: pictures.example(None, np.tile(SOUND, 20), start_s=0.0, length_s=12.0),
    "explanation": lambda: pictures.explanation(
        faces=FACES, heat=np.ones((2, 6)), log_mel_db=CELLS, relevance=CELLS, centres_hz=HZ, **PLACE
    ),
    "nothing to explain": lambda: pictures.explanation(
        faces=None, heat=np.zeros((2, 6)), log_mel_db=None, relevance=0 * CELLS, centres_hz=HZ, **PLACE
    ),
    "sound": lambda: pictures.sound(SOUND),
    "silence": lambda: pictures.sound(np.zeros(1, np.int16)),
    "log_mel": lambda: pictures.log_mel(CELLS, centres_hz=HZ, span_db=(-60, 0), length_s=0.6),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_renders_to_the_same_bytes_each_time(name: str) -> None:
    uri = figures.svg_uri(DRAWN[name]())
    assert b"</svg>" in base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,"))
    assert figures.svg_uri(DRAWN[name]()) == uri


def test_matplotlib_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = figures.svg_uri(DRAWN["recalls"]())
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 23.0)
    monkeypatch.setitem(matplotlib.rcParams, "figure.facecolor", "black")
    before = dict(matplotlib.rcParams)
    assert figures.svg_uri(DRAWN["recalls"]()) == plain
    assert dict(matplotlib.rcParams) == before
    program = "import sys; from fusion_emotion.pages import pictures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_spectrogram_of_a_tone_and_of_silence() -> None:
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)).astype(np.int16)
    db = pictures.spectrogram_db(tone)
    assert db.shape == (257, 126)
    assert db.max() == 0
    # 32 bins of 31.25 Hz are 1 kHz.
    assert {*db[:, 5:-5].argmax(axis=0)} == {32}
    assert np.isfinite(pictures.spectrogram_db(np.zeros(16_000, np.int16))).all()


def test_a_strip_holds_the_pixels_of_the_faces_side_by_side_and_a_large_one_is_made_smaller() -> None:
    for side, height in ((64, 64), (512, 96)):
        faces = np.full((2, side, side, 3), (200, 100, 50), np.uint8)
        faces[1] = (50, 100, 200)
        uri = pictures.strip_uri(faces)
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        assert picture.shape == (height, 2 * height, 3)
        # The two colours run into each other where the faces meet.
        assert np.abs(picture[:, : height - 16] - np.array([200.0, 100, 50])).max() <= 4
        assert np.abs(picture[:, height + 16 :] - np.array([50.0, 100, 200])).max() <= 4
