"""Test-time augmentation as an ablation: what each choice of views costs and brings, on val.

Every distinct view is forwarded once; each choice, and weights learned for the views, are sums of those logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from cifar_small.data import Images
from cifar_small.data.splits import halves
from cifar_small.errors import DataError
from cifar_small.inference.forward import least_certain
from cifar_small.inference.predict import Net, predict_images
from cifar_small.metrics.classification import cross_entropy, log_softmax, mcnemar, wilson_interval
from cifar_small.transforms.views import IMAGE, VIEWS, View, Weighted

SMALLEST = 1e-3  # a learned weight below this is 0: its view would cost a pass and say nothing
LEARNED = "learned"
SHARES = (0.1, 0.25)  # of the images, the least certain, that a set is tried for alone

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ViewsResult:
    """One choice of views on the images of val, beside another: a single look at each, or of a share, its whole set."""

    views: str
    against: str
    passes: float  # forward passes per image
    seconds: float  # for all images: the sum of its views' own times, each measured once
    accuracy: float
    interval: tuple[float, float]  # Wilson, 95 %
    nll: float  # nats
    gained: int  # images right with these views and wrong with those of `against`
    lost: int  # the reverse
    p: float  # exact McNemar test, two-sided


@dataclass(frozen=True)
class Ablation:
    """All choices of `VIEWS`, each for the least certain images alone too, and the views with learned weights.

    choices: the last is `learned`, cross-fitted: each half of val is answered with the weights of the other half. weights:
    those fitted on all of val, largest first, without zeros. on_own_fit: their accuracy and NLL on the images of the fit.
    """

    meta: dict[str, object]  # which net and images, and where the seconds were measured
    images: int
    views_forwarded: int
    choices: tuple[ViewsResult, ...]
    weights: tuple[tuple[str, float], ...]
    on_own_fit: tuple[float, float]


def ablate(net: Net, images: Images, *, progress: bool = False) -> Ablation:
    """Compare all choices of views on labelled images of val. Raises DataError for fewer than two images."""
    labels = images.labels
    assert labels is not None
    if len(labels) < 2:
        raise DataError(f"{images.source}: 1 image; expected two or more, to learn weights on one half and score the other")
    views = list(dict.fromkeys(view for weighted in VIEWS.values() for view, _ in weighted))
    logits, seconds, meta = view_logits(net, images, views, progress=progress)
    cost = dict(zip(views, seconds, strict=True))
    plain = logits[views.index(IMAGE)]

    def choice(
        name: str, passes: float, time_used: float, answer: Floats, against: str = "none", other: Floats = plain
    ) -> ViewsResult:
        correct = answer.argmax(axis=1) == labels
        gained, lost, p = mcnemar(correct, other.argmax(axis=1) == labels)
        interval = wilson_interval(int(correct.sum()), len(labels))
        nll = cross_entropy(answer, labels)
        return ViewsResult(name, against, passes, time_used, float(correct.mean()), interval, nll, gained, lost, p)

    choices = []
    for name, weighted in VIEWS.items():
        whole = _mean(logits, views, weighted)
        choices.append(choice(name, len(weighted), sum(cost[view] for view, _ in weighted), whole))
        others = [view for view, _ in weighted if view != IMAGE]
        for share in SHARES if others else ():
            selected = least_certain(torch.from_numpy(plain.astype(np.float32)), share).numpy()
            answer, part = plain.copy(), len(selected) / len(labels)
            answer[selected] = whole[selected]
            time_used = cost[IMAGE] + part * sum(cost[view] for view in others)
            choices.append(choice(f"{name}@{share:g}", 1 + part * len(others), time_used, answer, name, whole))
    weights = fit_view_weights(logits, labels)
    crossed = np.empty(logits.shape[1:])
    first, second = halves(labels)
    for fitted, answered in ((first, second), (second, first)):
        crossed[answered] = np.tensordot(fit_view_weights(logits[:, fitted], labels[fitted]), logits[:, answered], 1)
    used = [view for view, weight in zip(views, weights, strict=True) if weight]
    choices.append(choice(LEARNED, len(used), sum(cost[view] for view in used), crossed))
    own = np.tensordot(weights, logits, 1)
    on_own_fit = (float((own.argmax(axis=1) == labels).mean()), cross_entropy(own, labels))
    largest = [(str(views[place]), float(weights[place])) for place in np.argsort(-weights, kind="stable") if weights[place]]
    return Ablation(meta, len(labels), len(views), tuple(choices), tuple(largest), on_own_fit)


def view_logits(
    net: Net, images: Images, views: Sequence[View], *, progress: bool = False
) -> tuple[Floats, list[float], dict[str, object]]:
    """The logits (V, N, K) of each view alone, the seconds each took, and facts of net and machine."""
    batch = images.take(np.arange(min(len(images), net.config.engine.eval_batch_size)))
    first = predict_images(net, batch, "none")  # so that the first view does not pay for the start
    logits, seconds = [], []
    for view in tqdm(views, unit="view", disable=None if progress else True):
        start = time.perf_counter()
        logits.append(predict_images(net, images, [(view, 1.0)]).logits)
        seconds.append(time.perf_counter() - start)
    facts = ("name", "seed", "parameters", "weights_sha256", "config_sha256", "source", "precision", "device")
    meta = {**first.meta.picked(*facts), "images_sha256": images.sha256, "threads": torch.get_num_threads()}
    return np.stack(logits).astype(np.float64), seconds, meta


def _mean(logits: Floats, views: Sequence[View], weighted: Weighted) -> Floats:
    mean = np.zeros(logits.shape[1:])
    for view, weight in weighted:
        mean += weight * logits[views.index(view)]
    return mean


def fit_view_weights(logits: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """The weights (V,), not negative and of sum 1, whose mean of logits (V, N, K) has the least NLL of labels (N,).

    The NLL is convex in the weights; sequential least squares (SLSQP) from equal ones. Weights below SMALLEST become 0.
    """
    from scipy.optimize import minimize

    number, count, _ = logits.shape
    rows = np.arange(count)
    own = logits[:, rows, labels]

    def loss(weights: Floats) -> tuple[float, Floats]:
        log_probabilities = log_softmax(np.tensordot(weights, logits, 1))
        gradient = np.einsum("nk,vnk->v", np.exp(log_probabilities), logits) - own.sum(axis=1)
        return float(-log_probabilities[rows, labels].mean()), gradient / count

    sum_to_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like}
    start = np.full(number, 1 / number)
    found = minimize(
        loss,
        start,
        jac=True,
        bounds=[(0, 1)] * number,
        constraints=[sum_to_one],
        method="SLSQP",
        options={"ftol": 1e-9, "maxiter": 500},
    )
    # No success is asked for: SLSQP reports rounding errors at the least as a failed line search.
    weights = np.where(found.x < SMALLEST, 0.0, found.x)
    return np.asarray(weights / weights.sum(), np.float64)


def plain_ablation(ablation: Ablation) -> dict[str, object]:
    """An ablation as plain JSON values."""
    accuracy, nll = ablation.on_own_fit
    return {**asdict(ablation), "weights": dict(ablation.weights), "on_own_fit": {"accuracy": accuracy, "nll": nll}}
