"""A model that is not trained, a recogniser with it, and detectors that find what a test wants."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from films import faces
from fusion_emotion import config as config_
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.models.batch import batch_spec
from fusion_emotion.models.create import create_model
from fusion_emotion.models.weights import FOLDER, save_model
from fusion_emotion.predict.recognizer import Recognizer
from fusion_emotion.prepare.detectors import Faces

PROTOCOL = {"name": "kfold", "speaker_independent": True, "meaning": "", "fold": 0, "split_seed": 0}
ABOUT = {
    "label_names": list(LABEL_NAMES),
    "modalities": "audio+video",
    "trained_on": "a corpus of tests",
    "licence": "CC0",
    "commit": "c0ffee",
    "temperature": 0.5,
    "training": {"loudness_dbfs": [-60.0, 0.0], "face_px": [10.0, 1000.0]},
    "numbers": {"protocol": PROTOCOL, "clips": 32, "speakers": 2, "uar": 0.5, "chance_uar": 0.125},
}


def model(workdir: pathlib.Path, *, about: Mapping[str, Any] = ABOUT, **changes: Any) -> pathlib.Path:
    """The workdir of a model with random weights; `changes` name fields with two underscores for a dot."""
    values = {"prepare__face_size": 32, "prepare__detector": "centerface", **changes}
    given = config_.dotted(config_.defaults().to_dict()) | {k.replace("__", "."): v for k, v in values.items()}
    config = config_.completed(given)
    net = create_model(config, n_classes=8)
    zeros = {name: jax.numpy.zeros(field.shape, field.dtype) for name, field in batch_spec(config).items()}
    variables: Mapping[str, Any] = net.init(jax.random.key(0), zeros, train=False)
    # Larger weights of the head, so that windows differ.
    louder = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 8 if "Dense_0" in str(path[1]) else x, dict(variables)
    )
    save_model(workdir / FOLDER, louder, config, about)
    return workdir


def recognizer(workdir: pathlib.Path, finder: Any = None, **settings: Any) -> Recognizer:
    """A recogniser with a detector of the test's own."""
    loaded = Recognizer.load(workdir, **settings)
    loaded._detector = finder
    return loaded


class Detects:
    """A detector of the boxes that a function makes of a frame's mean brightness."""

    def __init__(self, boxes: Callable[[float], list[np.ndarray]]):
        self._boxes = boxes

    def __call__(self, frame: np.ndarray) -> Faces:
        """Return the faces of a frame."""
        return faces(*self._boxes(float(frame.mean())))
