"""The models that come with the package give the log-probabilities that they had when they were released.

`PYTHONPATH=. python tests/test_released.py` writes those of new models to data/released.json.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from conftest import ROOT, clips_of
from fusion_emotion.models.batch import Batch, batch_spec
from fusion_emotion.models.export import export_model
from fusion_emotion.models.films import as_of_films
from fusion_emotion.models.weights import LoadedModel, load_model
from fusion_emotion.predict.recognizer import Recognizer, find

EXPECTED = ROOT / "tests" / "data" / "released.json"
NAMES = ("face-base", "voice-base")
ON_FILMS = "face-base on films"
_MOST_BYTES = 8_000_000  # of all together


def examples(loaded: LoadedModel) -> Batch:
    """Two examples: tones that rise and fall with pauses, and pictures of three blurred discs."""
    spec = batch_spec(loaded.config)
    n, side = spec["faces"].shape[1:3]
    time = np.arange(spec["waveform"].shape[1]) / 16_000
    y, x = np.mgrid[:side, :side] / side
    sounds, faces = [], []
    for number in range(2):
        pitch_hz = 120 + 90 * number + 30 * np.sin(2 * np.pi * (0.7 + number) * time)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / 16_000
        tone = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
        sounds.append(3000 * tone * np.clip(np.sin(2 * np.pi * (1.5 + number) * time), 0.001, None))
        discs = [((0.3, 0.35), 0.07), ((0.7, 0.35), 0.07), ((0.5, 0.7 + 0.05 * number), 0.15)]
        dark = sum(np.exp(-((x - left) ** 2 + (y - top) ** 2) / wide**2) for (left, top), wide in discs)
        faces.append(np.broadcast_to((200 - 150 * np.clip(dark, 0, 1))[..., None], (n, side, side, 3)))
    sees = "video" in loaded.about["modalities"]
    whole = {name: np.ones((2, *field.shape[1:]), field.dtype) for name, field in spec.items()}
    return {
        **whole,
        "faces": np.array(faces).astype(np.uint8),
        "waveform": np.array(sounds).astype(np.int16),
        "n_frames": np.full(2, n, np.int32),
        "n_samples": np.full(2, len(time), np.int32),
        "has_video": np.full(2, sees),
        "has_audio": np.full(2, not sees),
    }


def log_probabilities(name: str) -> np.ndarray:
    loaded = load_model(find(name.removesuffix(" on films"))[0])
    if name == ON_FILMS:
        assert loaded.films is not None
        loaded = as_of_films(dataclasses.replace(loaded, about={**loaded.about, "temperature": 1.0}), temperature=2.0)
    apply = jax.jit(functools.partial(loaded.net.apply, train=False))
    logits = apply(jax.tree.map(jnp.asarray, dict(loaded.variables)), examples(loaded))
    return np.asarray(jax.nn.log_softmax(logits / loaded.about["temperature"]))


@pytest.mark.parametrize("name", [*NAMES, ON_FILMS])
def test_a_released_model_says_what_it_said(name: str) -> None:
    expected = np.array(json.loads(EXPECTED.read_text())[name])
    assert np.ptp(expected, axis=0).max() > 0.1  # it tells the two apart
    np.testing.assert_allclose(log_probabilities(name), expected, atol=2e-3)


def test_their_size_and_their_cards() -> None:
    folders = [find(name)[0] for name in NAMES]
    assert sum((folder / "weights.safetensors").stat().st_size for folder in folders) <= _MOST_BYTES
    for folder in folders:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"UAR {100 * about['numbers']['uar']:.1f} %" in card
        assert about["licence"] in card
        assert "Not for" in card
        assert '"/' not in json.dumps(about)  # no path of the machine that made it


def test_a_film_is_judged_by_both_without_a_word(sample_corpus: pathlib.Path) -> None:
    """In a process that sets up nothing."""
    path = clips_of(sample_corpus)[0].path
    program = f"""
from fusion_emotion import Recognizer
told = Recognizer.load()({str(path)!r})
print(",".join(told.label_names), *{{*told.main.modalities}})
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["neutral,happy,sad,angry,fearful,disgust,surprised", "audio+video"]


@pytest.mark.slow
def test_real_takes_of_a_speaker_of_the_training(real_data: pathlib.Path) -> None:
    """A check of the way from file to answer: on people that it knows the voice is mostly right."""
    recognizer = Recognizer.load("voice-base")
    names = {"03": "happy", "04": "sad", "05": "angry", "06": "fearful"}
    takes = sorted((real_data / "data" / "ravdess_speech_16k" / "Actor_01").glob("*-02-01-01-01.flac"))
    wanted = {path: names[path.stem[6:8]] for path in takes if path.stem[6:8] in names}
    assert len(wanted) == 4
    means = {label: recognizer(path).main.mean for path, label in wanted.items()}
    right = [recognizer.label_names[int(mean.argmax())] == label for label, mean in means.items()]
    assert sum(right) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_as_onnx_says_what_jax_says(name: str, sample_corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("jax2onnx", reason="requirements-export.txt is not installed")
    clip = str(clips_of(sample_corpus)[0].path)
    assert Recognizer.load(name).export(tmp_path / f"{name}.onnx", clip) <= 1e-5


@pytest.mark.slow
def test_the_voice_as_onnx_on_real_speech(real_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Speech of 18 people: of some the pauses are digital silence, of others rumble and knocks of the microphone."""
    pytest.importorskip("jax2onnx", reason="requirements-export.txt is not installed")
    loaded = load_model(find("voice-base")[0])
    n = batch_spec(loaded.config)["waveform"].shape[1]
    sounds = [
        soundfile.read(path, dtype="int16", frames=n, fill_value=0)[0]
        for path in sorted((real_data / "data" / "ravdess_speech_16k").glob("Actor_*/*.flac"))[::18]
    ]
    assert len(sounds) == 60
    clips = [{"waveform": sound, "has_audio": np.bool_(True)} for sound in sounds]
    assert export_model(loaded, tmp_path / "voice.onnx", clips) <= 1e-5


if __name__ == "__main__":
    now = {name: np.round(log_probabilities(name).astype(float), 5).tolist() for name in (*NAMES, ON_FILMS)}
    EXPECTED.write_text(json.dumps(now, indent=1) + "\n")
