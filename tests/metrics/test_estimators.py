"""Estimators without labels: closed forms, brute force, and synthetic files whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cifar_small.metrics.classification import log_softmax
from cifar_small.metrics.estimators import ESTIMATORS, Validation, agreement_line, class_shares, thresholded_confidence


def drawn(count: int, seed: int, sharpness: float, shares: Any = None, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: labels are drawn from it; `shares`: of the classes that logits point to."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 0.7, (count, classes))
    logits[np.arange(count), rng.choice(classes, count, p=shares)] += sharpness
    cumulated = np.exp(log_softmax(logits)).cumsum(1)
    return logits, (rng.random((count, 1)) > cumulated[:, :-1]).sum(1)


def ask(name: str, vals: list[Validation], files: list[np.ndarray]) -> np.ndarray:
    return ESTIMATORS[name].estimate(vals, [val.score(file) for val, file in zip(vals, files, strict=True)])


def runs(count: int, images: int = 3000) -> list[Validation]:
    """Runs of different noise on the same images."""
    logits, labels = drawn(images, 1, 3.0)
    rng = np.random.default_rng(2)
    return [Validation(logits + rng.normal(0, 0.4 + 0.3 * number, logits.shape), labels) for number in range(count)]


@pytest.mark.parametrize("name", ["atc", "doc", "agreement", "bbse"])
def test_val_itself_is_estimated_exactly(name: str) -> None:
    vals = runs(3)
    assert ask(name, vals, [val.logits for val in vals]) == pytest.approx([val.accuracy for val in vals], abs=1e-9)


def test_confidence_and_doc_are_right_where_probabilities_are() -> None:
    val, harder = drawn(40_000, 3, 3.0), drawn(40_000, 4, 1.5)
    known = Validation(*val)
    truth = float((harder[0].argmax(1) == harder[1]).mean())
    assert known.accuracy - truth > 0.2
    for name in ("confidence", "doc"):
        assert ask(name, [known], [harder[0]])[0] == pytest.approx(truth, abs=0.01)


def test_temperature_scaling_makes_overconfident_logits_honest() -> None:
    logits, labels = drawn(20_000, 5, 2.5)
    harder, truth = drawn(20_000, 6, 1.5)
    sharp = Validation(4 * logits, labels)
    assert sharp.temperature == pytest.approx(4, rel=0.05)
    right = float((harder.argmax(1) == truth).mean())
    assert ask("confidence", [sharp], [4 * harder])[0] == pytest.approx(right, abs=0.015)


def brute_atc(val: Validation, certainty: np.ndarray) -> float:
    """By trying every threshold: the one above which the share on val comes nearest to accuracy, without ties."""
    own = val.scores.certainty
    best = min(own, key=lambda threshold: abs(float((own >= threshold).mean()) - val.accuracy))
    return float((certainty >= best).mean())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_atc_is_the_threshold_found_by_trying_all(seed: int, images: int) -> None:
    val, file = Validation(*drawn(images, seed, 1.5)), drawn(40, seed + 1, 1.0)[0]
    score = val.score(file)
    if not val.correct.any():
        assert thresholded_confidence(val, score) == 0
    else:
        assert thresholded_confidence(val, score) == pytest.approx(brute_atc(val, score.certainty), abs=1e-12)


def test_atc_shares_ties_so_that_val_is_met() -> None:
    """Eight images of two certainties: six right, of which four are surer; half of the four that tie count."""
    logits = np.array([[3.0, 0.0]] * 4 + [[1.0, 0.0]] * 4)
    val = Validation(logits, np.array([0, 0, 0, 0, 0, 0, 1, 1]))
    assert thresholded_confidence(val, val.scores) == pytest.approx(0.75)
    assert thresholded_confidence(val, val.score(np.array([[1.0, 0.0], [0.0, 1.0]]))) == pytest.approx(0.5)
    assert thresholded_confidence(val, val.score(np.array([[0.5, 0.0]]))) == 0


def test_bbse_finds_class_shares_and_the_accuracy_that_follows() -> None:
    """Within a class nothing changes, so recalls are those of val and shares can be solved for."""
    rng = np.random.default_rng(0)
    recalls, count = np.array([0.95, 0.6, 0.8]), 60_000

    def file(shares: list[float]) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(3, count, p=shares)
        right = rng.random(count) < recalls[labels]
        predicted = np.where(right, labels, (labels + 1) % 3)
        return np.eye(3)[predicted] * 2.0, labels

    val, other = Validation(*file([1 / 3] * 3)), file([0.1, 0.7, 0.2])
    found = class_shares(val, val.score(other[0]))
    assert found is not None
    assert found == pytest.approx([0.1, 0.7, 0.2], abs=0.01)
    truth = float((other[0].argmax(1) == other[1]).mean())
    assert val.accuracy - truth > 0.1
    assert ask("bbse", [val], [other[0]])[0] == pytest.approx(truth, abs=0.01)


def test_bbse_is_not_determined_where_a_class_is_never_predicted() -> None:
    val = Validation(np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0]]), np.array([0, 1, 2]))
    assert class_shares(val, val.scores) is None
    assert np.isnan(ask("bbse", [val], [val.logits])[0])


def test_bbse_of_a_file_without_a_class_stays_within_0_and_1() -> None:
    logits, labels = drawn(5000, 8, 2.5)
    val = Validation(logits, labels)
    shares = class_shares(val, val.score(np.eye(4)[[0] * 50] * 3.0))
    assert shares is not None
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > 0.9


def test_agreement_of_three_runs_is_the_solution_of_three_equations() -> None:
    vals = runs(3)
    files = [val.logits + np.random.default_rng(9).normal(0, 1.2, val.logits.shape) for val in vals]
    scores = [val.score(file) for val, file in zip(vals, files, strict=True)]
    line = agreement_line(vals, scores)
    pairs = [(0, 1), (0, 2), (1, 2)]
    seen = norm.ppf([(vals[i].scores.predicted == vals[j].scores.predicted).mean() for i, j in pairs])
    found = norm.ppf([(scores[i].predicted == scores[j].predicted).mean() for i, j in pairs])
    slope, bias = np.polyfit(seen, found, 1)
    assert (line.slope, line.bias) == pytest.approx((slope, bias))
    accuracies = norm.ppf([val.accuracy for val in vals])
    known = [found[k] + slope * ((accuracies[i] + accuracies[j]) / 2 - seen[k]) for k, (i, j) in enumerate(pairs)]
    expected = [known[0] + known[1] - known[2], known[0] + known[2] - known[1], known[1] + known[2] - known[0]]
    assert line.estimates == pytest.approx(norm.cdf(expected))


def test_agreement_on_a_line_recovers_accuracies_of_independent_runs() -> None:
    """Right answers of runs are independent given a difficulty that both sets shift alike: the truth is near the line."""
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 10, 20_000)

    def answers(skill: float, shift: float) -> np.ndarray:
        right = rng.random(len(labels)) < norm.cdf(skill - shift)
        wrong = (labels + rng.integers(1, 10, len(labels))) % 10
        return np.eye(10)[np.where(right, labels, wrong)] * 2.0

    skills = [0.8, 1.0, 1.2, 1.4, 1.6, 1.8]
    vals = [Validation(answers(skill, 0.0), labels) for skill in skills]
    files = [answers(skill, 0.4) for skill in skills]
    truth = [float((file.argmax(1) == labels).mean()) for file in files]
    assert ask("agreement", vals, files) == pytest.approx(truth, abs=0.03)
    with pytest.raises(ValueError, match="expected at least 3"):
        agreement_line(vals[:2], [vals[0].scores, vals[1].scores])


def test_equal_runs_agree_on_everything_and_stay_finite() -> None:
    val = runs(1)[0]
    found = ask("agreement", [val, val, val], [val.logits] * 3)
    assert np.isfinite(found).all()
