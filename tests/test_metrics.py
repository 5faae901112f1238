"""The measures of a confusion matrix are scikit-learn's."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from fusion_emotion.evaluate import metrics

N_CLASSES = 8


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes; classes often lack examples, or predictions."""
    n = draw(st.integers(1, 60))
    highest = draw(st.integers(0, N_CLASSES - 1))
    label = st.lists(st.integers(0, highest), min_size=n, max_size=n)
    return np.array(draw(label)), np.array(draw(label))


@given(answers())
def test_equals_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    true, predicted = pair
    confusion = metrics.confusion_matrix(true, predicted, N_CLASSES)
    np.testing.assert_array_equal(confusion, reference.confusion_matrix(true, predicted, labels=range(N_CLASSES)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", message="A single label was found")
        assert metrics.uar(confusion) == pytest.approx(reference.balanced_accuracy_score(true, predicted))
    assert metrics.war(confusion) == pytest.approx(reference.accuracy_score(true, predicted))
    assert metrics.macro_f1(confusion) == pytest.approx(reference.f1_score(true, predicted, average="macro"))
    recalls = metrics.recalls(confusion)
    present = np.unique(true)
    expected = reference.recall_score(true, predicted, labels=present, average=None)
    np.testing.assert_allclose(recalls[present], expected)
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(recalls)), present)


# Class 2 has no example but is predicted once; class 3 is neither.
BY_HAND = np.array([[3, 1, 0, 0], [2, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_by_hand() -> None:
    np.testing.assert_allclose(metrics.recalls(BY_HAND), [3 / 4, 1 / 4, np.nan, np.nan])
    assert metrics.uar(BY_HAND) == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert metrics.war(BY_HAND) == pytest.approx(4 / 8)
    # 2 TP / (true + predicted): 6 / 9, 2 / 6, 0 / 1; class 3 has no F1
    assert metrics.macro_f1(BY_HAND) == pytest.approx((6 / 9 + 2 / 6 + 0) / 3)
    assert metrics.chance_level(BY_HAND) == 1 / 2
    for measure in (metrics.uar, metrics.war, metrics.macro_f1, metrics.chance_level):
        assert type(measure(BY_HAND)) is float


def test_constant_predictions_reach_the_chance_level() -> None:
    true = np.repeat(np.arange(N_CLASSES), np.arange(1, N_CLASSES + 1))
    confusion = metrics.confusion_matrix(true, np.zeros_like(true), N_CLASSES)
    assert metrics.uar(confusion) == pytest.approx(metrics.chance_level(confusion)) == 1 / N_CLASSES


def test_without_examples_measures_are_nan() -> None:
    nothing = metrics.confusion_matrix(np.zeros(0, int), np.zeros(0, int), N_CLASSES)
    assert nothing.shape == (N_CLASSES, N_CLASSES)
    assert nothing.sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(metrics.uar(nothing))
        assert np.isnan(metrics.macro_f1(nothing))
        assert np.isnan(metrics.recalls(nothing)).all()


@given(st.lists(answers(), min_size=1, max_size=3))
def test_a_stack_is_measured_matrix_by_matrix(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    matrices = [metrics.confusion_matrix(true, predicted, N_CLASSES) for true, predicted in pairs]
    # Three times the counts, no counts at all, and only right predictions.
    matrices += [3 * matrices[0], np.zeros_like(matrices[0]), np.eye(N_CLASSES, dtype=int)]
    stack = np.stack(matrices).astype(float)
    for measure in (metrics.recalls, metrics.uar, metrics.war, metrics.macro_f1, metrics.chance_level):
        alone = [measure(confusion) for confusion in matrices]
        np.testing.assert_array_equal(measure(stack), alone)
        np.testing.assert_array_equal(measure(np.stack([stack, stack[::-1]])), [alone, alone[::-1]])
        np.testing.assert_array_equal(alone[-3], alone[0])
