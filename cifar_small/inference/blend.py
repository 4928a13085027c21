"""How the answers of several nets become one, and how their weights are fitted to labelled images: arrays in, arrays out.

Throughout: logits (M, N, K) of M members for the same N images in the same order, labels (N,), weights (M,) that are not
negative and sum to 1.
"""

from __future__ import annotations

import math
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt

from cifar_small.metrics.classification import log_softmax

Array = npt.NDArray[Any]
Method = Literal["logits", "probabilities", "vote", "weighted", "greedy"]
FITTED = ("weighted", "greedy")  # whose weights need labelled images

GAP = 1e-6  # nats above the least possible loss at which fitting stops
UPDATES = 20_000
SMALLEST = 1e-3  # a fitted weight below this is 0: the member would cost its parameters and say nothing
ROUNDS = 50


def blend(method: Method, logits: Array, weights: Array) -> npt.NDArray[np.float32]:
    """One answer (N, K) of members that all have a weight above 0; its softmax is a distribution whatever the method.

    logits: the plain mean. probabilities, weighted, greedy: the log of the weighted mean of probabilities. vote: see `vote`.
    """
    match method:
        case "logits":
            blended = np.mean(logits, axis=0, dtype=np.float64)
        case "vote":
            blended = vote(logits)
        case "probabilities" | "weighted" | "greedy":
            blended = mean_of_probabilities(logits, weights)
        case unknown:
            assert_never(unknown)
    return np.asarray(blended, np.float32)


def mean_of_probabilities(logits: Array, weights: Array) -> npt.NDArray[np.float64]:
    """The log of the weighted mean of the members' probabilities (N, K), without ever leaving logarithms."""
    shares = np.log(np.asarray(weights, np.float64))[:, None, None]
    return np.asarray(np.logaddexp.reduce(log_softmax(logits) + shares, axis=0), np.float64)


def vote(logits: Array) -> npt.NDArray[np.float64]:
    """The log of each class's share (N, K) of M + 1 votes: one for each member's class, and one shared by mean probability.

    The shared vote breaks ties: among the classes with most votes, the one with the largest mean probability is first. It never
    lifts a class over one with more votes, since that one has some of it too. A member with two largest logits votes for the
    class of lower index.
    """
    members, _, classes = logits.shape
    votes = np.eye(classes)[logits.argmax(axis=-1)].sum(axis=0)
    shared = mean_of_probabilities(logits, np.full(members, 1 / members))
    with np.errstate(divide="ignore"):  # no votes: the log is -inf, and the shared vote is all there is
        return np.asarray(np.logaddexp(np.log(votes), shared) - math.log(members + 1), np.float64)


def fit_weights(logits: Array, labels: Array) -> npt.NDArray[np.float64]:
    """The weights whose mean of probabilities has the least negative log-likelihood of the labels.

    By expectation-maximization of the mixture's weights from equal ones. The loss is convex, so the least is the global one:
    after t updates the loss is at most log(M) / t above it, and by convexity never more than the largest gain below minus 1.
    """
    own = log_softmax(logits)[:, np.arange(len(labels)), labels]
    shares = np.exp(own - own.max(axis=0))  # an image's own factor changes the loss by a constant; so nothing underflows
    weights = np.full(len(logits), 1 / len(logits))
    for _ in range(UPDATES):
        gain = (shares / (weights @ shares)).mean(axis=1)
        if gain.max() - 1 <= GAP:
            break
        weights = weights * gain
    weights[weights < SMALLEST] = 0.0
    return np.asarray(weights / weights.sum(), np.float64)


def select_greedily(logits: Array, labels: Array) -> npt.NDArray[np.float64]:
    """The weights of a bag of members, drawn with replacement, each the one that serves the bag's mean of probabilities best.

    Best is: most labels right, then least negative log-likelihood, then the earlier member. Of all sizes up to ROUNDS the best
    bag is kept, the smallest of equals; so on these labels it is never worse than the best member. Source: Caruana et al. 2004.
    """
    probabilities = np.exp(log_softmax(logits))
    rows = np.arange(len(labels))

    def quality(total: Array, size: int) -> tuple[int, float]:
        right = int((total.argmax(axis=1) == labels).sum())
        return right, float(np.log(np.maximum(total[rows, labels] / size, 1e-300)).mean())

    bag: list[int] = []
    total = np.zeros(probabilities.shape[1:])
    best, kept = (-1, -math.inf), 0
    for size in range(1, ROUNDS + 1):
        qualities = [quality(total + one, size) for one in probabilities]
        chosen = qualities.index(max(qualities))
        bag.append(chosen)
        total += probabilities[chosen]
        if qualities[chosen] > best:
            best, kept = qualities[chosen], size
    return np.asarray(np.bincount(bag[:kept], minlength=len(logits)) / kept, np.float64)
