"""Ensemble methods on arrays: six rows by hand, and properties against brute force."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from cifar_small.cli.ensemble import METHODS
from cifar_small.inference import blend as blending
from cifar_small.inference.blend import SMALLEST, Method, blend, fit_weights, select_greedily
from cifar_small.metrics import classification as metrics

# Three members, six images, three classes, as probabilities that can be added up in the head. Images: all agree; two against a
# sure one; three votes apart, three times (once with a member without a preference, whose vote goes to the first class); two
# against one.
P = np.array([
    [[.8, .1, .1], [.50, .40, .10], [.40, .30, .30], [.55, .35, .10], [1/3, 1/3, 1/3], [.2, .7, .1]],
    [[.7, .2, .1], [.50, .40, .10], [.30, .45, .25], [.40, .50, .10], [.20, .20, .60], [.1, .6, .3]],
    [[.6, .2, .2], [.02, .96, .02], [.20, .35, .45], [.30, .30, .40], [.20, .55, .25], [.6, .3, .1]],
])  # fmt: skip
LOGITS = np.log(P).astype(np.float32)
EQUAL = np.full(3, 1 / 3)
LABELS = np.array([0, 1, 1, 1, 2, 0])


def test_a_method_that_is_not_known_is_not_taken_for_another() -> None:
    with pytest.raises(AssertionError, match="median"):
        blend("median", np.zeros((2, 3, 4)), np.full(2, 0.5))


def test_the_command_line_knows_every_method() -> None:
    assert get_args(Method) == METHODS


def test_mean_of_logits_is_the_plain_mean() -> None:
    assert np.allclose(blend("logits", LOGITS, EQUAL), LOGITS.mean(0))


def test_mean_of_probabilities_by_hand() -> None:
    blended = blend("probabilities", LOGITS, EQUAL)
    assert blended.dtype == np.float32
    sums = [
        [2.1, 0.5, 0.4],
        [1.02, 1.76, 0.22],
        [0.9, 1.1, 1.0],
        [1.25, 1.15, 0.6],
        [0.73333, 1.08333, 1.18333],
        [0.9, 1.6, 0.5],
    ]
    expected = np.array(sums) / 3
    assert np.allclose(np.exp(blended), expected, atol=1e-4)
    assert np.allclose(np.exp(blend("weighted", LOGITS, np.array([0.5, 0.25, 0.25]))[1]), [0.38, 0.54, 0.08])


def test_a_sure_member_outweighs_two_in_the_mean_and_is_outvoted() -> None:
    assert blend("probabilities", LOGITS, EQUAL)[1].argmax() == 1
    assert blend("vote", LOGITS, EQUAL)[1].argmax() == 0


def test_votes_by_hand() -> None:
    """Shares of four votes: three members', and one shared by mean probability, which breaks the ties of images 2, 3 and 4."""
    shares = 4 * np.exp(blend("vote", LOGITS, EQUAL))
    assert np.allclose(shares[0], [3 + 0.7, 0.5 / 3, 0.4 / 3], atol=1e-6)
    assert np.allclose(shares[1], [2 + 0.34, 1 + 1.76 / 3, 0.22 / 3], atol=1e-6)
    for image, means in ((2, [0.9, 1.1, 1.0]), (3, [1.25, 1.15, 0.6]), (4, [0.73333, 1.08333, 1.18333])):  # one vote each
        assert np.allclose(shares[image], 1 + np.array(means) / 3, atol=1e-5)
    assert np.allclose(shares[5], [1.3, 2 + 1.6 / 3, 0.5 / 3], atol=1e-6)
    assert blend("vote", LOGITS, EQUAL).argmax(axis=1).tolist() == [0, 0, 1, 0, 2, 1]


def test_far_apart_logits_stay_finite() -> None:
    logits = np.array([[[0, 3000, -3000]], [[3000, 0, -3000]]], np.float32)
    for method in METHODS:
        assert np.isfinite(blend(method, logits, np.array([0.5, 0.5]))).all(), method


PROBABILITIES = hnp.arrays(np.float64, (3, 6, 4), elements=st.integers(1, 50).map(float)).map(
    lambda counts: counts / counts.sum(axis=-1, keepdims=True)
)
CLASSES = hnp.arrays(np.int64, 6, elements=st.integers(0, 3))


@settings(deadline=None, max_examples=100)
@given(PROBABILITIES, st.permutations(range(3)), st.permutations(range(6)))
def test_members_and_images_in_any_order(probabilities: np.ndarray, members: list[int], rows: list[int]) -> None:
    logits, weights = np.log(probabilities), np.array([0.2, 0.3, 0.5])
    for method in METHODS:
        own = np.full(3, 1 / 3) if method in ("logits", "probabilities", "vote") else weights
        turned = blend(method, logits[members][:, rows], own[members])
        assert np.allclose(turned, blend(method, logits, own)[rows], atol=1e-5), method


@settings(deadline=None, max_examples=100)
@given(PROBABILITIES)
def test_a_vote_goes_to_most_votes_and_among_those_to_the_largest_mean(probabilities: np.ndarray) -> None:
    blended = blend("vote", np.log(probabilities), EQUAL)
    assert np.allclose(softmax(blended, axis=1), np.exp(blended), atol=1e-6)  # a distribution as it stands
    for row, image in zip(blended, probabilities.transpose(1, 0, 2), strict=True):
        votes = np.bincount(image.argmax(axis=1), minlength=4)
        first = [kind for kind in range(4) if votes[kind] == votes.max()]
        means = image.mean(axis=0)[first]
        assert row.argmax() in first
        assert image.mean(axis=0)[row.argmax()] >= means.max() - 1e-6


# ------------------------------------------------------------------------------------------------------------------- weighted


def loss(weights: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> float:
    mixed = np.einsum("m,mnk->nk", weights, probabilities)
    return float(-np.log(mixed[np.arange(len(labels)), labels]).mean())


def grid(members: int, steps: int) -> list[np.ndarray]:
    return [np.bincount(bag, minlength=members) / steps for bag in combinations_with_replacement(range(members), steps)]


@settings(deadline=None, max_examples=40)
@given(PROBABILITIES, CLASSES)
def test_fitted_weights_are_as_good_as_the_best_of_a_grid(probabilities: np.ndarray, labels: np.ndarray) -> None:
    weights = fit_weights(np.log(probabilities), labels)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    assert not ((weights > 0) & (weights < SMALLEST)).any()
    best = min(loss(candidate, probabilities, labels) for candidate in grid(3, 40))
    slack = 5e-3  # what leaving out weights below SMALLEST may cost
    assert loss(weights, probabilities, labels) <= best + slack


def test_two_members_against_the_closed_form() -> None:
    """Each right on its own images with 0.8 and wrong with 0.2 elsewhere: the best weight of the first solves a line."""
    sure, unsure = np.log([0.8, 0.2]), np.log([0.2, 0.8])
    logits = np.array([[sure] * 7 + [unsure] * 3, [unsure] * 7 + [sure] * 3])
    # mean log(0.2 + 0.6 w) of 7 images and log(0.8 - 0.6 w) of 3: 4.2 (0.8 - 0.6 w) = 1.8 (0.2 + 0.6 w)
    weights = fit_weights(logits, np.zeros(10, np.int64))
    assert weights == pytest.approx([3 / 3.6, 0.6 / 3.6], abs=1e-3)


def test_a_useless_member_gets_nothing() -> None:
    good, noise = np.log([[0.9, 0.1], [0.1, 0.9]]), np.log([[0.4, 0.6], [0.6, 0.4]])
    assert fit_weights(np.stack([noise, good]), np.array([0, 1])).tolist() == [0.0, 1.0]


@settings(deadline=None, max_examples=30)
@given(PROBABILITIES, CLASSES, st.permutations(range(3)))
def test_fitted_weights_follow_their_members(probabilities: np.ndarray, labels: np.ndarray, members: list[int]) -> None:
    weights = fit_weights(np.log(probabilities), labels)
    assert np.allclose(fit_weights(np.log(probabilities[members]), labels), weights[members], atol=1e-4)


# --------------------------------------------------------------------------------------------------------------------- greedy


def test_greedy_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone the members have 1, 4 and 3 right, so the second is first. With it, the first has 3 right (images 0, 2, 4), itself
    4, the third 5 (all but the last): of bags of two at most, the second and the third together are best."""
    assert [(one.argmax(axis=1) == LABELS).sum() for one in P] == [1, 4, 3]
    monkeypatch.setattr(blending, "ROUNDS", 2)
    assert select_greedily(LOGITS, LABELS).tolist() == [0.0, 0.5, 0.5]
    monkeypatch.setattr(blending, "ROUNDS", 1)
    assert select_greedily(LOGITS, LABELS).tolist() == [0.0, 1.0, 0.0]


@settings(deadline=None, max_examples=40)
@given(PROBABILITIES, CLASSES)
def test_greedy_is_the_literal_procedure(probabilities: np.ndarray, labels: np.ndarray) -> None:
    logits = np.log(probabilities)
    own = np.exp(metrics.log_softmax(logits))  # the same numbers, so that ties fall the same way

    def quality(bag: list[int]) -> tuple[int, float]:
        mean = own[bag].sum(axis=0) / len(bag)
        return int((mean.argmax(axis=1) == labels).sum()), float(np.log(mean[np.arange(6), labels]).mean())

    path: list[list[int]] = [[]]
    for _ in range(8):
        path.append(max(([*path[-1], one] for one in range(3)), key=quality))
    best = max(path[1:], key=quality)  # the first, so the smallest, of equals
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blending, "ROUNDS", 8)
        weights = select_greedily(logits, labels)
    assert np.allclose(weights, np.bincount(best, minlength=3) / len(best))
    assert quality(best)[0] >= max(quality([one])[0] for one in range(3))
