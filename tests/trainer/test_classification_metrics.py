"""Measures of classifiers, against hand-made values and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.metrics.calibration import brier_score, expected_calibration_error, reliability
from trainer.metrics.classification import (
    auc,
    auc_one_vs_one,
    auc_one_vs_rest,
    class_table,
    cohen_kappa,
    confusion_matrix,
    count_scores,
    mean_defined,
    roc_curve,
)
from trainer.metrics.intervals import Interval, difference_intervals, draw_counts, score_intervals

oracle = pytest.importorskip("sklearn.metrics")

TRUTH = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 2, 0])
SCORES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.4, 0.5, 0.1],
        [0.2, 0.6, 0.2],
        [0.1, 0.7, 0.2],
        [0.1, 0.2, 0.7],
        [0.5, 0.1, 0.4],
    ]
)


def test_published_example():
    scores = count_scores(confusion_matrix(TRUTH, PREDICTED, 3))
    expected = {
        "accuracy": 0.666667,
        "balanced_accuracy": 0.666667,
        "macro_precision": 0.722222,
        "macro_recall": 0.666667,
        "macro_f1": 0.655556,
        "quadratic_kappa": 0.285714,
        "kappa": 0.5,
    }
    assert {name: float(scores[name]) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert auc_one_vs_rest(TRUTH, SCORES).mean() == pytest.approx(0.958333, abs=1e-6)
    assert auc_one_vs_one(TRUTH, SCORES) == pytest.approx(0.958333, abs=1e-6)


def random_case(
    seed: int, classes: int = 4, tiles: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, tiles, p=[0.5, 0.3, 0.15, 0.05])
    scores = rng.dirichlet(np.ones(classes), tiles).round(2) + 1e-9
    scores[np.arange(tiles), truth] += 0.2
    scores /= scores.sum(axis=1, keepdims=True)
    return truth, scores.argmax(axis=1), scores


@pytest.mark.parametrize("seed", range(8))
def test_counts_agree_with_scikit_learn(seed):
    truth, predicted, _ = random_case(seed)
    labels = np.arange(4)
    counts = confusion_matrix(truth, predicted, 4)
    assert (counts == oracle.confusion_matrix(truth, predicted, labels=labels)).all()
    ours = count_scores(counts)
    assert ours["accuracy"] == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert ours["kappa"] == pytest.approx(oracle.cohen_kappa_score(truth, predicted))
    assert ours["quadratic_kappa"] == pytest.approx(
        oracle.cohen_kappa_score(truth, predicted, weights="quadratic", labels=labels)
    )
    for average in ("macro", "weighted"):
        theirs = oracle.precision_recall_fscore_support(
            truth, predicted, labels=labels, average=average, zero_division=0
        )
        assert [
            ours[f"{average}_{name}"] for name in ("precision", "recall", "f1")
        ] == pytest.approx(theirs[:3])
    table, theirs = (
        class_table(counts),
        oracle.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0),
    )
    for name, column in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert table[name] == pytest.approx(column)
    per_class = oracle.multilabel_confusion_matrix(truth, predicted, labels=labels)
    assert table["specificity"] == pytest.approx(per_class[:, 0, 0] / per_class[:, 0].sum(axis=1))


@pytest.mark.parametrize("seed", range(8))
def test_areas_agree_with_scikit_learn_and_tell_rest_from_one(seed):
    truth, _, scores = random_case(seed, tiles=200)
    rest = oracle.roc_auc_score(truth, scores, multi_class="ovr", average=None)
    assert auc_one_vs_rest(truth, scores) == pytest.approx(rest)
    item = oracle.roc_auc_score(truth, scores, multi_class="ovo", average="macro")
    assert auc_one_vs_one(truth, scores) == pytest.approx(item)
    assert abs(item - rest.mean()) > 1e-4


def test_a_class_that_never_occurs_is_undefined_not_wrong():
    truth = predicted = np.array([0, 0, 1, 1])
    scores = count_scores(confusion_matrix(truth, predicted, 3))
    assert scores["macro_f1"] == pytest.approx(2 / 3)
    assert scores["balanced_accuracy"] == 1
    assert scores["weighted_f1"] == 1
    assert count_scores(confusion_matrix(truth, predicted, 2))["macro_f1"] == 1
    probabilities = np.eye(3)[predicted]
    assert np.isnan(auc_one_vs_rest(truth, probabilities)).tolist() == [False, False, True]
    assert mean_defined(auc_one_vs_rest(truth, probabilities)) == 1
    assert auc_one_vs_one(truth, probabilities) == 1


def test_nothing_to_measure():
    only = np.zeros(3, dtype=int)
    assert np.isnan(cohen_kappa(confusion_matrix(only, only, 2)))
    assert np.isnan(auc_one_vs_one(only, np.ones((3, 2)) / 2))
    assert np.isnan(auc(np.array([]), np.array([1.0])))
    assert np.isnan(mean_defined(np.array([np.nan])))
    assert count_scores(np.zeros((3, 3), dtype=int))["accuracy"] == 0


def test_area_counts_ties_half():
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_encloses_the_area(seed):
    truth, _, scores = random_case(seed)
    false, true = roc_curve(truth == 0, scores[:, 0])
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(
        auc(scores[truth == 0, 0], scores[truth != 0, 0])
    )


def test_calibration_of_probabilities_that_are_right():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 20_000)
    truth = (rng.uniform(size=20_000) >= sure).astype(int)
    honest = np.stack([sure, 1 - sure], axis=1)
    boastful = np.stack([np.sqrt(sure), 1 - np.sqrt(sure)], axis=1)
    assert expected_calibration_error(truth, honest) < 0.02
    assert expected_calibration_error(truth, boastful) > 0.08


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [1.0, 0.0]])
    truth = np.array([0, 1, 0, 0])
    # Bins of width 0.1: two at 0.9 half right, one at 0.6 right, one at 1.0 right.
    assert expected_calibration_error(truth, probabilities, 10) == pytest.approx(
        (2 * 0.4 + 0.4 + 0) / 4
    )
    assert reliability(truth, probabilities, 10)["tiles"].sum() == 4
    assert np.isnan(expected_calibration_error(truth[:0], probabilities[:0]))


def test_brier_score_agrees_with_scikit_learn():
    truth, _, scores = random_case(0)
    assert brier_score(truth, scores) == pytest.approx(
        oracle.brier_score_loss(truth, scores, labels=np.arange(4), scale_by_half=False)
    )


def test_draws_take_whole_groups():
    groups = np.array([7, 7, 7, 2, 2, 9])
    draws = draw_counts(groups, 50, seed=0)
    assert (draws[:, 0] == draws[:, 1]).all() and (draws[:, 3] == draws[:, 4]).all()
    assert (draws[:, [0, 3, 5]].sum(axis=1) == 3).all()
    assert (draws == draw_counts(groups, 50, seed=0)).all()
    assert (draws != draw_counts(groups, 50, seed=1)).any()


def test_interval_of_an_accuracy_covers_as_often_as_it_says():
    rng, covered, size = np.random.default_rng(1), 0, 80
    for trial in range(200):
        truth = np.zeros(size, dtype=int)
        predicted = (rng.uniform(size=size) > 0.7).astype(int)
        found = score_intervals(truth, predicted, 2, np.arange(size), num_draws=200, seed=trial)[
            "accuracy"
        ]
        covered += found.low <= 0.7 <= found.high
        assert found.low <= found.value <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_tiles_of_a_group_make_the_interval_wider():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 10)
    predicted = np.repeat(rng.integers(0, 2, 12), 10)
    by_group, by_tile = (
        score_intervals(np.zeros(120, dtype=int), predicted, 2, item, seed=0)["accuracy"]
        for item in (groups, np.arange(120))
    )
    assert by_group.high - by_group.low > 2 * (by_tile.high - by_tile.low)


def test_differences_are_paired():
    truth, predicted, _ = random_case(3)
    same = difference_intervals(truth, predicted, predicted, 4, np.arange(60))
    assert same["accuracy"] == Interval(0, 0, 0)
    better = difference_intervals(truth, truth, predicted, 4, np.arange(60))["accuracy"]
    assert better.low > 0
    assert str(Interval(0.8123, 0.7, 0.9)) == "0.812 (0.700-0.900)"
