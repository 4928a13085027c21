"""Predictions made of few numbers, and pictures, for the tests of everything that works on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cifar_small.config.schema import Rules
from cifar_small.runs.predictions import Predictions
from cifar_small.runs.records import PredictionsMeta, parse

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
        parse(PredictionsMeta, {**facts, **meta}, "made"),
    )


def photographs(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """Images that are smooth as photographs are: noise at several scales, each channel alike, (N, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((count, side, side, 3))
    for cells, weight in ((4, 1.0), (8, 0.7), (16, 0.4), (32, 0.12)):
        grid = rng.standard_normal((count, cells, cells, 1)) + 0.4 * rng.standard_normal((count, cells, cells, 3))
        total += weight * grid.repeat(side // cells, axis=1).repeat(side // cells, axis=2)
    return np.clip(120 + 45 * total, 0, 255).astype(np.uint8)


def summary_of(**changes: Any) -> dict[str, Any]:
    """A summary as plain values."""
    facts: dict[str, Any] = {
        "name": "net",
        "seed": 0,
        "parameters": 1000,
        "max_params": 5_000_000,
        "epochs": 30,
        "epochs_planned": changes.get("epochs", 30),
        "selection": "last",
        "selected_epoch": 30,
        "val_accuracy": 0.5,
        "val_interval": [0.4, 0.6],
        "val_images": 5000,
        "views": "flip",
        "val_accuracy_plain": 0.5,
        "data": {"source": "cifar10"},
        "config_sha256": "c" * 64,
        "recipe_sha256": "a" * 64,
        "weights_sha256": "w" * 64,
        "seconds": 600.0,
    }
    return {**facts, **changes}


def session_of(**changes: Any) -> dict[str, Any]:
    """A session as plain values."""
    facts = {"started": "2026-01-01", "command": "cifar-small train", "device": "a CPU", "precision": "fp32", "threads": 2}
    return {**facts, **changes}


def reading_of(accuracy: float, **changes: Any) -> dict[str, Any]:
    """A reading of test as plain values."""
    facts = {"time": "2026-01-02T00:00:00+00:00", "command": "predict", "views": "flip", "images": 10_000, "accuracy": accuracy}
    return {**facts, "predictions": "test.npz", "predictions_sha256": "p" * 64, **changes}
