"""A model of voices and a model of single faces that judge together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fusion_emotion.corpora import labels
from fusion_emotion.errors import UserError
from fusion_emotion.models.batch import Batch
from fusion_emotion.predict.on_films import log
from fusion_emotion.predict.prediction import softmax
from fusion_emotion.predict.windows import Model, example

_SHARED = "basic7"  # the labels of two models that have not the same ones
_TOLD = ("trained_on", "licence", "modalities", "commit", "date", "numbers", "parts", "label_names")


class Joint:
    """Two models as one, by their calibrated log-probabilities.

    log p = log p_voice + face_weight * s * log p_face, normalised: s is the share of the window's steps that show the
    face. Where one is missing the other answers alone. A face is judged once, though it is in many windows. Raises
    UserError for models that do not fit each other.
    """

    sees = hears = True
    needs_speech = True  # or the model of the voice would have the say about silence and noise

    def __init__(self, voice: Model, face: Model, *, face_weight: float):
        if not voice.hears or voice.sees or not face.sees or face.hears or face.n_frames != 1:
            raise UserError("two models judge together if the first hears only, and the second sees single faces only")
        shared = labels.parse(_SHARED)
        if voice.label_names == face.label_names:
            shared = labels.own_labels(voice.label_names)
        self._voice, self._face, self._face_weight = voice, face, face_weight
        self._of_voice, self._of_face = (_places(model.label_names, shared) for model in (voice, face))
        self.label_names = shared.names
        self.prepare, self.face_size = face.prepare, face.face_size
        self.n_frames, self.n_heard = voice.n_frames, voice.n_heard
        self.about: Mapping[str, Any] = _about(voice.about, face.about, self.label_names)
        self._said: dict[bytes, Float[np.ndarray, "classes"]] = {}  # of the faces of the newest examples

    def with_batch_size(self, batch_size: int) -> "Joint":
        """The same models, compiled for another number of windows."""
        # Whoever is seen in a window is judged with the same sound.
        voice = self._voice.with_batch_size(max(1, batch_size // 4))
        return Joint(voice, self._face.with_batch_size(batch_size), face_weight=self._face_weight)

    def warm_up(self) -> None:
        """Compile."""
        self._voice.warm_up()
        self._face.warm_up()

    def __call__(self, examples: list[Batch]) -> Float[np.ndarray, "n classes"]:
        """The log-probabilities of examples."""
        if not examples:
            return np.zeros((0, len(self.label_names)), np.float32)
        by_voice, by_face = self._voices(examples), self._faces(examples)
        heard = np.array([bool(one["has_audio"]) for one in examples])
        found = np.array([one["face_found"].sum() / one["n_frames"] for one in examples])
        both = by_voice + self._face_weight * found[:, None] * by_face
        return log(softmax(np.where(heard[:, None], both, by_face))).astype(np.float32)

    def _voices(self, examples: Sequence[Batch]) -> Float[np.ndarray, "n labels"]:
        """What the voice says, zero where there is none; a sound that several faces are judged with is heard once."""
        heard = [one["waveform"][: int(one["n_samples"])] if one["has_audio"] else None for one in examples]
        keys = [None if sound is None else sound.tobytes() for sound in heard]
        sounds = {
            key: example(self._voice, None, sound, 1)
            for key, sound in zip(keys, heard, strict=True)
            if key is not None and sound is not None
        }
        said = dict(zip(sounds, _calibrated(self._voice, list(sounds.values()), self._of_voice), strict=True))
        nothing = np.zeros(len(self.label_names))
        return np.stack([nothing if key is None else said[key] for key in keys])

    def _faces(self, examples: Sequence[Batch]) -> Float[np.ndarray, "n labels"]:
        """What the faces of each window say in the mean, zero where there is none."""
        keys: list[list[bytes]] = []
        new: dict[bytes, Batch] = {}
        for one in examples:
            found = [crop for crop, is_found in zip(one["faces"], one["face_found"], strict=True) if is_found]
            keys.append([crop.tobytes() for crop in found])
            for key, crop in zip(keys[-1], found, strict=True):
                if key not in self._said and key not in new:
                    new[key] = example(self._face, (crop[None], np.ones(1, bool)), np.zeros(0, np.int16), 1)
        said = dict(zip(new, _calibrated(self._face, list(new.values()), self._of_face), strict=True))
        self._said = {key: said[key] if key in said else self._said[key] for of_one in keys for key in of_one}
        nothing = np.zeros(len(self.label_names))
        return np.stack([np.mean([self._said[k] for k in of_one], axis=0) if of_one else nothing for of_one in keys])


def _places(names: Sequence[str], shared: labels.Labels) -> Bool[np.ndarray, "own shared"]:
    """Return which of a model's labels count as which shared one. Raises UserError if a shared one has none."""
    places = np.array([[shared.of(name) == label for label in range(len(shared.names))] for name in names])
    if lacking := [name for label, name in enumerate(shared.names) if not places[:, label].any()]:
        raise UserError(f"a model that says {', '.join(names)} cannot judge with another: it lacks {lacking[0]}")
    return places


def _calibrated(
    model: Model, examples: list[Batch], places: Bool[np.ndarray, "own shared"]
) -> Float[np.ndarray, "n shared"]:
    """Return the log-probabilities of the shared labels, after the model's temperature."""
    return log(softmax(model(examples).astype(float) / float(model.about["temperature"])) @ places)


def _about(voice: Mapping[str, Any], face: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, Any]:
    """Return what model.json would say of the two."""
    return {
        "label_names": list(label_names),
        "modalities": "audio+video",
        "trained_on": f"{voice['trained_on']} (the voice) and {face['trained_on']} (the face)",
        "licence": f"{voice['licence']} (the voice); {face['licence']} (the face)",
        "temperature": 1.0,
        "training": {
            "loudness_dbfs": voice.get("training", {}).get("loudness_dbfs"),
            "face_px": face.get("training", {}).get("face_px"),
        },
        "parts": {name: described(part) for name, part in (("voice", voice), ("face", face))},
    }


def described(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a prediction tells of its model, whose model.json is `about`."""
    return {name: about[name] for name in _TOLD if name in about}
