"""A trained model as files: they stand alone, hold no code, and what does not fit is one line."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from fusion_emotion.errors import UserError
from fusion_emotion.models.batch import batch_spec, noise
from fusion_emotion.models.create import create_model
from fusion_emotion.models.weights import (
    ABOUT,
    FOLDER,
    WEIGHTS,
    load_model,
    read_weights,
    save_model,
    with_loaded_parts,
)
from run_tiny import environment, settings

LABELS = ("calm", "fear", "joy")
CONFIG = settings(model__features=8)
Variables = Mapping[str, Any]


def variables_of(config: Mapping[str, Any], *, seed: int) -> Variables:
    """Noise in the shapes of a config's network, batch statistics included."""
    init = functools.partial(create_model(config, n_classes=len(LABELS)).init, train=False)
    rng = np.random.default_rng(seed)

    def drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.abs(rng.normal(size=leaf.shape)).astype(leaf.dtype) / 10

    return jax.tree.map(drawn, jax.eval_shape(init, jax.random.key(0), batch_spec(config)))


def saved(workdir: pathlib.Path, *, seed: int = 0, **changes: Any) -> pathlib.Path:
    """The workdir of a model of noise."""
    config = settings(model__features=8, **changes)
    save_model(workdir / FOLDER, variables_of(config, seed=seed), config, {"label_names": LABELS, "licence": "CC0"})
    return workdir


def logits(model: Any) -> np.ndarray:
    batch = noise(batch_spec(model.config, batch_size=3), n_classes=len(LABELS))
    return np.asarray(jax.jit(functools.partial(model.net.apply, train=False))(model.variables, batch))


IN_ANOTHER_PROCESS = """
import sys, jax, numpy as np
sys.path.insert(0, "tests")
from test_weights import logits
from fusion_emotion.models.weights import load_model

assert jax.local_device_count() == 2
np.save(sys.argv[2], logits(load_model(sys.argv[1])))
"""


@pytest.mark.parametrize(
    "changes", [{}, {"model__modalities": "audio", "segment__seconds": 3.0}, {"model__modalities": "video"}]
)
def test_a_model_is_what_was_saved(tmp_path: pathlib.Path, changes: dict[str, Any]) -> None:
    """From its workdir or its own folder, wherever that was moved; config and network come with it."""
    config, workdir = settings(model__features=8, **changes), saved(tmp_path / "run", **changes)
    shutil.move(workdir / FOLDER, tmp_path / "elsewhere")
    model = load_model(tmp_path / "elsewhere")
    jax.tree.map(np.testing.assert_array_equal, model.variables, {"batch_stats": {}, **variables_of(config, seed=0)})
    assert (model.label_names, model.about["licence"]) == (LABELS, "CC0")
    assert model.config["model"] == json.loads(json.dumps(config["model"]))
    assert model.net == create_model(config, n_classes=len(LABELS))


def test_its_logits_are_the_same_in_a_process_with_other_devices(tmp_path: pathlib.Path) -> None:
    """To the last bit; no corpus is there."""
    workdir, out = saved(tmp_path / "run"), tmp_path / "logits.npy"
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(workdir), str(out)]
    ran = subprocess.run(command, env=environment(devices=2), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_array_equal(np.load(out), logits(load_model(workdir)))


def test_the_files_hold_no_code(tmp_path: pathlib.Path) -> None:
    folder = saved(tmp_path) / FOLDER
    assert {path.name for path in folder.iterdir()} == {ABOUT, WEIGHTS}
    assert all(name.startswith(("params/", "batch_stats/")) for name in read_weights(folder))
    assert {array.dtype for array in read_weights(folder).values()} == {np.dtype("float32")}


# What does not fit


def spoil_weights(folder: pathlib.Path, name: str, value: np.ndarray | None) -> None:
    arrays = {**read_weights(folder), name: value}
    safetensors.numpy.save_file({key: array for key, array in arrays.items() if array is not None}, folder / WEIGHTS)


def spoil_about(folder: pathlib.Path, **changes: Any) -> None:
    (folder / ABOUT).write_text(json.dumps({**json.loads((folder / ABOUT).read_text()), **changes}))


BIAS = "params/Dense_0/bias"
FAULTS = {
    "no folder": (shutil.rmtree, ABOUT),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
    "weights cut short": (lambda folder: os.truncate(folder / WEIGHTS, 1000), WEIGHTS),
    "no weights but text": (lambda folder: (folder / WEIGHTS).write_text("{}"), WEIGHTS),
    "no json": (lambda folder: (folder / ABOUT).write_text("{"), ABOUT),
    "no text": (lambda folder: (folder / ABOUT).write_bytes(b"\xff\xfe\x00"), ABOUT),
    "a list": (lambda folder: (folder / ABOUT).write_text("[]"), ABOUT),
    "no config": (lambda folder: spoil_about(folder, config={}), ABOUT),
    "newer": (lambda folder: spoil_about(folder, format=99), "newer"),
    "other labels": (lambda folder: spoil_about(folder, label_names=["one"]), BIAS),
    "lacking": (lambda folder: spoil_weights(folder, BIAS, None), f"lacks {BIAS}"),
    "unknown": (lambda folder: spoil_weights(folder, "more", np.zeros(1)), "unknown more"),
    "a shape": (lambda folder: spoil_weights(folder, BIAS, np.zeros(2, np.float32)), BIAS),
    "a type": (lambda folder: spoil_weights(folder, BIAS, np.zeros(3, np.int32)), "int32.*float32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_loaded_is_one_line(tmp_path: pathlib.Path, fault: str) -> None:
    spoil, word = FAULTS[fault]
    spoil(saved(tmp_path, model__modalities="audio") / FOLDER)
    with pytest.raises(UserError, match=f"(?s){tmp_path}.*{word}") as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value)


# Parts of other models


def loaded(
    config: dict[str, Any], labels: Sequence[str] = LABELS, **parts: pathlib.Path
) -> tuple[Variables, Variables]:
    """New variables of a config, and the same with parts of other models."""
    new = variables_of(config, seed=0)
    init = {**config["model"]["init"], **{part: str(path) for part, path in parts.items()}}
    return new, with_loaded_parts(new, {**config, "model": {**config["model"], "init": init}}, label_names=labels)


@pytest.mark.parametrize(("part", "place"), [("audio", "audio"), ("video", "video"), ("head", "Dense_0")])
def test_a_loaded_part_changes_exactly_this_part(tmp_path: pathlib.Path, part: str, place: str) -> None:
    """Of parameters and batch statistics, which only the audio part has."""
    path = saved(tmp_path, seed=1, model__modalities="audio+video" if part == "head" else part)
    other = load_model(path).variables
    new, changed = loaded(CONFIG, **{part: path})
    for collection, parts in new.items():
        assert changed[collection].keys() == parts.keys()
        for name, values in parts.items():
            expected = other[collection][name] if name == place else values
            jax.tree.map(np.testing.assert_array_equal, changed[collection][name], expected)


@pytest.mark.parametrize("modalities", ["audio+video", "video"])
def test_nothing_is_loaded_by_default(modalities: str) -> None:
    new, same = loaded(settings(model__features=8, model__modalities=modalities))
    jax.tree.map(np.testing.assert_array_equal, same, {"batch_stats": {}, **new})


SAME_SHAPES = {"model__mfcc__hop_length": 200, "model__mfcc__fmin": 20.0}


@pytest.mark.parametrize(
    ("part", "saved_as", "labels", "words"),
    [
        ("audio", {"model__lstm_layers": 2}, LABELS, ["unknown", "LSTM_1"]),
        ("audio", {"model__mfcc__n_mfcc": 13}, LABELS, ["13", "40", "n_mfcc"]),
        ("audio", SAME_SHAPES, LABELS, ["hop_length is 200, expected 256", "fmin"]),
        ("audio", {"model__modalities": "video"}, LABELS, ["lacks", "LSTM_0"]),
        ("video", {"model__strip_network": "original"}, LABELS, ["lacks", "patches", "unknown", "Conv_2"]),
        ("head", {"model__modalities": "audio"}, LABELS, ["16", "8"]),
        ("head", {}, ("calm", "joy", "fear"), ["label_names"]),
    ],
)
def test_a_part_that_does_not_fit_is_one_line(
    tmp_path: pathlib.Path, part: str, saved_as: dict[str, Any], labels: Sequence[str], words: list[str]
) -> None:
    path = saved(tmp_path, **saved_as)
    with pytest.raises(UserError, match=f"model.init.{part}={path}") as raised:
        loaded(CONFIG, labels, **{part: path})
    assert all(word in str(raised.value) for word in words)
    assert "\n" not in str(raised.value)


def test_a_part_that_the_new_model_has_not(tmp_path: pathlib.Path) -> None:
    config = settings(model__features=8, model__modalities="video")
    for path in (saved(tmp_path / "both"), saved(tmp_path / "video", model__modalities="video")):
        with pytest.raises(UserError, match=r"model\.init\.audio"):
            loaded(config, audio=path)
    with pytest.raises(UserError, match=str(tmp_path)):
        loaded(config, video=tmp_path)
