"""A prediction is a file: logits (N, K) with ids, class names, labels where the split has them, and what made it."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError
from cifar_small.files import sha256_bytes, write_atomic


@dataclass(frozen=True)
class Predictions:
    """Logits of N images for K classes.

    ids: int64 (N,), unique; logits: float32 (N, K), finite; labels: int64 (N,) or None; classes: K names; meta: how they were
    made (run, hashes, parameters, views, rules ...), plain JSON values. Raises DataError naming the ids of non-finite logits.
    """

    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        source = self.meta.get("source", "predictions")
        if self.logits.shape != (len(self.ids), len(self.classes)):
            raise DataError(
                f"{source}: logits are {self.logits.shape}; expected {(len(self.ids), len(self.classes))} (ids, classes)"
            )
        if self.labels is not None and len(self.labels) != len(self.ids):
            raise DataError(f"{source}: {len(self.labels):,} labels for {len(self.ids):,} ids; expected as many")
        if len(np.unique(self.ids)) != len(self.ids):
            raise DataError(f"{source}: an id stands more than once; expected unique ids")
        broken = self.ids[~np.isfinite(self.logits).all(axis=1)]
        if len(broken):
            raise DataError(
                f"{source}: {len(broken):,} of {len(self.ids):,} images have NaN or infinite logits, first ids "
                f"{broken[:5].tolist()}; their argmax would silently be class 0: check the checkpoint"
            )

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The class of the largest logit, (N,)."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which predictions are right, (N,). Only for labelled splits."""
        assert self.labels is not None
        return np.asarray(self.predicted == self.labels, np.bool_)

    @property
    def accuracy(self) -> float:
        """Share of right predictions. Only for labelled splits."""
        return float(self.correct.mean())

    def save(self, path: Path) -> str:
        """Write the file atomically and return its SHA-256."""
        arrays: dict[str, Any] = {"ids": self.ids, "logits": self.logits, "classes": np.array(self.classes)}
        if self.labels is not None:
            arrays["labels"] = self.labels
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=np.array(json.dumps(self.meta, allow_nan=False)), **arrays)
        write_atomic(path, buffer.getvalue())
        return sha256_bytes(buffer.getvalue())


def load_predictions(path: str | Path) -> Predictions:
    """Read a predictions file; `meta` gains its `file` and `sha256`. Raises DataError for anything else."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            labels = file["labels"].astype(np.int64) if "labels" in file else None
            ids, logits = file["ids"].astype(np.int64), file["logits"].astype(np.float32)
            classes = tuple(str(name) for name in file["classes"])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected predictions/NAME.npz of a run") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a predictions file ({error}); expected one written by cifar-small predict") from None
    return Predictions(ids, logits, labels, classes, {**meta, "file": path.name, "sha256": sha256_bytes(raw)})
