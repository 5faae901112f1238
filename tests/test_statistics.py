"""Intervals, tests and calibration: known answers, simulations whose truth is known, and scikit-learn."""

import dataclasses
import itertools

import numpy as np
import pytest
from sklearn import metrics as reference

import tiny
from fusion_emotion.evaluate import metrics, statistics
from fusion_emotion.evaluate.statistics import (
    Answers,
    apply_temperature,
    bootstrap_interval,
    breakdown,
    calibration,
    difference_interval,
    fit_temperature,
    mean_std,
    permutation_test,
    pooled_interval,
)
from fusion_emotion.prepare.records import Record

NAMES = tuple(statistics.STATISTICS)
Triple = tuple[np.ndarray, np.ndarray, list[str]]


def simulated(n_speakers: int, *, seed: int, clips: int = 24, spread: float = 0.1, accuracy: float = 0.6) -> Triple:
    """Answers whose accuracy differs from speaker to speaker, around `accuracy`; every class equally often."""
    rng = np.random.default_rng(seed)
    skill = np.clip(accuracy + rng.uniform(-spread, spread, n_speakers), 0, 1)
    true = np.tile(np.arange(clips) % 4, n_speakers)
    right = rng.random(len(true)) < np.repeat(skill, clips)
    predicted = np.where(right, true, (true + rng.integers(1, 4, len(true))) % 4)
    return true, predicted, [f"{i:02d}" for i in np.repeat(np.arange(n_speakers), clips)]


@pytest.mark.parametrize("name", NAMES)
def test_the_value_is_scikit_learns(name: str) -> None:
    true, predicted, speakers = simulated(6, seed=1)
    of_scikit_learn = {
        "uar": reference.balanced_accuracy_score(true, predicted),
        "war": reference.accuracy_score(true, predicted),
        "macro_f1": reference.f1_score(true, predicted, average="macro"),
    }
    interval = bootstrap_interval(true, predicted, speakers, statistic=name, n_resamples=100, seed=0)
    assert interval.value == pytest.approx(of_scikit_learn[name])
    assert interval.low < interval.value < interval.high


def test_a_resample_of_two_speakers_is_one_of_three() -> None:
    # One is right in 4 of 4, the other in 1 of 2: drawn twice, once each, or not at all.
    true = np.zeros(6, int)
    predicted = np.array([0, 0, 0, 0, 0, 1])
    interval = bootstrap_interval(true, predicted, list("aaaabb"), statistic="war", level=0.8, seed=0)
    assert (interval.low, interval.value, interval.high) == (1 / 2, 5 / 6, 1)
    middle = bootstrap_interval(true, predicted, list("aaaabb"), statistic="war", level=0.3, seed=0)
    assert middle.low == middle.high == pytest.approx(5 / 6)


@pytest.mark.parametrize("name", NAMES)
def test_resampling_matrices_is_resampling_clips(name: str) -> None:
    true, predicted, speakers = simulated(5, seed=2)
    interval = bootstrap_interval(true, predicted, speakers, statistic=name, n_resamples=300, seed=3)
    times = np.random.default_rng(3).multinomial(5, [1 / 5] * 5, 300)
    score = {
        "uar": reference.balanced_accuracy_score,
        "war": reference.accuracy_score,
        "macro_f1": lambda t, p: reference.f1_score(t, p, average="macro"),
    }[name]
    slow = [
        score(
            *(
                np.concatenate([np.tile(part.reshape(5, -1)[s], n) for s, n in enumerate(row)])
                for part in (true, predicted)
            )
        )
        for row in times
    ]
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(slow, [0.025, 0.975]))


def test_the_seed_decides_the_interval() -> None:
    answers = simulated(8, seed=4)
    same = [bootstrap_interval(*answers, statistic="uar", n_resamples=200, seed=seed) for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


def test_one_speaker_has_no_interval() -> None:
    true, predicted, speakers = simulated(1, seed=5)
    interval = bootstrap_interval(true, predicted, speakers, statistic="uar", seed=0)
    assert interval.n_speakers == 1
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.value == pytest.approx(reference.balanced_accuracy_score(true, predicted))


def coverage(n_speakers: int, *, runs: int = 400) -> float:
    """The share of simulated corpora whose interval holds the accuracy that they were drawn with."""
    intervals = (
        bootstrap_interval(*simulated(n_speakers, seed=run, spread=0.25), statistic="uar", n_resamples=500, seed=run)
        for run in range(runs)
    )
    return sum(interval.low <= 0.6 <= interval.high for interval in intervals) / runs


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    assert 0.91 <= coverage(24) <= 0.98
    # The warning of the docstring.
    assert coverage(4) < 0.9


def test_resampling_clips_instead_of_speakers_would_be_too_narrow() -> None:
    true, predicted, speakers = simulated(12, seed=6, clips=60, spread=0.35)
    by_speaker = bootstrap_interval(true, predicted, speakers, statistic="war", seed=0)
    by_clip = bootstrap_interval(true, predicted, list(map(str, range(len(true)))), statistic="war", seed=0)
    assert by_speaker.high - by_speaker.low > 1.5 * (by_clip.high - by_clip.low)


def test_the_interval_of_seeds_is_of_the_mean_of_their_statistic() -> None:
    seeds = [simulated(6, seed=seed) for seed in (20, 21)]
    answers = [Answers(true=true, predicted=predicted, speakers=speakers) for true, predicted, speakers in seeds]
    found = pooled_interval(answers, statistic="macro_f1", n_resamples=200, seed=3)
    times = np.random.default_rng(3).multinomial(6, [1 / 6] * 6, 200)
    slow = [
        np.mean(
            [
                reference.f1_score(
                    *(
                        np.concatenate([np.tile(part.reshape(6, -1)[s], n) for s, n in enumerate(row)])
                        for part in (true, predicted)
                    ),
                    average="macro",
                )
                for true, predicted, _ in seeds
            ]
        )
        for row in [np.ones(6, int), *times]
    ]
    assert found.value == pytest.approx(slow[0])
    np.testing.assert_allclose([found.low, found.high], np.quantile(slow[1:], [0.025, 0.975]))


def test_a_difference_is_of_the_same_speakers() -> None:
    true, a, speakers = simulated(8, seed=22, spread=0.35)
    _, b, _ = simulated(8, seed=23, accuracy=0.4)
    of_a, of_b = (Answers(true=true, predicted=said, speakers=speakers) for said in (a, b))
    nothing = difference_interval([of_a], [of_a, of_a], statistic="uar", n_resamples=200, seed=0)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    found = difference_interval([of_a], [of_b], statistic="uar", n_resamples=200, seed=0)
    assert found.value == pytest.approx(
        reference.balanced_accuracy_score(true, a) - reference.balanced_accuracy_score(true, b)
    )
    assert found.low < found.value < found.high


@pytest.mark.parametrize("n_speakers", [5, 24])
def test_equal_predictions_differ_by_nothing(n_speakers: int) -> None:
    true, predicted, speakers = simulated(n_speakers, seed=7)
    result = permutation_test(true, predicted, predicted, speakers, statistic="uar", n_permutations=500, seed=0)
    assert (result.difference, result.p_value) == (0, 1)
    assert result.exact == (n_speakers == 5)


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_test_is_brute_force(name: str) -> None:
    true, a, speakers = simulated(6, seed=8, clips=8)
    _, b, _ = simulated(6, seed=9, clips=8, accuracy=0.4)
    result = permutation_test(true, a, b, speakers, statistic=name, seed=0)
    score = statistics.STATISTICS[name]

    def difference(swapped: np.ndarray) -> float:
        one, other = np.where(swapped, b, a), np.where(swapped, a, b)
        return score(metrics.confusion_matrix(true, one, 4)) - score(metrics.confusion_matrix(true, other, 4))

    observed = difference(np.zeros(len(true), bool))
    every = [difference(np.repeat(swap, 8)) for swap in itertools.product((False, True), repeat=6)]
    assert result.exact
    assert result.difference == pytest.approx(observed)
    assert result.p_value == np.mean(np.abs(every) >= abs(observed) - 1e-9)


def test_two_speakers_who_agree_are_no_proof() -> None:
    # Of four ways to swap, none and all are as extreme.
    true = np.zeros(4, int)
    result = permutation_test(true, true, 1 - true, list("aabb"), statistic="war", seed=0)
    assert (result.difference, result.p_value) == (1, 0.5)


def test_the_drawn_test_agrees_with_the_exact_one() -> None:
    true, a, speakers = simulated(12, seed=10, accuracy=0.62)
    _, b, _ = simulated(12, seed=11, accuracy=0.55)
    exact = permutation_test(true, a, b, speakers, statistic="uar", n_permutations=2**12, seed=0)
    drawn = permutation_test(true, a, b, speakers, statistic="uar", n_permutations=2**12 - 1, seed=0)
    assert exact.exact
    assert not drawn.exact
    assert 0.001 < exact.p_value < 0.9
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * np.sqrt(exact.p_value / 4095) + 1 / 4096)


def test_a_drawn_p_value_is_never_zero() -> None:
    true = np.tile(np.arange(4), 20)
    speakers = [str(i) for i in np.repeat(np.arange(20), 4)]
    result = permutation_test(true, true, (true + 1) % 4, speakers, statistic="uar", n_permutations=999, seed=0)
    assert result.p_value == 1 / 1000


def test_where_nothing_differs_a_p_value_of_a_fifth_comes_up_a_fifth_of_the_time() -> None:
    p_values = []
    for run in range(400):
        true, a, speakers = simulated(8, seed=2 * run, clips=48)
        _, b, _ = simulated(8, seed=2 * run + 1, clips=48)
        p_values.append(permutation_test(true, a, b, speakers, statistic="uar", seed=0).p_value)
    # A little less, for ties count as extreme.
    assert 0.12 <= np.mean(np.array(p_values) <= 0.2) <= 0.23


def test_calibration_by_hand() -> None:
    # Confidences 0.5 (on an edge, so of the lower bin; wrong), 0.75 (right) and 0.95 (wrong) in two bins.
    log_prob = np.log([[0.5, 0.3, 0.2], [0.15, 0.75, 0.1], [0.95, 0.04, 0.01]])
    result = calibration(log_prob, np.array([1, 1, 2]), bins=2)
    np.testing.assert_array_equal(result.edges, [0, 0.5, 1])
    np.testing.assert_array_equal(result.count, [1, 2])
    np.testing.assert_allclose(result.confidence, [0.5, 0.85])
    np.testing.assert_allclose(result.accuracy, [0, 0.5])
    assert result.ece == pytest.approx((0.5 + 2 * 0.35) / 3)


def test_an_empty_bin_says_nothing_and_costs_nothing() -> None:
    result = calibration(np.log([[0.9, 0.1]]), np.array([0]), bins=10)
    assert np.isnan(result.accuracy[:8]).all()
    assert result.ece == pytest.approx(0.1)


def drawn(n: int, *, seed: int, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of four classes, and true classes drawn by them: calibrated by construction."""
    rng = np.random.default_rng(seed)
    log_prob = apply_temperature(sharpness * rng.standard_normal((n, 4)), 1.0)
    true = (np.exp(log_prob).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return log_prob, np.minimum(true, 3)


def test_what_is_calibrated_has_almost_no_error_and_what_is_too_sure_has() -> None:
    log_prob, true = drawn(40_000, seed=0)
    assert calibration(log_prob, true).ece < 0.01
    assert calibration(3 * log_prob, true).ece > 0.1


def test_a_mean_of_log_probabilities_is_normalised_first() -> None:
    log_prob, true = drawn(500, seed=1)
    assert calibration(log_prob - 1.3, true).ece == pytest.approx(calibration(log_prob, true).ece)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    log_prob, true = drawn(20_000, seed=2)
    found = fit_temperature(log_prob * temperature, true)
    assert found == pytest.approx(temperature, rel=0.05)
    assert calibration(apply_temperature(log_prob * temperature, found), true).ece < 0.015


def test_temperature_keeps_the_order_and_normalises() -> None:
    log_prob, _ = drawn(50, seed=3)
    warmer = apply_temperature(log_prob, 3.0)
    np.testing.assert_array_equal(warmer.argsort(axis=1), log_prob.argsort(axis=1))
    np.testing.assert_allclose(np.exp(warmer).sum(axis=1), 1)
    np.testing.assert_allclose(apply_temperature(log_prob, 1.0), log_prob, atol=1e-12)


def test_all_right_answers_end_at_the_lowest_temperature() -> None:
    log_prob = np.log([[0.6, 0.4], [0.3, 0.7]])
    assert fit_temperature(log_prob, np.array([0, 1])) == pytest.approx(statistics.TEMPERATURES[0], rel=0.01)


def test_breakdown_by_hand() -> None:
    record = Record(
        clip_id="", take_id="", speaker="1", corpus="", label=0,
        faces=np.zeros((0, 1, 1, 3), np.uint8), face_found=np.zeros(0, bool), box=np.zeros((0, 4), np.float32),
        waveform=np.zeros(0, np.int16),
    )  # fmt: skip
    row = tiny.row_of(record, index=0)
    rows = [dataclasses.replace(row, sex=sex, speaker=speaker) for sex, speaker in zip("mfmfm", "12345", strict=True)]
    true = np.array([0, 0, 0, 1, 2])
    predicted = np.array([0, 0, 1, 2, 2])
    groups = breakdown(rows, true, predicted, "sex")
    assert list(groups) == ["f", "m"]
    assert groups["f"] == statistics.Group(n=2, war=1 / 2, uar=1 / 2)
    assert groups["m"] == statistics.Group(n=3, war=2 / 3, uar=(1 / 2 + 1) / 2)
    assert [group.n for group in breakdown(rows, true, predicted, "speaker").values()] == [1] * 5


def test_mean_and_sample_standard_deviation() -> None:
    assert mean_std([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(np.sqrt(14 / 3)))
    mean, std = mean_std([0.5])
    assert mean == 0.5
    assert np.isnan(std)
