"""Test-time augmentation as an ablation: what each choice of views costs and brings, on val.

Every distinct view is forwarded once; each choice, and weights learned for the views, are sums of those logits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from cifar_small.data import Images
from cifar_small.data.splits import halves
from cifar_small.environment import no_bar
from cifar_small.errors import DataError
from cifar_small.inference.forward import least_certain
from cifar_small.inference.predict import Net, predict_images
from cifar_small.metrics.classification import cross_entropy, log_softmax, wilson_interval
from cifar_small.metrics.significance import mcnemar
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

    choices: after those of `VIEWS` `learned`, cross-fitted: each half of val is answered with the weights of the other half;
    then those of another form of the net, if one was compared. weights: those fitted on all of val, largest first, without
    zeros. on_own_fit: their accuracy and NLL on the images of the fit.
    """

    meta: dict[str, object]  # which net and images, and where the seconds were measured
    images: int
    views_forwarded: int
    choices: tuple[ViewsResult, ...]
    weights: tuple[tuple[str, float], ...]
    on_own_fit: tuple[float, float]


def ablate(net: Net, images: Images, *, form: Net | None = None, progress: bool = False) -> Ablation:
    """Compare all choices of views on labelled images of val. Raises DataError for fewer than two images.

    form: the same weights computed otherwise, such as int8 by ONNX Runtime, whose choices are set against those of the weights.
    """
    labels = images.labels
    assert labels is not None
    if len(labels) < 2:
        raise DataError(f"{images.source}: 1 image; expected two or more, to learn weights on one half and score the other")
    views = list(dict.fromkeys(view for weighted in VIEWS.values() for view, _ in weighted))
    logits, seconds, meta = view_logits(net, images, views, progress=progress)
    cost = dict(zip(views, seconds, strict=True))
    answers = _answers(logits, views, cost)
    choices = [_choice(answer, answers["none" if answer.share == 1 else answer.set], labels) for answer in answers.values()]
    weights = fit_view_weights(logits, labels)
    crossed = np.empty(logits.shape[1:])
    first, second = halves(labels)
    for fitted, answered in ((first, second), (second, first)):
        crossed[answered] = np.tensordot(fit_view_weights(logits[:, fitted], labels[fitted]), logits[:, answered], 1)
    used = [view for view, weight in zip(views, weights, strict=True) if weight]
    learned = _Answer(LEARNED, LEARNED, 1.0, len(used), sum(cost[view] for view in used), crossed)
    choices.append(_choice(learned, answers["none"], labels))
    if form is not None:
        again, seconds, _ = view_logits(form, images, views, progress=progress)
        computed = "onnx " + form.onnx.precision if form.onnx else "again"
        others = _answers(again, views, dict(zip(views, seconds, strict=True)))
        for name, answer in others.items():
            choices.append(_choice(replace(answer, name=f"{name} {computed}"), answers[answer.set], labels))
    own = np.tensordot(weights, logits, 1)
    on_own_fit = (float((own.argmax(axis=1) == labels).mean()), cross_entropy(own, labels))
    largest = [(str(views[place]), float(weights[place])) for place in np.argsort(-weights, kind="stable") if weights[place]]
    return Ablation(meta, len(labels), len(views), tuple(choices), tuple(largest), on_own_fit)


@dataclass(frozen=True)
class _Answer:
    """The logits (N, K) of one choice of views, and what they cost."""

    name: str
    set: str
    share: float
    passes: float
    seconds: float
    logits: Floats


def _answers(logits: Floats, views: Sequence[View], cost: Mapping[View, float]) -> dict[str, _Answer]:
    """Every set for all images, and for the least certain share of them, by name; logits (V, N, K)."""
    plain, found = logits[views.index(IMAGE)], {}
    for name, weighted in VIEWS.items():
        whole = _mean(logits, views, weighted)
        found[name] = _Answer(name, name, 1.0, len(weighted), sum(cost[view] for view, _ in weighted), whole)
        others = [view for view, _ in weighted if view != IMAGE]
        for share in SHARES if others else ():
            selected = least_certain(torch.from_numpy(plain.astype(np.float32)), share).numpy()
            answer, part = plain.copy(), len(selected) / len(plain)
            answer[selected] = whole[selected]
            seconds = cost[IMAGE] + part * sum(cost[view] for view in others)
            selective = f"{name}@{share:g}"
            found[selective] = _Answer(selective, name, share, 1 + part * len(others), seconds, answer)
    return found


def _choice(answer: _Answer, other: _Answer, labels: npt.NDArray[np.int64]) -> ViewsResult:
    correct = answer.logits.argmax(axis=1) == labels
    gained, lost, p = mcnemar(correct, other.logits.argmax(axis=1) == labels)
    interval, nll = wilson_interval(int(correct.sum()), len(labels)), cross_entropy(answer.logits, labels)
    accuracy = float(correct.mean())
    return ViewsResult(answer.name, other.name, answer.passes, answer.seconds, accuracy, interval, nll, gained, lost, p)


def view_logits(
    net: Net, images: Images, views: Sequence[View], *, progress: bool = False
) -> tuple[Floats, list[float], dict[str, object]]:
    """The logits (V, N, K) of each view alone, the seconds each took, and facts of net and machine."""
    batch = images.take(np.arange(min(len(images), net.config.engine.eval_batch_size)))
    first = predict_images(net, batch, "none")  # so that the first view does not pay for the start
    logits, seconds = [], []
    for view in tqdm(views, unit="view", disable=no_bar(progress)):
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
