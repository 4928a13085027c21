"""An uncertainty for readers: the table for the terminal; npz, CSV, JSON and a picture in a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cifar_small.evaluation.uncertainty import Selective, Uncertainty
from cifar_small.figures.evaluation import draw_coverage
from cifar_small.figures.style import save
from cifar_small.files import to_csv, write_atomic, write_json
from cifar_small.metrics.classification import wilson_interval
from cifar_small.reporting.tables import Table, to_text

FILES = ("uncertainty.npz", "uncertainty.csv", "uncertainty.json", "coverage.csv", "coverage.png")
ENTROPIES = ("predictive_entropy", "expected_entropy", "mutual_information")


def title_of(uncertainty: Uncertainty) -> str:
    """How the answers were made, in a line."""
    meta = uncertainty.meta
    names = ", ".join(dict.fromkeys(str(member["name"]) for member in meta["members"]))
    how = f"{meta['method']} of {names}: {meta['answers']} answers"
    return f"{how}, p {meta['dropout']:g}; {meta['split']}" if "dropout" in meta else f"{how}; {meta['split']}"


def describe_uncertainty(uncertainty: Uncertainty, found: Selective | None) -> str:
    """For the terminal: mean entropies, and with labels accuracy and its table over coverage."""
    total = len(uncertainty.ids)
    means = ", ".join(f"{key.replace('_', ' ')} {getattr(uncertainty, key).mean():.4f}" for key in ENTROPIES)
    lines = [f"{title_of(uncertainty)}, {total:,} images", f"nats, mean over images: {means}"]
    if found is None:
        return "\n".join([*lines, "no labels, so accuracy is unknown"])
    right = int(uncertainty.correct.sum())
    low, high = wilson_interval(right, total)
    lines.append(f"accuracy of the mean answer {right / total:.2%}, 95 % interval {low:.2%} to {high:.2%}")
    rows = [
        (name, *(f"{value:.4f}" if column == "AURC" else f"{100 * value:.2f}" for column, value in row.items()))
        for name, row in found.table.items()
    ]
    header = ("ordered by", *next(iter(found.table.values())))
    note = "accuracy, %, on the surest images by each score; AURC: area under the curve of risk, smaller is better"
    return "\n".join([*lines, "", to_text([Table("", header, tuple(rows), (note,))])])


def write_uncertainty(uncertainty: Uncertainty, found: Selective | None, folder: Path) -> list[Path]:
    """Write per-image values (npz, CSV), the table (JSON) and, with labels, the curves (CSV, picture); returns the paths."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # of one that this replaces, and that may have had labels
    write_atomic(folder / "uncertainty.npz", _npz(uncertainty))
    write_atomic(folder / "uncertainty.csv", to_csv(*_per_image(uncertainty)).encode())
    summary = {
        **uncertainty.meta,
        "images": len(uncertainty.ids),
        "means_nats": {key: float(getattr(uncertainty, key).mean()) for key in ENTROPIES},
        "accuracy": None if found is None else float(uncertainty.correct.mean()),
        "accuracy_at_coverage": None if found is None else found.table,
    }
    write_json(folder / "uncertainty.json", summary)
    if found is not None:
        shares = [percent / 100 for percent in range(1, 101)]
        columns = {**found.curves, "best order": found.best}
        rows = ([f"{share:.2f}", *(f"{curve.at(share):.6f}" for curve in columns.values())] for share in shares)
        header = ["coverage", *(f"accuracy by {name}" for name in columns)]
        write_atomic(folder / "coverage.csv", to_csv(header, rows).encode())
        right = uncertainty.correct
        entropies = (uncertainty.predictive_entropy[right], uncertainty.predictive_entropy[~right])
        save(draw_coverage(found.curves, found.best, entropies, title_of(uncertainty)), folder / "coverage.png")
    return [path for name in FILES if (path := folder / name).exists()]


def _npz(uncertainty: Uncertainty) -> bytes:
    arrays: dict[str, Any] = {key: getattr(uncertainty, key) for key in ("ids", "probabilities", "predicted", *ENTROPIES)}
    if uncertainty.labels is not None:
        arrays["labels"] = uncertainty.labels
    buffer = io.BytesIO()
    meta = json.dumps(uncertainty.meta, allow_nan=False)
    np.savez_compressed(buffer, meta=np.array(meta), classes=np.array(uncertainty.classes), **arrays)
    return buffer.getvalue()


def _per_image(uncertainty: Uncertainty) -> tuple[list[str], Iterable[list[Any]]]:
    names, labels, predicted = uncertainty.classes, uncertainty.labels, uncertainty.predicted
    values = [uncertainty.confidence, *(getattr(uncertainty, key) for key in ENTROPIES)]
    header = ["id", *(["true"] if labels is not None else []), "predicted", "confidence", *ENTROPIES]

    def row(place: int) -> list[Any]:
        true = [] if labels is None else [names[labels[place]]]
        return [int(uncertainty.ids[place]), *true, names[predicted[place]], *(f"{column[place]:.6f}" for column in values)]

    return header, (row(place) for place in range(len(uncertainty.ids)))
