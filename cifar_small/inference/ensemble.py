"""Ensembles of predictions files, joined by id; their `meta` says what they are made of, so that they can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cifar_small.config.schema import Rules
from cifar_small.errors import DataError, UserError
from cifar_small.inference.blend import FITTED, Method, blend, fit_weights, select_greedily
from cifar_small.metrics.significance import mcnemar
from cifar_small.runs.formats import FORMAT
from cifar_small.runs.predictions import Predictions, find_predictions, sha256_of_shared
from cifar_small.runs.records import FittedOn, PredictionsMeta
from cifar_small.wording import differing, differing_classes, plural

TITLES: dict[str, str] = {
    "logits": "mean of logits",
    "probabilities": "mean of probabilities",
    "vote": "majority vote",
    "weighted": "weighted mean of probabilities",
    "greedy": "greedy selection",
}


def combine(
    members: Sequence[Predictions],
    method: Method = "logits",
    val: Sequence[Predictions] | None = None,
    rules: Rules | None = None,
) -> Predictions:
    """One answer of several members for the images of the first, joined by id.

    val: predictions of val by the same weights with the same views, in any order; needed where `method` fits weights, which a
    member may leave with 0. Of nets that held out other images, those are taken that all held out. rules: of the competition;
    None: those of the members, which must agree. Raises DataError when a member has other ids, class names or labels, was made
    under other rules or from other images, or shares weights with another; and for val predictions that are missing or of
    another split.

    `meta` has `method`, `members` (each with its `weight`), `left_out`, `fitted_on` (the val predictions' hashes), `parameters`
    (the sum): `blend.blend(method, logits, weights)` of the members' files gives the same logits again.
    """
    if method not in TITLES:
        raise UserError(f"there is no method {method!r}; expected one of {', '.join(TITLES)}")
    members = on_shared_images(members)
    logits = _join(members, any_rules=rules is not None)
    weights: npt.NDArray[np.float64] = np.full(len(members), 1 / len(members))
    fitted_on: FittedOn | None = None
    if method in FITTED:
        if val is None:
            raise DataError(f"method {method} fits the members' weights on val: give the val predictions of every member")
        weights, fitted_on = _fit(members, val, method)
    taken: list[int] = np.flatnonzero(weights).tolist()
    facts = [member.meta.facts() for member in members]
    names = _labels(members)
    parts = ", ".join(names[index] + (f" x {weights[index]:.3f}" if method in FITTED else "") for index in taken)
    first = members[0]
    meta = PredictionsMeta(
        format=FORMAT,
        rules=first.meta.rules if rules is None else rules.model_dump(mode="json"),
        images_sha256=first.meta.images_sha256,
        source=first.meta.source,
        split=first.meta.split,
        name=f"{TITLES[method]}: {parts}",
        method=method,
        members=[facts[index].updated(weight=float(weights[index])) for index in taken],
        left_out=[member for index, member in enumerate(facts) if index not in taken],
        fitted_on=fitted_on,
        lineage=sorted({line for index in taken for line in facts[index].lineage}),
        parameters=sum(facts[index].parameters for index in taken),
    )
    if rules is not None:
        meta = meta.updated(rules_given=True)
    if first.meta.allowed_rows is not None:
        meta = meta.updated(allowed_rows=first.meta.allowed_rows)
    return Predictions(first.ids, blend(method, logits[taken], weights[taken]), first.labels, first.classes, meta)


def short_name(meta: PredictionsMeta) -> str:
    """The name for a picture's title: of an ensemble with the number of its nets in place of theirs."""
    if not meta.members:
        return meta.name
    return f"{TITLES.get(meta.method or '', 'ensemble')} of {plural(sum(1 for _ in meta.nets()), 'net')}"


def on_shared_images(val: Sequence[Predictions]) -> list[Predictions]:
    """Predictions of val by nets that held out other images, on those that all of them held out; the same where they agree.

    Raises DataError where they share none.
    """
    trained_on = {net.data.sha256 if net.data else None for member in val for net in member.meta.nets()}
    hashes = [member.meta.images_sha256 for member in val]
    whole = len(set(hashes)) < 2 or any(member.meta.split != "val" for member in val)
    if whole or len(trained_on) > 1 or None in trained_on:
        return list(val)
    shared = reduce(np.intersect1d, [member.ids for member in val])
    if not len(shared):
        raise DataError(
            f"{' and '.join(map(_file, val))} share no image of val, so there is none that none of them was trained on; train "
            "with the same data.val_size and data.split_seed"
        )
    digest = sha256_of_shared(hashes, shared)
    return [part.with_meta(images_sha256=digest) for member in val if (part := member.at(shared)) is not None]


def _labels(members: Sequence[Predictions]) -> list[str]:
    """What each member is called beside the others: those of one name and seed by their folders too."""
    names = [member.meta.label() for member in members]
    return [member.meta.label(folder=names.count(name) > 1) for name, member in zip(names, members, strict=True)]


def _join(members: Sequence[Predictions], any_rules: bool = False) -> npt.NDArray[np.float32]:
    """The members' logits (M, N, K) in the first one's order of ids, after checking that they belong together."""
    if len(members) < 2:
        raise DataError(f"an ensemble needs at least two predictions files, got {len(members)}")
    first = members[0]
    names = [_file(member) for member in members]
    joined: list[npt.NDArray[np.float32]] = []
    for member, name in zip(members, names, strict=True):
        if member.classes != first.classes:
            raise DataError(
                f"{name} and {names[0]} have {differing_classes(member.classes, first.classes)}; the same names in the same "
                "order are needed: train with one data.classes"
            )
        if member.meta.split != first.meta.split:
            raise DataError(f"{name} is of {member.meta.split}, {names[0]} of {first.meta.split}; the same split is needed")
        if member.meta.images_sha256 != first.meta.images_sha256:
            raise DataError(
                f"{name} and {names[0]} are of different images ({member.meta.source} and {first.meta.source}); predict the "
                "same file, or the same split of the same data, with every member"
            )
        if not any_rules and (odd := differing(member.meta.rules, first.meta.rules)):
            raise DataError(
                f"{name} and {names[0]} were trained under different rules ({odd}); expected those of the competition",
                remedy="config",
            )
        ordered = member.reordered(first.ids)
        if ordered is None:
            raise DataError(f"{name} has other ids than {names[0]}; predict the same file with every member")
        if not _same(ordered.labels, first.labels):
            raise DataError(f"{name} has other labels than {names[0]}; predict the same split with every member")
        for earlier, (other, logits) in enumerate(zip(members, joined, strict=False)):
            if np.array_equal(logits, ordered.logits) or _weights(other) & _weights(member):
                raise DataError(f"{name} and {names[earlier]} have the same weights; leave one out")
        joined.append(ordered.logits)
    return np.stack(joined)


def _file(member: Predictions) -> str:
    return f"{member.meta.run}/{member.meta.file}"


def _same(labels: npt.NDArray[np.int64] | None, others: npt.NDArray[np.int64] | None) -> bool:
    if labels is None or others is None:
        return labels is others
    return np.array_equal(labels, others)


def _weights(member: Predictions) -> set[str]:
    return {net.weights_sha256 for net in member.meta.nets() if net.weights_sha256}


def _fit(
    members: Sequence[Predictions], val: Sequence[Predictions], method: Method
) -> tuple[npt.NDArray[np.float64], FittedOn]:
    """The members' weights and what they were fitted on."""
    own = on_shared_images(match_val(members, val))
    logits, labels = _join(own, any_rules=True), own[0].labels
    assert labels is not None
    weights = fit_weights(logits, labels) if method == "weighted" else select_greedily(logits, labels)
    hashes = [predictions.meta.sha256 for predictions in own]
    return weights, FittedOn(split="val", images=len(labels), images_sha256=own[0].meta.images_sha256, predictions=hashes)


def match_val(members: Sequence[Predictions], val: Sequence[Predictions]) -> list[Predictions]:
    """Each member's own predictions of val, in the members' order. Raises DataError where one is missing or not of val."""
    by_maker: dict[str, Predictions] = {}
    for predictions in val:
        if predictions.meta.split != "val" or predictions.labels is None:
            raise DataError(
                f"{_file(predictions)} is of the split {predictions.meta.split}; weights are fitted on val alone, never on "
                "what is scored: predict val"
            )
        by_maker[predictions.meta.maker] = predictions
    missing = [member for member in members if member.meta.maker not in by_maker]
    if missing:
        raise DataError(
            f"{_file(missing[0])} has no val predictions by the same weights with the same views "
            f"({missing[0].meta.views or 'as its members'}): predict val of its run with these views"
            + (f"; {len(missing)} of {len(members)} members miss theirs" if len(missing) > 1 else "")
        )
    return [by_maker[member.meta.maker] for member in members]


def find_val(paths: Sequence[Path], members: Sequence[Predictions]) -> list[Predictions]:
    """The val predictions that lie beside the members' files and were made as these were; perhaps not of every member."""
    found = []
    for path, member in zip(paths, members, strict=True):
        beside = (candidate for _, candidate in find_predictions(path.parent, "val*.npz"))
        alike = (
            candidate for candidate in beside if candidate.meta.split == "val" and candidate.meta.maker == member.meta.maker
        )
        found += [candidate for candidate in alike if candidate.labels is not None][:1]
    return found


@dataclass(frozen=True)
class Verdict:
    """What was made of several nets against the best of them, on the same labelled images."""

    what: str  # was made: ensemble, soup
    best: str  # the member that is right most often, the earlier of equals
    images: int
    accuracy: float
    best_accuracy: float
    only_ours: int  # images that only the ensemble has right
    only_best: int
    p: float  # of the exact McNemar test, two-sided
    apart: str = ""  # of a soup: why its members' weights may not fit together

    @classmethod
    def between(cls, what: str, right: npt.NDArray[np.bool_], best: str, best_right: npt.NDArray[np.bool_]) -> Verdict:
        """Compare by which images (N,) each has right."""
        only_ours, only_best, p = mcnemar(right, best_right)
        return cls(what, best, len(right), float(right.mean()), float(best_right.mean()), only_ours, only_best, p)

    def __str__(self) -> str:
        against = f"{self.accuracy:.2%} of {self.images:,} images against {self.best_accuracy:.2%} of {self.best}"
        counts = f"only the {self.what} has {self.only_ours:,} right, only that member {self.only_best:,}"
        test = f"paired exact McNemar p = {self.p:.3g}"
        if self.apart and self.only_ours < self.only_best and self.p < 0.05:
            return (
                f"the average is broken, for {self.apart}, so the same weight does another thing in each: {against} ({counts}; "
                f"{test}); use that member, or an ensemble of their predictions"
            )
        if self.only_ours <= self.only_best:
            return f"no better than its best member: {against} ({counts}; {test}); prefer that member"
        gain = 100 * (self.only_ours - self.only_best) / self.images
        chance = "" if self.p < 0.05 else ", which may be chance"
        return f"better than its best member by {gain:.2f} points{chance}: {against} ({counts}; {test})"


def judge(joined: Predictions, members: Sequence[Predictions]) -> Verdict:
    """An ensemble against its best member, on labelled images."""
    assert joined.labels is not None
    members = on_shared_images(members)
    right = [logits.argmax(axis=-1) == joined.labels for logits in _join(members, any_rules=True)]
    best = int(np.argmax([hits.sum() for hits in right]))
    return Verdict.between("ensemble", joined.correct, _labels(members)[best], right[best])
