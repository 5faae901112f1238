"""A model of single pictures as it judges the frames of films: its last layer is another one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusion_emotion.models.weights import PARTS, Head, LoadedModel
from fusion_emotion.units import FRAME_RATE_HZ

_NEVER = -50.0  # logit of a label that training never had


def sees_single_faces(config: Mapping[str, Any]) -> bool:
    """True for the config of a model that sees one frame at a time, and hears nothing."""
    one_frame = round(config["segment"]["seconds"] * FRAME_RATE_HZ) == 1
    return config["model"]["modalities"] == "video" and one_frame


def is_of_pictures(about: Mapping[str, Any]) -> bool:
    """True for a model that was trained on pictures, by its model.json; models of before are."""
    return bool(about.get("training", {}).get("of_pictures", True))


def as_of_films(loaded: LoadedModel, *, temperature: float) -> LoadedModel:
    """Return the model with its head for films in place of the one for pictures: the fitted one, or else `own_head`."""
    head = loaded.films or own_head(loaded, temperature=temperature)
    layer = {"kernel": head.kernel.astype(np.float32), "bias": head.bias.astype(np.float32)}
    params = {**loaded.variables["params"], PARTS["head"]: layer}
    return dataclasses.replace(loaded, variables={**loaded.variables, "params": params})


def own_head(loaded: LoadedModel, *, temperature: float) -> Head:
    """Return the head of pictures, less sure.

    log p = (log p_model - log prior) / temperature, normalised; the prior is the shares of the labels in its training.
    Frames of films are not drawn as those pictures were, and the model is too sure of them (docs/recipe.md).
    """
    own = loaded.variables["params"][PARTS["head"]]
    shares = np.array(loaded.about.get("training", {}).get("label_shares") or [1.0] * len(loaded.label_names))
    evidence = np.asarray(own["bias"], float) - np.log(np.where(shares > 0, shares, 1.0))
    kernel = np.where(shares > 0, np.asarray(own["kernel"], float), 0.0)
    return Head(kernel / temperature, np.where(shares > 0, evidence / temperature, _NEVER))
