"""Doubtful labels: the rule as the paper states it, and what cleanlab finds on planted errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_small.metrics.confident_learning import doubtful_labels


def planted(count: int, classes: int, wrong: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that tell the true class mostly, and labels of which the first `wrong` are of the next class."""
    rng = np.random.RandomState(seed)  # whose numbers never change
    true = rng.randint(classes, size=count)
    labels = true.copy()
    labels[:wrong] = (true[:wrong] + 1) % classes
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), true] += 3
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True), labels


def test_planted_errors_are_found_as_cleanlab_finds_them() -> None:
    """By cleanlab 2.9.0: find_label_issues(labels, shares, filter_by="confident_learning", and by "normalized_margin")."""
    shares, labels = planted(120, 4, wrong=10, seed=0)
    assert doubtful_labels(shares, labels).index.tolist() == [7, 4, 9, 2, 1, 3, 6, 0]


def test_a_label_is_doubtful_also_where_it_is_the_most_probable_but_below_its_threshold() -> None:
    """The rule as published; cleanlab 2.9.0 drops image 0, because its label is the most probable class."""
    shares = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])
    found = doubtful_labels(shares, np.array([0, 0, 1, 1, 2]))
    assert found.thresholds == pytest.approx([0.7, 0.35, 0.4])
    assert found.index.tolist() == [0]
    assert found.suggested.tolist() == [1]
    assert found.margin == pytest.approx([0.1])


def test_a_class_that_no_label_names_is_never_suggested() -> None:
    found = doubtful_labels(np.array([[0.1, 0.2, 0.7], [0.3, 0.6, 0.1]]), np.array([0, 1]))
    assert found.thresholds.tolist() == [0.1, 0.6, np.inf]
    assert len(found.index) == 0


def by_hand(shares: np.ndarray, labels: list[int]) -> list[tuple[float, int, int]]:
    """The rule in plain Python: (margin, image, suggested class), sorted."""
    classes = range(shares.shape[1])
    members = {k: [shares[i, k] for i, label in enumerate(labels) if label == k] for k in classes}
    thresholds = {k: sum(own) / len(own) for k, own in members.items() if own}
    found = []
    for i, label in enumerate(labels):
        reached = [k for k in thresholds if shares[i, k] >= thresholds[k]]
        if reached and (best := max(reached, key=lambda k: (shares[i, k], -k))) != label:
            margin = shares[i, label] - max(shares[i, k] for k in classes if k != label)
            found.append((float(margin), i, best))
    return sorted(found)


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 10**6))
def test_it_is_the_rule(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.integers(1, 9, (count, classes)) / 64  # sums of such numbers are exact; the rule needs no sum of 1
    labels = rng.integers(classes, size=count)
    found = doubtful_labels(shares, labels)
    rows = zip(found.margin.tolist(), found.index.tolist(), found.suggested.tolist(), strict=True)
    assert list(rows) == by_hand(shares, labels.tolist())
