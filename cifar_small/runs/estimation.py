"""The record of an estimate without labels: which file was looked at, with which predictions, and what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cifar_small.errors import DataError
from cifar_small.runs.predictions import Predictions
from cifar_small.runs.records import Facts, parse

Interval = tuple[float, float, float]  # estimate, low, high, as shares


class LookedAt(Facts):
    """The unlabelled file."""

    source: str | None
    images: int
    images_sha256: str


class EstimatedRun(Facts):
    """What a run is expected to score."""

    name: str
    maker: str  # as `PredictionsMeta.maker`
    predictions_sha256: str | None
    val_predictions_sha256: str | None
    val_accuracy: float
    estimate: float
    low: float
    high: float
    estimators: dict[str, float]

    @property
    def interval(self) -> Interval:
        """The estimate and its interval."""
        return self.estimate, self.low, self.high


class EstimationRecord(Facts):
    """`estimate.json`."""

    format: int
    estimated: str
    command: str
    looked_at: LookedAt
    labels_of_the_file: str
    calibration: dict[str, Any]
    runs: list[EstimatedRun]
    notes: list[str]
    warnings: list[str]

    def by_maker(self) -> dict[str, Interval]:
        """The estimate of each run by what made its predictions."""
        return {run.maker: run.interval for run in self.runs}

    def used_for(self, predictions: Predictions, path: Path, sha256: str) -> dict[str, Any]:
        """What the record of a submission says of this one. Raises DataError where it is of other images or lacks the run."""
        meta = predictions.meta
        if meta.images_sha256 != self.looked_at.images_sha256:
            raise DataError(f"{path} is of {self.looked_at.source}; {meta.file} is of other images ({meta.source})")
        own = next((run for run in self.runs if run.maker == meta.maker), None)
        if own is None:
            raise DataError(f"{path} has no estimate of {meta.label()}; it has {', '.join(run.name for run in self.runs)}")
        highest = own.estimate == max(run.estimate for run in self.runs)
        facts = {"file": path.name, "sha256": sha256, "runs": len(self.runs), "highest": highest}
        return {**facts, "estimate": own.estimate, "low": own.low, "high": own.high}


def load_estimation(path: Path) -> EstimationRecord:
    """The record in a file. Raises DataError."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; expected the JSON that estimate wrote") from None
    except ValueError:
        raise DataError(f"{path} is not JSON; expected what estimate wrote") from None
    return parse(EstimationRecord, plain, path, expected="; expected what estimate wrote")
