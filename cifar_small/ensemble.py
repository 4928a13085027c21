"""Ensembles of predictions files, joined by id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
    names = [str(member.meta.get("file", position)) for position, member in enumerate(members)]
    total = np.zeros(first.logits.shape, np.float64)
    for position, (member, name) in enumerate(zip(members, names, strict=True)):
        for other, earlier in zip(members[:position], names, strict=False):
            if np.array_equal(np.sort(other.ids), np.sort(member.ids)) and np.array_equal(other.logits, member.logits):
                raise DataError(f"{name} holds the same logits as {earlier}; leave one out")
        if member.classes != first.classes:
            raise DataError(
                f"{name} has classes {list(member.classes)[:3]}..., {names[0]} {list(first.classes)[:3]}...; same order needed"
            )
        for key in ("images_sha256", "rules"):
            if member.meta.get(key) != first.meta.get(key):
                raise DataError(
                    f"{name} and {names[0]} differ in {key}: {member.meta.get(key)} and {first.meta.get(key)}; predict again"
                )
        order = np.argsort(member.ids)
        place = np.searchsorted(member.ids, first.ids, sorter=order)
        if len(member.ids) != len(first.ids) or not np.array_equal(np.sort(member.ids), np.sort(first.ids)):
            raise DataError(f"{name} has other ids than {names[0]}; predict the same file with every member")
        total += member.logits[order[place]]
    facts = (
        "name",
        "seed",
        "run",
        "parameters",
        "val_accuracy",
        "views",
        "weights_sha256",
        "config_sha256",
        "sha256",
        "data",
        "lineage",
    )
    meta: dict[str, Any] = {
        **{key: first.meta.get(key) for key in ("rules", "images_sha256", "source", "split")},
        "name": "mean of logits: "
        + ", ".join(f"{member.meta.get('name')} (seed {member.meta.get('seed')})" for member in members),
        "members": [{key: member.meta.get(key) for key in facts} for member in members],
        "parameters": sum(int(member.meta["parameters"]) for member in members),
    }
    return Predictions(first.ids, (total / len(members)).astype(np.float32), first.labels, first.classes, meta)
