"""What the features of a network hold of emotion, and of who speaks."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from fusion_emotion.analyse.saliency import tapped
from fusion_emotion.input.batches import Batch, Source, evaluation_batches
from fusion_emotion.models.fusion import FusionNet

NEIGHBOURS = 5


def clip_features(
    model: FusionNet, variables: Mapping[str, PyTree], source: Source, *, batch_size: int
) -> Float[np.ndarray, "clips features"]:
    """What the head gets of each clip of a source, audio before video: the mean over the clip's windows."""

    @jax.jit
    def features_of(variables: PyTree, batch: Batch) -> Float[Array, "batch features"]:
        return tapped(model, variables, batch)[1]["features"]

    n_clips = len(source.windows.rows)
    total: np.ndarray | None = None
    for batch in evaluation_batches(source, batch_size=batch_size):
        features = np.asarray(features_of(variables, batch), np.float64)
        if total is None:
            total = np.zeros((n_clips, features.shape[1]))
        np.add.at(total, batch["clip"][batch["mask"]], features[batch["mask"]])
    assert total is not None
    return total / np.bincount(source.windows.clip, minlength=n_clips)[:, None]


def plane(
    features: Float[np.ndarray, "n features"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "2"]]:
    """The first two principal components of each row, and each one's share of the variance.

    A component's sign is such that its largest loading is positive.
    """
    centred = features - features.mean(axis=0)
    _, scale, loadings = np.linalg.svd(centred, full_matrices=False)
    loadings = loadings[:2]
    loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1))
    variance = np.square(scale)
    return centred @ loadings.T, variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def agreement(features: Float[np.ndarray, "n features"], groups: Sequence[object], *, k: int = NEIGHBOURS) -> float:
    """How many of a row's `k` nearest others (Euclid's distance) are of its group: the mean share over all rows."""
    of = _numbered(groups)
    squares = np.square(features).sum(axis=1)
    same = []
    for row, each in enumerate(features):
        distance = squares - 2 * features @ each
        distance[row] = np.inf
        same.append(of[np.argsort(distance, kind="stable")[:k]] == of[row])
    return float(np.mean(same))


def chance_agreement(groups: Sequence[object]) -> float:
    """What `agreement` is on average when the features say nothing: others of the group among all others."""
    of = _numbered(groups)
    return float((np.bincount(of)[of] - 1).mean() / (len(of) - 1))


def most_agreement(groups: Sequence[object], *, k: int = NEIGHBOURS) -> float:
    """What `agreement` can be at most: a group of fewer than k + 1 cannot fill its neighbourhoods."""
    of = _numbered(groups)
    return float((np.minimum(np.bincount(of)[of] - 1, k) / k).mean())


def _numbered(groups: Sequence[object]) -> np.ndarray:
    return np.unique(np.asarray(groups), return_inverse=True)[1]
