"""Ensembles of predictions files, joined by id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError
from cifar_small.predictions import Predictions


def mean_logits(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' logits for the images of the first, joined by id.

    Raises DataError when a member has other ids, class names or labels, was made under other rules or from other images, or
    is the same file as another. `meta` lists the members with the parameters of each and their sum.
    """
    if len(members) < 2:
        raise DataError(f"an ensemble needs at least two predictions files, got {len(members)}")
    first = members[0]
    names = [f"{member.meta.get('run')}/{member.meta.get('file')}" for member in members]
    joined: list[npt.NDArray[np.float32]] = []
    for member, name in zip(members, names, strict=True):
        if member.classes != first.classes:
            own, others = list(member.classes)[:3], list(first.classes)[:3]
            raise DataError(f"{name} has classes {own}..., {names[0]} {others}...; the same names in the same order are needed")
        for key in ("images_sha256", "rules"):
            if member.meta.get(key) != first.meta.get(key):
                raise DataError(
                    f"{name} and {names[0]} differ in {key}: {member.meta.get(key)} and {first.meta.get(key)}; predict again"
                )
        order = np.argsort(member.ids)
        if not np.array_equal(member.ids[order], np.sort(first.ids)):
            raise DataError(f"{name} has other ids than {names[0]}; predict the same file with every member")
        place = order[np.searchsorted(member.ids, first.ids, sorter=order)]
        if not _same(None if member.labels is None else member.labels[place], first.labels):
            raise DataError(f"{name} has other labels than {names[0]}; predict the same split with every member")
        for earlier, (other, logits) in enumerate(zip(members, joined, strict=False)):
            checkpoints = [one.meta.get("weights_sha256") for one in (member, other)]
            if np.array_equal(logits, member.logits[place]) or (checkpoints[0] and checkpoints[0] == checkpoints[1]):
                raise DataError(
                    f"{name} and {names[earlier]} are of the same weights; leave one out (--views averages views of one net)"
                )
        joined.append(member.logits[place])
    facts = (
        "name",
        "seed",
        "run",
        "parameters",
        "val_accuracy",
        "views",
        "checkpoint",
        "weights_sha256",
        "config_sha256",
        "sha256",
        "data",
        "lineage",
        "config",
        "packages",
    )
    meta: dict[str, Any] = {
        **{key: first.meta.get(key) for key in ("rules", "images_sha256", "source", "split")},
        "name": "mean of logits: "
        + ", ".join(f"{member.meta.get('name')} (seed {member.meta.get('seed')})" for member in members),
        "members": [{key: member.meta.get(key) for key in facts} for member in members],
        "lineage": sorted({str(one) for member in members for one in member.meta.get("lineage") or []}),
        "parameters": sum(int(member.meta["parameters"]) for member in members),
    }
    logits = np.asarray(np.mean(np.stack(joined), axis=0, dtype=np.float64), np.float32)
    return Predictions(first.ids, logits, first.labels, first.classes, meta)


def _same(labels: npt.NDArray[np.int64] | None, others: npt.NDArray[np.int64] | None) -> bool:
    if labels is None or others is None:
        return labels is others
    return np.array_equal(labels, others)
