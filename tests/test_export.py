"""An exported model gives the network's numbers, in a program without JAX too."""

import importlib.metadata
import json
import os
import subprocess
import sys

import jax
import jax.export
import numpy as np
import onnxruntime
import pytest
import soundfile

import predict_kit
from conftest import ROOT, settings_of
from films import OneFace, clip_of, film
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import cut
from fusion_emotion.models import export
from fusion_emotion.models.export import export_model
from fusion_emotion.models.frontend import log_mel
from fusion_emotion.models.weights import load_model
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.detectors import create_detector
from launch_kit import launch, refused

pytest.importorskip("jax2onnx", reason="requirements-export.txt is not installed")


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """The files of a model, as ONNX and as StableHLO."""
    folder = tmp_path_factory.mktemp("exported")
    paths = [folder / f"model{suffix}" for suffix in (".onnx", ".stablehlo")]
    for path in paths:
        assert export_model(load_model(workdir), path) <= 1e-5
    return paths


@pytest.fixture(scope="module")
def windows(tmp_path_factory, workdir):
    """The windows of a film, and what the recogniser says of them."""
    folder = tmp_path_factory.mktemp("film")
    path = film(folder / "a.mp4", seconds=3)
    settings = settings_of(folder, face_size=32, decoder="cpu", provider="cpu")
    row, record = prepare_clip(clip_of(path), settings, OneFace())
    examples = [cut(record, start, 5, pad_to=5) for start in range(row.n_frames - 4)]
    told = predict_kit.recognizer(workdir, OneFace())(path)
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    return {name: batch[name] for name in ("faces", "face_found", "waveform")} | {"has_sound": batch["has_audio"]}, told


def test_onnx_gives_the_probabilities_of_the_recogniser(exported, windows):
    given, told = windows
    session = onnxruntime.InferenceSession(str(exported[0]))
    np.testing.assert_allclose(np.exp(session.run(None, given)[0]), told.main.probability, atol=2e-5)
    one = {name: values[:1] for name, values in given.items()}
    np.testing.assert_allclose(np.exp(session.run(None, one)[0]), told.main.probability[:1], atol=2e-5)


def test_stablehlo_gives_the_probabilities_of_the_recogniser(exported, windows):
    given, told = windows
    call = jax.export.deserialize(bytearray(exported[1].read_bytes())).call
    order = [field["name"] for field in json.loads((exported[1].parent / "model.stablehlo.json").read_text())["inputs"]]
    np.testing.assert_allclose(np.exp(call(*(given[name] for name in order))), told.main.probability, atol=2e-5)


def test_both_give_the_networks_probabilities_of_real_clips(exported, workdir, real_data, tmp_path):
    """To 1e-5, on all windows of two clips of RAVDESS, with and without the face, with and without the sound."""
    settings = settings_of(tmp_path, face_size=32, decoder="cpu", provider="cpu")
    detector, examples = create_detector(settings), []
    for path in sorted((real_data / "data" / "ravdess" / "Actor_05").glob("01-*.mp4"))[::7]:
        row, record = prepare_clip(clip_of(path), settings, detector)
        examples += [cut(record, start, 5, pad_to=5) for start in range(row.n_frames - 4)]
    assert len(examples) > 20
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    assert batch["face_found"].all()
    batch["face_found"][::5], batch["has_video"][::5], batch["has_audio"][1::5] = False, False, False
    batch |= {"n_frames": np.full(len(examples), 5, np.int32), "mask": np.ones(len(examples), bool)}
    loaded = load_model(workdir)
    variables, arrays = jax.tree.map(jax.numpy.asarray, (dict(loaded.variables), batch))
    logits = loaded.net.apply(variables, arrays, train=False)
    expected = jax.nn.softmax(logits / predict_kit.ABOUT["temperature"])
    assert np.ptp(expected, axis=0).max() > 0.01
    given = {name: batch[name] for name in ("faces", "face_found", "waveform")} | {"has_sound": batch["has_audio"]}
    session = onnxruntime.InferenceSession(str(exported[0]))
    np.testing.assert_allclose(np.exp(session.run(None, given)[0]), expected, rtol=0, atol=1e-5)
    call = jax.export.deserialize(bytearray(exported[1].read_bytes())).call
    order = [field["name"] for field in json.loads((exported[1].parent / "model.stablehlo.json").read_text())["inputs"]]
    np.testing.assert_allclose(np.exp(call(*(given[name] for name in order))), expected, rtol=0, atol=1e-5)


def test_the_description_says_what_goes_in(exported):
    about = json.loads((exported[0].parent / "model.onnx.json").read_text())
    assert (about["window_s"], about["face_margin"], about["faces_levelled"]) == (1.0, 0.05, False)
    assert about["label_names"] == predict_kit.ABOUT["label_names"]
    assert {field["name"]: field["shape"] for field in about["inputs"]} == {
        "faces": ["batch", 5, 32, 32, 3],
        "face_found": ["batch", 5],
        "waveform": ["batch", 16_000],
        "has_sound": ["batch"],
    }


def test_the_spectrum_by_matrices_is_that_of_the_fft():
    sound = jax.numpy.asarray(np.random.default_rng(0).normal(size=(2, 8000)), np.float32)
    np.testing.assert_allclose(log_mel(sound, fft=False), log_mel(sound), atol=2e-3)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_model_of_one_modality(tmp_path, modality):
    loaded = load_model(predict_kit.model(tmp_path, model__modalities=modality))
    assert export_model(loaded, tmp_path / "model.stablehlo") <= 1e-5
    about = json.loads((tmp_path / "model.stablehlo.json").read_text())
    names = {"audio": ["waveform", "has_sound"], "video": ["faces", "face_found"]}
    assert [field["name"] for field in about["inputs"]] == names[modality]


def test_the_example_runs_without_jax(exported, tmp_path):
    time_s = np.arange(5 * 16_000) / 16_000
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 220 * time_s), 16_000)
    # A finder that refuses what a machine without this project does not have.
    code = f"""
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"jax", "jaxlib", "flax", "fusion_emotion", "soundfile", "av"}}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = ["onnx_voice.py", {str(exported[0])!r}, {str(tmp_path / "a.wav")!r}]
runpy.run_path({str(ROOT / "examples" / "onnx_voice.py")!r}, run_name="__main__")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [f"{0.2 * i:.1f}" for i in range(21)]  # of one batch and of another
    assert all(line.split()[2] in predict_kit.ABOUT["label_names"] for line in lines)


@pytest.mark.slow
def test_the_example_runs_where_only_its_two_packages_are(exported, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "alone")], check=True, timeout=120)
    python = str(tmp_path / "alone" / "bin" / "python")
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "onnxruntime")]
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True, timeout=600
    )
    if installed.returncode:
        pytest.skip(f"pip cannot install numpy and onnxruntime: {installed.stderr.strip().splitlines()[-1]}")
    time_s = np.arange(24_000) / 16_000
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 220 * time_s), 16_000)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(ROOT / "examples" / "onnx_voice.py"), str(exported[0]), str(tmp_path / "a.wav")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 3
    without = subprocess.run([python, "-c", "import jax"], capture_output=True, text=True, timeout=60, env=environment)
    assert "ModuleNotFoundError" in without.stderr


def test_a_jax_that_jax2onnx_cannot_read_is_told(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    with pytest.raises(UserError, match=r"requirements-export\.txt, or name a file \*\.stablehlo"):
        export_model(load_model(workdir), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(workdir, tmp_path):
    with pytest.raises(UserError, match=r"\.onnx or \.stablehlo"):
        export_model(load_model(workdir), tmp_path / "model.tflite")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model=MODEL"], ["--output", ".stablehlo"]),
        (["--model=MODEL", "--output=/proc/none/model.stablehlo"], ["--output", "another folder"]),
        (["--model=docs", "--output=model.onnx"], ["docs", "model.json"]),
    ],
)
def test_wrong_flags(workdir, flags, words):
    refused(launch("--mode=export", *(flag.replace("MODEL", str(workdir)) for flag in flags)), *words)


def test_the_windows_of_a_recording_are_compared(workdir, tmp_path, monkeypatch):
    def wrong_on_windows(loaded, names, path):
        path.write_bytes(b"")
        right = jax.jit(export._function(loaded, names, fft=True))
        return lambda *values: right(*values) * (0.9 if len(values[0]) == 1 else 1)

    told = predict_kit.recognizer(workdir, OneFace())
    clip = str(film(tmp_path / "a.mp4", seconds=2))
    assert told.export(tmp_path / "model.stablehlo", clip) <= 1e-5
    monkeypatch.setattr(export, "_to_stablehlo", wrong_on_windows)
    export_model(load_model(workdir), tmp_path / "noise.stablehlo")
    with pytest.raises(UserError, match="differs from JAX"):
        told.export(tmp_path / "windows.stablehlo", clip)
    assert not (tmp_path / "windows.stablehlo").exists()
    with pytest.raises(UserError, match=r"nothing\.mp4"):
        told.export(tmp_path / "model.stablehlo", str(tmp_path / "nothing.mp4"))


@pytest.mark.slow
def test_the_command(workdir, tmp_path):
    ran = launch("--mode=export", f"--model={workdir}", f"--output={tmp_path / 'model.onnx'}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("exported ")
    assert len(ran.stdout.splitlines()) == 1
    assert "DEBUG" not in ran.stderr
    assert "Traceback" not in ran.stderr
