"""Measures of one confusion matrix, or of each in a stack of matrices.

Rows are true classes, columns predicted ones. A class without examples has no recall, and means over classes leave it
out, as scikit-learn's `balanced_accuracy_score` does. Its F1 counts only if it was predicted at least once.
"""

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real

# float for one matrix, np.ndarray for a stack of matrices; like numpy's means, it has no narrower type.
Measure: TypeAlias = Any


def confusion_matrix(
    true: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], n_classes: int
) -> Int[np.ndarray, "C C"]:
    """Count the pairs (true, predicted)."""
    return np.bincount(true * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def recalls(confusion: Real[np.ndarray, "*stack C C"]) -> Float[np.ndarray, "*stack C"]:
    """The recall of each class, nan for a class without examples."""
    return _ratio(_correct(confusion), confusion.sum(axis=-1))


def uar(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """Unweighted average recall: the mean of the classes' recalls (balanced accuracy); nan without examples."""
    return _mean(recalls(confusion))


def war(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """Weighted average recall: accuracy; nan without examples."""
    return _ratio(_correct(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def macro_f1(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """The mean F1, 2 TP / (true + predicted), of the classes that occur as true or predicted; nan without examples."""
    return _mean(_ratio(2 * _correct(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1)))


def chance_level(confusion: Real[np.ndarray, "*stack C C"]) -> Measure:
    """The UAR of constant or uniformly random predictions: 1 / the number of classes that have examples."""
    return _ratio(1, np.maximum((confusion.sum(axis=-1) > 0).sum(axis=-1), 1))


def _correct(confusion: Real[np.ndarray, "*stack C C"]) -> Real[np.ndarray, "*stack C"]:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _mean(class_values: Float[np.ndarray, "*stack C"]) -> Measure:
    """The mean over the classes whose value is not nan."""
    return _ratio(np.nansum(class_values, axis=-1), np.sum(~np.isnan(class_values), axis=-1))


def _ratio(part: Any, whole: Any) -> Any:
    """The ratio; 0 / 0 is nan without a warning."""
    with np.errstate(invalid="ignore"):
        ratio = np.asarray(part / whole)
    return ratio if ratio.ndim else float(ratio)
