"""How sure are several answers to one image? Monte-Carlo dropout or an ensemble; entropies; accuracy against coverage.

Of M answers to one image, each a distribution over classes (entropies H in nats): the predictive entropy H[mean] is the whole
uncertainty; the expected entropy mean(H) is what each answer says of itself, the ambiguity of the image; their difference, the
mutual information, is how far the answers disagree, which more training images would settle. Sources: Gal & Ghahramani (2016),
arXiv 1506.02142; Houlsby et al. (2011), arXiv 1112.5745; Lakshminarayanan et al. (2017), arXiv 1612.01474.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import OwnModel
from cifar_small.data import Images
from cifar_small.environment import no_bar
from cifar_small.errors import CheckpointError, DataError
from cifar_small.inference.ensemble import combine
from cifar_small.inference.predict import Net, predict_images
from cifar_small.metrics.classification import log_softmax
from cifar_small.metrics.coverage import CoverageCurve, best_curve, coverage_curve
from cifar_small.models import dropout_layers, set_dropout
from cifar_small.randomness import DROPOUT, stream_seed
from cifar_small.runs.predictions import Predictions

WITHOUT_DROPOUT = "1 - confidence, no dropout"
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Uncertainty:
    """Of N images, from several answers to each; labels: None where the split has none; meta: what made it, plain JSON values.

    probabilities: (N, K), the mean of the answers; predictive_entropy, expected_entropy, mutual_information: (N,), nats.
    plain: (N, K), what the net says without dropout, for comparison; None for an ensemble.
    """

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    probabilities: Floats
    predictive_entropy: Floats
    expected_entropy: Floats
    mutual_information: Floats
    meta: dict[str, Any]
    plain: Floats | None = None

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The class of the largest mean probability, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def confidence(self) -> Floats:
        """The largest mean probability, (N,)."""
        return np.asarray(self.probabilities.max(axis=1), np.float64)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which predictions are right, (N,). Only for labelled splits."""
        assert self.labels is not None
        return np.asarray(self.predicted == self.labels, np.bool_)

    @property
    def scores(self) -> dict[str, Floats]:
        """What images can be ordered by, the surest lowest, (N,) each."""
        return {
            "predictive entropy": self.predictive_entropy,
            "expected entropy": self.expected_entropy,
            "mutual information": self.mutual_information,
            "1 - confidence": 1 - self.confidence,
        }


def entropies(logits: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Of M answers' logits (M, N, K): mean probabilities (N, K), predictive and expected entropy (N,) in nats."""
    probabilities = np.zeros(logits.shape[1:])
    expected = np.zeros(logits.shape[1])
    for answer in logits:  # one by one: a hundred passes over a hundred classes would fill the memory
        log_probabilities = log_softmax(answer)
        own = np.exp(log_probabilities)
        probabilities += own / len(logits)
        expected -= (own * log_probabilities).sum(axis=1) / len(logits)
    predictive = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)  # 0 log 0 is 0
    return probabilities, predictive, expected


def _measure(logits: npt.NDArray[Any], of: Predictions, meta: dict[str, Any]) -> Uncertainty:
    probabilities, predictive, expected = entropies(logits)
    information = np.maximum(predictive - expected, 0.0)  # never below 0 but by rounding
    kept = of.meta.picked("source", "images_sha256", "split")
    return Uncertainty(of.ids, of.labels, of.classes, probabilities, predictive, expected, information, {**meta, **kept})


def trained_dropout(net: Net) -> float:
    """The dropout p in force when the net's weights were selected: that of their phase, or the largest in a net of one's own.

    A soup's epoch is the latest of its members', who may have been trained for longer than the first, whose config it has.
    """
    if isinstance(net.config.model, OwnModel):
        return max((layer.p for layer in dropout_layers(net.model)), default=0.0)
    resolved = resolve_config(net.config)
    return resolved.phase_at(min(net.facts.epoch, resolved.epochs) - 1).settings.dropout


def monte_carlo(
    net: Net,
    images: Images,
    *,
    passes: int = 20,
    seed: int = 0,
    dropout: float | None = None,
    progress: bool = False,
) -> Uncertainty:
    """The uncertainty of one net on its images of val by dropout: `passes` answers to each, only dropout layers active.

    dropout: the p of ours or the user's, by default as trained with (a library's own keep theirs). Masks depend on the seed,
    the pass, the batch size and the device. Raises CheckpointError for a net whose answers do not differ.
    """
    trained = trained_dropout(net)
    p = trained if dropout is None else dropout
    advice = (
        "train one with dropout (model.dropout 0.1 to 0.3, also in the last phase), or give the predictions of several runs"
    )
    if not p:
        raise CheckpointError(f"{net.config.name} was trained without dropout at its end: all passes would be equal; {advice}")
    before = [(layer, layer.p) for layer in dropout_layers(net.model)]
    if not isinstance(net.config.model, OwnModel):
        set_dropout(net.model, p)
    elif dropout is not None:
        for layer, _ in before:
            layer.p = dropout
    answers = []
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            for number in tqdm(range(passes), unit="pass", disable=no_bar(progress)):
                torch.manual_seed(stream_seed(seed, DROPOUT, number))
                answers.append(predict_images(net, images, "none", dropout=True))
    finally:  # also where a pass is interrupted: the caller's net is as it was
        for layer, own in before:
            layer.p = own
    logits = np.stack([answer.logits for answer in answers])
    if passes > 1 and (logits == logits[0]).all():
        raise CheckpointError(f"{net.config.name} has no dropout layer that acts: all passes are equal; {advice}")
    first = answers[0].with_meta(split="val")
    facts = ("name", "seed", "parameters", "weights_sha256", "config_sha256", "precision", "device", "packages")
    made = {
        "method": "Monte-Carlo dropout",
        "answers": passes,
        "dropout": p,
        "dropout_trained_with": trained,
        "dropout_seed": seed,
        "views": "none",
        "members": [first.meta.picked(*facts)],
    }
    plain = np.exp(log_softmax(predict_images(net, images, "none").logits))
    return replace(_measure(logits, first, made), plain=plain)


def ensemble_uncertainty(members: Sequence[Predictions]) -> Uncertainty:
    """The uncertainty of several nets' predictions of the same images, joined by id.

    Raises DataError as `ensemble.combine` does, for files that do not belong together.
    """
    if len(members) < 2:
        raise DataError(
            "one predictions file holds one answer to each image, which cannot disagree with itself; give two or more, or "
            "a run directory for Monte-Carlo dropout"
        )
    rules = members[0].meta.rules_for(members[0].meta.file)  # which play no part
    joined = combine(members, rules=rules)  # for its checks and its meta; the mean itself says nothing of disagreement
    logits = [ordered.logits for member in members if (ordered := member.at(joined.ids)) is not None]
    facts = ("name", "seed", "run", "parameters", "views", "weights_sha256", "file", "sha256")
    listed = [member.meta.picked(*facts) for member in members]
    return _measure(np.stack(logits), joined, {"method": "ensemble", "answers": len(members), "members": listed})


@dataclass(frozen=True)
class Selective:
    """Accuracy against coverage of one uncertainty: a curve for each score, and that of the best order of these predictions.

    Of Monte-Carlo dropout also one for the net without it: its own answers, by its own confidence.
    """

    curves: dict[str, CoverageCurve]
    best: CoverageCurve

    @property
    def table(self) -> dict[str, dict[str, float]]:
        """Of each score and the best order: accuracy at each of COVERAGES, as `90 %`, and `AURC`."""
        rows = {**self.curves, "best order": self.best}
        return {
            name: {**{f"{coverage:.0%}": curve.at(coverage) for coverage in COVERAGES}, "AURC": curve.aurc}
            for name, curve in rows.items()
        }


def selective(uncertainty: Uncertainty) -> Selective:
    """The accuracy on the surest images, by each score. Only for labelled splits."""
    correct = uncertainty.correct
    curves = {name: coverage_curve(scores, correct) for name, scores in uncertainty.scores.items()}
    if uncertainty.plain is not None:
        right = uncertainty.plain.argmax(axis=1) == uncertainty.labels
        curves[WITHOUT_DROPOUT] = coverage_curve(1 - uncertainty.plain.max(axis=1), right)
    return Selective(curves, best_curve(correct))
