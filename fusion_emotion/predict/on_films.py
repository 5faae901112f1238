"""A model of single faces, trained on pictures, as it judges films."""

from typing import Any

import numpy as np
from jaxtyping import Float

from fusion_emotion.models.batch import Batch
from fusion_emotion.models.films import as_of_films, is_of_pictures, sees_single_faces
from fusion_emotion.models.weights import LoadedModel
from fusion_emotion.predict.windows import Model

_LEAST = 1e-12  # probability


class OnFilms(Model):
    """A model of single faces that judges the frames of films, by another last layer (`models.films`)."""

    def __init__(self, loaded: LoadedModel, *, temperature: float, batch_size: int | None = None):
        super().__init__(as_of_films(loaded, temperature=temperature), batch_size=batch_size)
        self.loaded, self._temperature = loaded, temperature
        self.about: dict[str, Any] = {**self.about, "temperature": 1.0}
        if of := self.about.get("films"):
            licence = f"{of['licence']}; {self.about['licence']}"
            self.about |= {"trained_on": f"{of['trained_on']}, after {self.about['trained_on']}", "licence": licence}
            self.about["numbers"] = of["numbers"]

    def with_batch_size(self, batch_size: int) -> "OnFilms":
        """The same model, compiled for another number of windows."""
        return OnFilms(self.loaded, temperature=self._temperature, batch_size=batch_size)

    def __call__(self, examples: list[Batch]) -> Float[np.ndarray, "n classes"]:
        """The log-probabilities of examples."""
        return log(np.exp(super().__call__(examples).astype(float))).astype(np.float32)


def judge_of_films(model: Model, *, temperature: float, joined: bool = False) -> Model:
    """Return the model as it judges films: another one if it sees single faces only, and was trained on pictures.

    One that was trained on films keeps its own temperature, and is over the shares of its labels only if it is `joined`
    to a voice, which has them too.
    """
    of_pictures = is_of_pictures(model.about)
    if not sees_single_faces(model.loaded.config) or not (of_pictures or joined):
        return model
    return OnFilms(model.loaded, temperature=temperature if of_pictures else float(model.about["temperature"]))


def log(probability: Float[np.ndarray, "*n classes"]) -> Float[np.ndarray, "*n classes"]:
    """The logarithm of probabilities, each at least 1e-12 and in sum one."""
    kept = np.maximum(probability, _LEAST)
    return np.log(kept / kept.sum(axis=-1, keepdims=True))
