"""Measures of a confusion matrix, in the field's terms, or of each of a stack of them at once.

Rows are true emotions, columns predicted ones. A class without examples has no recall and is left out of means over
classes (scikit-learn's `balanced_accuracy_score` does the same); its F1 counts only if something was predicted as it.
"""

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real

# A float of one matrix, an array over the leading axes of a stack: as of numpy's own means, no type says which.
Measure: TypeAlias = Any


def confusion_matrix(
    true: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], n_classes: int
) -> Int[np.ndarray, "C C"]:
    """Counts of (true, predicted)."""
    return np.bincount(true * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def recalls(confusion: Real[np.ndarray, "*stack C C"]) -> Float[np.ndarray, "*stack C"]:
    """The recall of each class, nan for a class without examples."""
    return _ratio(_right(confusion), confusion.sum(axis=-1))


def uar(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """Unweighted average recall: the mean of the classes' recalls (balanced accuracy); nan without examples."""
    return _mean(recalls(confusion))


def war(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """Weighted average recall: accuracy."""
    return _ratio(_right(confusion).sum(axis=-1), np.maximum(confusion.sum(axis=(-2, -1)), 1))


def macro_f1(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """The mean over the classes, true or predicted, of 2 TP / (true + predicted); nan where there are none."""
    return _mean(_ratio(2 * _right(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1)))


def chance_level(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """The UAR of a constant or a uniformly random answer: 1 / the number of classes that have examples."""
    return _ratio(1, np.maximum((confusion.sum(axis=-1) > 0).sum(axis=-1), 1))


def _right(confusion: Real[np.ndarray, "*stack C C"]) -> Real[np.ndarray, "*stack C"]:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _mean(of_classes: Float[np.ndarray, "*stack C"]) -> Measure:
    """The mean over those classes that have a number."""
    return _ratio(np.nansum(of_classes, axis=-1), np.sum(~np.isnan(of_classes), axis=-1))


def _ratio(part: Any, whole: Any) -> Any:
    """The ratio, without a warning where it is 0 / 0 and so nan."""
    with np.errstate(invalid="ignore"):
        ratio = np.asarray(part / whole)
    return ratio if ratio.ndim else float(ratio)
