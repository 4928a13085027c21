"""Predictions made of few numbers, for the tests of everything that works on predictions files."""

from __future__ import annotations

from typing import Any

import numpy as np

from cifar_small.config.schema import Rules
from cifar_small.runs.predictions import Predictions

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def made(
    predicted: Any = (3, 1, 4),
    ids: Any = None,
    *,
    classes: tuple[str, ...] = NAMES,
    labels: Any = None,
    rules: dict[str, Any] | None = None,
    seed: int | None = None,
    **meta: Any,
) -> Predictions:
    """Predictions of these classes for these ids (default: 0, 1, ...); with `seed` the logits carry noise."""
    predicted = np.asarray(predicted, np.int64)
    logits = np.zeros((len(predicted), len(classes)), np.float32)
    logits[np.arange(len(predicted)), predicted] = 2.5
    if seed is not None:
        logits += np.random.default_rng(seed).normal(0, 0.3, logits.shape).astype(np.float32)
    facts = {
        "name": "net",
        "seed": 0 if seed is None else seed,
        "run": "net-seed0",
        "parameters": 1000,
        "rules": Rules(**(rules or {})).model_dump(),
        "images_sha256": "f" * 64,
        "source": "file.pkl",
        "split": "submit",
        "views": "none",
        "lineage": [],
        "weights_sha256": f"{seed}",
    }
    return Predictions(
        np.arange(len(predicted)) if ids is None else np.asarray(ids, np.int64),
        logits,
        None if labels is None else np.asarray(labels, np.int64),
        classes,
        {**facts, **meta},
    )
