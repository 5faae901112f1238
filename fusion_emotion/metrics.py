"""Measures of a confusion matrix, in the field's terms.

Rows are true emotions, columns predicted ones. A class without examples has no recall and is left out of means over
classes (scikit-learn's `balanced_accuracy_score` does the same); its F1 counts only if something was predicted as it.
"""

import numpy as np
from jaxtyping import Float, Int


def confusion_matrix(
    true: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], n_classes: int
) -> Int[np.ndarray, "C C"]:
    """Counts of (true, predicted)."""
    return np.bincount(true * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def recalls(confusion: Int[np.ndarray, "C C"]) -> Float[np.ndarray, "C"]:
    """The recall of each class, nan for a class without examples."""
    total = confusion.sum(axis=1)
    return np.where(total > 0, np.diag(confusion) / np.maximum(total, 1), np.nan)


def uar(confusion: Int[np.ndarray, "C C"]) -> float:
    """Unweighted average recall: the mean of the classes' recalls (balanced accuracy)."""
    known = recalls(confusion)
    return float(np.nanmean(known)) if not np.isnan(known).all() else float("nan")


def war(confusion: Int[np.ndarray, "C C"]) -> float:
    """Weighted average recall: accuracy."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def macro_f1(confusion: Int[np.ndarray, "C C"]) -> float:
    """The mean over the classes, true or predicted, of 2 TP / (true + predicted)."""
    marks = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = marks > 0
    return float(np.mean(2 * np.diag(confusion)[present] / marks[present])) if present.any() else float("nan")


def chance_level(confusion: Int[np.ndarray, "C C"]) -> float:
    """The UAR of a constant or a uniformly random answer: 1 / the number of classes that have examples."""
    return 1 / max(int((confusion.sum(axis=1) > 0).sum()), 1)
