"""A prediction is a file: logits (N, K) with ids, class names, labels where the split has them, and what made it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from cifar_small.config.schema import Rules
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
        if self.labels is not None and len(self.labels):
            low, high = self.labels.min(), self.labels.max()
            if low < 0 or high >= len(self.classes):
                raise DataError(f"{source}: labels span {low}..{high}; expected 0..{len(self.classes) - 1}")
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

    def to_bytes(self) -> bytes:
        """The content of the predictions file."""
        arrays: dict[str, Any] = {"ids": self.ids, "logits": self.logits, "classes": np.array(self.classes)}
        if self.labels is not None:
            arrays["labels"] = self.labels
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=np.array(json.dumps(self.meta, allow_nan=False)), **arrays)
        return buffer.getvalue()

    def save(self, path: Path) -> str:
        """Write the file atomically and return its SHA-256."""
        content = self.to_bytes()
        write_atomic(path, content)
        return sha256_bytes(content)


NEEDED = {"name": str, "parameters": int, "rules": dict, "images_sha256": str}  # in meta, by everything that follows


def load_predictions(path: str | Path) -> Predictions:
    """Read a predictions file; `meta` gains its `file` and `sha256`. Raises DataError for anything else."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected predictions/NAME.npz of a run") from None
    try:
        if not raw.startswith(b"PK"):
            raise ValueError("it is no zip archive")
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays["meta"]))
        for name, kinds, ndim in (("ids", "iu", 1), ("logits", "f", 2), ("classes", "U", 1), ("labels", "iu", 1)):
            array = arrays.get(name)
            if array is None and name == "labels":
                continue
            if array is None or array.dtype.kind not in kinds or array.ndim != ndim:
                got = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} is {got}")
        if not isinstance(meta, dict) or not all(isinstance(meta.get(key), kind) for key, kind in NEEDED.items()):
            raise ValueError(f"its meta does not hold {', '.join(NEEDED)}")
    except Exception as error:  # a damaged archive raises errors of zipfile, zlib and numpy of a dozen kinds
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{path} is not a predictions file ({reason}); expected one written by cifar-small predict") from None
    labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
    classes = tuple(str(name) for name in arrays["classes"])
    meta |= {"file": path.name, "sha256": sha256_bytes(raw)}
    try:
        return Predictions(arrays["ids"].astype(np.int64), arrays["logits"].astype(np.float32), labels, classes, meta)
    except DataError as error:
        raise DataError(f"{path}, of {error}") from None


def rules_of(meta: Mapping[str, Any], name: object) -> Rules:
    """The rules that predictions were made under, by their `meta`; `name` is theirs in messages. Raises DataError."""
    try:
        return Rules.model_validate(meta["rules"])
    except ValidationError as error:
        raise DataError(f"{name}: its rules cannot be read ({error.error_count()} problems); predict again") from None


def label(meta: dict[str, Any], folder: bool = False) -> str:
    """How a member is called in a sentence, if need be with its run's folder."""
    facts = ([f"seed {meta['seed']}"] if "seed" in meta else []) + ([str(meta.get("run"))] if folder else [])
    return f"{meta['name']} ({', '.join(facts)})" if facts else str(meta["name"])


def nets_of(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """The facts of every net that had a part in predictions, through ensembles of ensembles."""
    return [net for member in meta["members"] for net in nets_of(member)] if meta.get("members") else [meta]
