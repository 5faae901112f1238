"""Intervals, tests and calibration: known answers, simulations whose truth is known, and scikit-learn."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn import metrics as reference

from fusion_emotion.evaluate import statistics
from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.evaluate.statistics import (
    apply_temperature,
    calibration,
    difference_interval,
    fit_temperature,
    permutation_test,
    pooled_interval,
)

SCORES = {
    "uar": reference.balanced_accuracy_score,
    "war": reference.accuracy_score,
    "macro_f1": lambda true, predicted: reference.f1_score(true, predicted, average="macro"),
}
every_statistic = pytest.mark.parametrize("name", statistics.STATISTICS)


def answers_of(true: Sequence[int], predicted: Sequence[int], speakers: Sequence[str], n_classes: int = 4) -> Answers:
    return Answers(
        clip_ids=[str(i) for i in range(len(true))],
        speakers=list(speakers),
        true=np.array(true),
        predicted=np.array(predicted),
        log_prob=np.zeros((len(true), n_classes)),
    )


def simulated(
    n_speakers: int, *, seed: int, clips: int = 24, spread: float = 0.1, accuracy: float = 0.6, by_clip: bool = False
) -> Answers:
    """Answers whose accuracy differs between speakers, around `accuracy`; all classes are equally frequent."""
    rng = np.random.default_rng(seed)
    skill = np.clip(accuracy + rng.uniform(-spread, spread, n_speakers), 0, 1)
    true = np.tile(np.arange(clips) % 4, n_speakers)
    correct = rng.random(len(true)) < np.repeat(skill, clips)
    predicted = np.where(correct, true, (true + rng.integers(1, 4, len(true))) % 4)
    speakers = range(len(true)) if by_clip else np.repeat(np.arange(n_speakers), clips)
    return answers_of(true, predicted, [f"{i:03d}" for i in speakers])


@every_statistic
def test_the_interval_equals_resampling_clip_by_clip(name: str) -> None:
    """The seeds are resampled together and averaged."""
    seeds = [simulated(6, seed=seed) for seed in (20, 21)]
    interval = pooled_interval(seeds, statistic=name, n_resamples=300, seed=3)
    draws = np.vstack([np.ones(6, int), np.random.default_rng(3).multinomial(6, [1 / 6] * 6, 300)])
    clips = [np.repeat(np.arange(6 * 24), np.repeat(draw, 24)) for draw in draws]
    slow = np.mean([[SCORES[name](seed.true[i], seed.predicted[i]) for i in clips] for seed in seeds], axis=0)
    assert interval.value == pytest.approx(slow[0])
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(slow[1:], [0.025, 0.975]))


def test_two_speakers_have_three_resamples() -> None:
    # One is correct in 4 of 4, the other in 1 of 2: drawn twice, once each, or not at all.
    answers = answers_of([0] * 6, [0, 0, 0, 0, 0, 1], "aaaabb")
    interval = pooled_interval([answers], statistic="war", level=0.8, seed=0)
    assert (interval.low, interval.value, interval.high) == (1 / 2, 5 / 6, 1)
    middle = pooled_interval([answers], statistic="war", level=0.3, seed=0)
    assert middle.low == middle.high == pytest.approx(5 / 6)
    assert middle.bounds is None


def test_one_speaker_has_no_interval() -> None:
    answers = simulated(1, seed=5)
    interval = pooled_interval([answers], statistic="uar", seed=0)
    assert interval.n_speakers == 1
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.value == pytest.approx(reference.balanced_accuracy_score(answers.true, answers.predicted))


def coverage(n_speakers: int, *, runs: int = 400) -> float:
    """The fraction of simulated corpora whose interval contains the accuracy that they were drawn with."""
    intervals = (
        pooled_interval([simulated(n_speakers, seed=run, spread=0.25)], statistic="uar", n_resamples=500, seed=run)
        for run in range(runs)
    )
    return sum(interval.low <= 0.6 <= interval.high for interval in intervals) / runs


def test_the_interval_contains_the_truth_as_often_as_documented() -> None:
    assert 0.91 <= coverage(24) <= 0.98
    assert coverage(4) < 0.9


def test_a_difference_draws_the_same_speakers_for_both() -> None:
    a, b = simulated(8, seed=22, spread=0.35), simulated(8, seed=23, accuracy=0.4)
    nothing = difference_interval([a], [a, a], statistic="uar", n_resamples=200, seed=0)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    interval = difference_interval([a], [b], statistic="uar", n_resamples=200, seed=0)
    assert interval.value == pytest.approx(SCORES["uar"](a.true, a.predicted) - SCORES["uar"](b.true, b.predicted))
    assert interval.low < interval.value < interval.high


def test_a_resample_without_a_speaker_of_one_side_does_not_count() -> None:
    # UAR of `a`: 1 for c, 0 for d, 0.5 for both; of `b`, which is of c alone: 0.5, and none in a resample of d.
    a, b = answers_of([0, 1, 0, 1], [0, 1, 1, 0], list("ccdd")), answers_of([0, 1], [0, 0], ["c", "c"])
    interval = difference_interval([a], [b], statistic="uar", n_resamples=2000, seed=0)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0.5)


@every_statistic
def test_the_exact_test_equals_brute_force(name: str) -> None:
    a, b = simulated(6, seed=8, clips=8), simulated(6, seed=9, clips=8, accuracy=0.4)
    result = permutation_test(a, b, statistic=name, seed=0)

    def difference(swap: Sequence[bool]) -> float:
        swapped = np.repeat(swap, 8)
        one, other = np.where(swapped, b.predicted, a.predicted), np.where(swapped, a.predicted, b.predicted)
        return SCORES[name](a.true, one) - SCORES[name](a.true, other)

    observed, *others = (difference(swap) for swap in itertools.product((False, True), repeat=6))
    assert result.exact
    assert result.difference == pytest.approx(observed)
    assert result.p_value == np.mean(np.abs([observed, *others]) >= abs(observed) - 1e-9)


def test_the_random_test_agrees_with_the_exact_one() -> None:
    a, b = simulated(12, seed=10, accuracy=0.62), simulated(12, seed=11, accuracy=0.55)
    exact, random = (
        permutation_test(a, b, statistic="uar", n_permutations=n_permutations, seed=0)
        for n_permutations in (2**12, 2**12 - 1)
    )
    assert exact.exact
    assert not random.exact
    assert 0.001 < exact.p_value < 0.9
    assert random.p_value == pytest.approx(exact.p_value, abs=4 * np.sqrt(exact.p_value / 4095) + 1 / 4096)


def test_the_least_p_values() -> None:
    # Two speakers: of four permutations, none and all are as extreme.
    a, b = answers_of([0] * 4, [0] * 4, "aabb"), answers_of([0] * 4, [1] * 4, "aabb")
    result = permutation_test(a, b, statistic="war", seed=0)
    assert (result.difference, result.p_value) == (1, 0.5)
    # Random permutations: the observed one counts.
    true, speakers = np.tile(np.arange(4), 20), [str(i) for i in np.repeat(np.arange(20), 4)]
    a, b = answers_of(true, true, speakers), answers_of(true, (true + 1) % 4, speakers)
    assert permutation_test(a, b, statistic="uar", n_permutations=999, seed=0).p_value == 1 / 1000


def test_calibration_by_hand() -> None:
    # Confidences 0.5 (on an edge, so in the lower bin; wrong), 0.75 (right) and 0.95 (wrong) in two bins.
    log_prob = np.log([[0.5, 0.3, 0.2], [0.15, 0.75, 0.1], [0.95, 0.04, 0.01]])
    result = calibration(log_prob, np.array([1, 1, 2]), bins=2)
    assert result["count"] == [1, 2]
    assert result["confidence"] == pytest.approx([0.5, 0.85])
    assert result["accuracy"] == [0, 0.5]
    assert result["ece"] == pytest.approx((0.5 + 2 * 0.35) / 3)
    with_empty_bins = calibration(np.log([[0.9, 0.1]]), np.array([0]), bins=10)
    assert with_empty_bins["accuracy"] == [None] * 8 + [1, None]
    assert with_empty_bins["ece"] == pytest.approx(0.1)


def calibrated(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of four classes, and true classes drawn from them."""
    rng = np.random.default_rng(seed)
    log_prob = apply_temperature(2 * rng.standard_normal((n, 4)), 1.0)
    true = (np.exp(log_prob).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return log_prob, np.minimum(true, 3)


def test_only_overconfident_answers_have_a_calibration_error() -> None:
    log_prob, true = calibrated(40_000, seed=0)
    assert calibration(log_prob, true)["ece"] < 0.01
    assert calibration(3 * log_prob, true)["ece"] > 0.1
    # Means of log-probabilities are not normalised; calibration normalises them.
    assert calibration(log_prob - 1.3, true)["ece"] == pytest.approx(calibration(log_prob, true)["ece"])


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    log_prob, true = calibrated(20_000, seed=2)
    fitted = fit_temperature(log_prob * temperature, true)
    assert fitted == pytest.approx(temperature, rel=0.05)
    assert calibration(apply_temperature(log_prob * temperature, fitted), true)["ece"] < 0.015


def test_breakdown_by_hand() -> None:
    groups = statistics.breakdown(answers_of([0, 0, 0, 1, 2], [0, 0, 1, 2, 2], "12345"), list("mfmfm"))
    assert groups == {"f": {"n": 2, "war": 1 / 2, "uar": 1 / 2}, "m": {"n": 3, "war": 2 / 3, "uar": (1 / 2 + 1) / 2}}
