"""Metrics against scipy, torch and scikit-learn, and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as reference_log_softmax
from scipy.stats import binom, binomtest
from sklearn.metrics import brier_score_loss, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as reference_confusion

from cifar_small.metrics.classification import (
    brier_score,
    confusion_matrix,
    cross_entropy,
    log_softmax,
    precision_recall_f1,
    top_k_accuracy,
    wilson_interval,
)
from cifar_small.metrics.significance import mcnemar


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 20_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    correct, total = counts
    low, high = wilson_interval(correct, total)
    expected = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert 0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1


def test_wilson_literal() -> None:
    assert wilson_interval(9400, 10_000) == pytest.approx((0.9351742, 0.9444879), abs=1e-7)
    low, high = wilson_interval(9400, 10_000)
    assert (high - low) / 2 == pytest.approx(0.0047, abs=5e-5)  # +-0.47 points at 94 % of 10,000
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((0.7224672, 1.0), abs=1e-6)
    assert wilson_interval(50, 100) == pytest.approx((0.4038315, 0.5961685), abs=1e-7)


@pytest.mark.parametrize(("correct", "total"), [(-1, 10), (11, 10), (0, 0), (1, 0), (0, -1)])
def test_wilson_refuses_what_is_no_proportion(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} of {total} is not a proportion"):
        wilson_interval(correct, total)


def test_wilson_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    total, truths = 500, rng.uniform(0.05, 0.98, 4000)
    intervals = np.array([wilson_interval(correct, total) for correct in range(total + 1)])
    low, high = intervals[rng.binomial(total, truths)].T
    assert np.mean((low <= truths) & (truths <= high)) == pytest.approx(0.95, abs=0.012)  # 3.5 standard deviations
    inside = [(intervals[:, 0] <= p) & (p <= intervals[:, 1]) for p in truths[:400]]
    exact = [binom.pmf(np.flatnonzero(counts), total, p).sum() for counts, p in zip(inside, truths, strict=False)]
    assert np.mean(exact) == pytest.approx(0.95, abs=0.003)
    assert min(exact) > 0.9


@settings(deadline=None, max_examples=100)
@given(
    count=st.integers(1, 20),
    classes=st.integers(2, 12),
    levels=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_top_k_counts_the_first_k_of_a_stable_order(count: int, classes: int, levels: int, seed: int) -> None:
    """Ties are common in int8; torch's topk orders them otherwise than argmax does."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(levels, size=(count, classes)).astype(np.float32)
    labels = rng.integers(classes, size=count)
    order = np.argsort(-logits, axis=1, kind="stable")
    for k in range(1, classes + 1):
        assert top_k_accuracy(logits, labels, k) == (order[:, :k] == labels[:, None]).any(axis=1).mean()
    assert top_k_accuracy(logits, labels, 1) == np.mean(logits.argmax(axis=1) == labels)
    assert top_k_accuracy(logits, labels, classes) == 1


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 30),
    classes=st.integers(1, 12),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    shift=st.sampled_from([0.0, -1e3, 1e3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_cross_entropy_is_torchs(count: int, classes: int, scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((count, classes)) + shift).astype(np.float32)
    labels = rng.integers(classes, size=count)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)).item()
    assert cross_entropy(logits, labels) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_cross_entropy_literal() -> None:
    assert cross_entropy(np.zeros((3, 10)), np.array([0, 5, 9])) == pytest.approx(math.log(10), rel=1e-12)
    assert cross_entropy(np.array([[0.0, math.log(3)]]), np.array([1])) == pytest.approx(math.log(4 / 3), rel=1e-12)
    assert cross_entropy(np.array([[1e300, 0.0]]), np.array([0])) == 0.0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 9).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.tuples(*[st.integers(0, k - 1)] * 2), min_size=1)))
)
def test_confusion_is_scikit_learns(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    labels, predicted = np.array(pairs).T
    found = confusion_matrix(labels, predicted, classes)
    assert np.array_equal(found, reference_confusion(labels, predicted, labels=range(classes)))


def test_confusion_rows_are_true_classes() -> None:
    found = confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 0]), 3)
    assert found.tolist() == [[1, 2, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_confusion_of_any_integer_type(kind: type) -> None:
    labels = np.array([99, 3, 50], kind)
    found = confusion_matrix(labels, np.array([99, 7, 0], kind), 100)
    assert np.argwhere(found).tolist() == [[3, 7], [50, 0], [99, 99]]


def pair(only_first: int, only_second: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    return np.array(first, bool), np.array(second, bool)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (1, 9, 22 / 1024),
        (8, 2, 112 / 1024),
        (5, 5, 1.0),
        (3, 4, 1.0),
        (15, 5, 0.04138946533203125),
    ],
)
def test_mcnemar_exact_values(only_first: int, only_second: int, p: float) -> None:
    first, second = pair(only_first, only_second)
    assert mcnemar(first, second) == (only_first, only_second, pytest.approx(p, rel=1e-12))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_symmetric_and_looks_at_discordant_images_only(a: int, b: int, both: int, neither: int) -> None:
    first, second = pair(a, b, both, neither)
    one, other = mcnemar(first, second), mcnemar(second, first)
    assert (one[0], one[1]) == (other[1], other[0]) == (a, b)
    assert one[2] == mcnemar(*pair(a, b, 0, 1))[2] == pytest.approx(other[2], rel=1e-12)
    total = a + b
    tail = sum(math.comb(total, k) for k in range(min(a, b) + 1)) / 2**total
    assert one[2] == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 1.0, 50.0, 1e4]), st.integers(0, 2**32 - 1))
def test_log_softmax_is_scipys(count: int, classes: int, scale: float, seed: int) -> None:
    logits = (scale * np.random.default_rng(seed).standard_normal((2, count, classes))).astype(np.float32)
    found = log_softmax(logits)
    assert found.dtype == np.float64
    assert np.allclose(found, reference_log_softmax(logits.astype(np.float64), axis=-1), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_brier_of_two_classes_is_twice_scikit_learns(case: list[tuple[float, bool]]) -> None:
    share, labels = np.array(case).T
    found = brier_score(np.stack([1 - share, share], axis=1), labels.astype(int))
    assert found == pytest.approx(2 * brier_score_loss(labels, share, pos_label=1), abs=1e-12)


def test_brier_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert brier_score(probabilities, np.array([0, 2, 1])) == pytest.approx((0.09 + 0.04 + 0.01 + 0 + 2) / 3)
    assert brier_score(np.full((4, 10), 0.1), np.arange(4)) == pytest.approx(0.9)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 9).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.tuples(*[st.integers(0, k - 1)] * 2), min_size=1)))
)
def test_precision_recall_and_f1_are_scikit_learns(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    labels, predicted = np.array(pairs).T
    found = precision_recall_f1(labels, predicted, classes)
    expected = precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=np.nan)[:3]
    assert np.allclose(found, expected, equal_nan=True)


def test_a_class_without_images_has_no_recall_although_it_is_predicted() -> None:
    precision, recall, f1 = precision_recall_f1(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 3)
    assert recall[:2].tolist() == [0.5, 1.0]
    assert math.isnan(recall[2])
    assert (precision[2], f1[2]) == (0.0, 0.0)
