"""Measures how well the features of a network separate emotions and speakers."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from fusion_emotion.analyse.saliency import tapped
from fusion_emotion.input.batches import Source, evaluation_batches
from fusion_emotion.models.batch import Batch
from fusion_emotion.models.fusion import FusionNet

NEIGHBOURS = 5


def clip_features(
    model: FusionNet, variables: Mapping[str, PyTree], source: Source, *, batch_size: int
) -> dict[str, Float[np.ndarray, "clips features"]]:
    """The head's input for each clip of a source, by modality: the mean over the clip's segments."""

    def encoded(net: FusionNet, batch: Batch) -> dict[str, Array]:
        encoders = {"audio": net.audio, "video": net.video}
        return {name: encoder(batch, train=False)[0] for name, encoder in encoders.items() if encoder is not None}

    @jax.jit
    def features_of(variables: PyTree, batch: Batch) -> Float[Array, "batch features"]:
        return tapped(model, variables, batch)[1]["features"]

    n_clips = len(source.segments.rows)
    first = next(evaluation_batches(source, batch_size=1))
    shapes: Any = jax.eval_shape(functools.partial(model.apply, method=encoded), variables, first)
    # In the order in which the head gets them.
    sizes = {name: shapes[name].shape[-1] for name in ("audio", "video") if name in shapes}
    total = np.zeros((n_clips, sum(sizes.values())))
    for batch in evaluation_batches(source, batch_size=batch_size):
        features = np.asarray(features_of(variables, batch), np.float64)
        np.add.at(total, batch["clip"][batch["mask"]], features[batch["mask"]])
    mean = total / np.bincount(source.segments.clip, minlength=n_clips)[:, None]
    parts = np.split(mean, np.cumsum(list(sizes.values()))[:-1], axis=1)
    return dict(zip(sizes, parts, strict=True))


def plane(features: Float[np.ndarray, "n features"]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "2"]]:
    """The first two principal components of each row, and the fraction of the variance of each component.

    The sign of a component makes its largest loading positive.
    """
    centred = features - features.mean(axis=0)
    _, scale, loadings = np.linalg.svd(centred, full_matrices=False)
    loadings = loadings[:2]
    loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1))
    variance = np.square(scale)
    return centred @ loadings.T, variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def agreement(features: Float[np.ndarray, "n features"], groups: Sequence[object], *, k: int = NEIGHBOURS) -> float:
    """The fraction of a row's `k` nearest others (Euclidean distance) that are of its group; the mean over rows."""
    of = _numbered(groups)
    squares = np.square(features).sum(axis=1)
    same = []
    for row, each in enumerate(features):
        distance = squares - 2 * features @ each
        distance[row] = np.inf
        same.append(of[np.argsort(distance, kind="stable")[:k]] == of[row])
    return float(np.mean(same))


def chance_agreement(groups: Sequence[object]) -> float:
    """The mean of `agreement` for random features: the fraction of all others that are of a row's group."""
    of = _numbered(groups)
    return float((np.bincount(of)[of] - 1).mean() / (len(of) - 1))


def most_agreement(groups: Sequence[object], *, k: int = NEIGHBOURS) -> float:
    """The upper bound of `agreement`; groups smaller than k + 1 cannot reach 1."""
    of = _numbered(groups)
    return float((np.minimum(np.bincount(of)[of] - 1, k) / k).mean())


def _numbered(groups: Sequence[object]) -> np.ndarray:
    return np.unique(np.asarray(groups), return_inverse=True)[1]
