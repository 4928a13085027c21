"""A prediction is a file: logits (N, K) with ids, class names, labels where the split has them, and what made it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError
from cifar_small.files import sha256_bytes, write_atomic, write_json
from cifar_small.metrics.classification import confusion_matrix, log_softmax, wilson_interval
from cifar_small.runs.directory import Run
from cifar_small.runs.records import PredictionsMeta, parse
from cifar_small.wording import command_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Predictions:
    """Logits of N images for K classes.

    ids: int64 (N,), unique; logits: float32 (N, K), finite; labels: int64 (N,) or None; classes: K names; meta: how they were
    made. Raises DataError naming the ids of non-finite logits.
    """

    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    meta: PredictionsMeta

    def __post_init__(self) -> None:
        source = self.meta.source or "predictions"
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
            raise DataError(f"{source}: duplicate ids; expected unique ones")
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
        """Which predictions are right, (N,). Raises DataError for a split without labels, as all below that need them."""
        return np.asarray(self.predicted == self._known_labels, np.bool_)

    @property
    def _known_labels(self) -> npt.NDArray[np.int64]:
        if self.labels is None:
            what = self.meta.file or self.meta.source or "predictions"
            raise DataError(f"{what} is of split {self.meta.split}, which has no labels to score by; expected val or test")
        return self.labels

    @property
    def accuracy(self) -> float:
        """Share of right predictions. Only for labelled splits."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy. Only for labelled splits."""
        return wilson_interval(int(self.correct.sum()), len(self.ids))

    @property
    def confusion(self) -> pd.DataFrame:
        """How many images of each true class (row) were predicted as each class (column). Only for labelled splits."""
        import pandas as pd

        counts = confusion_matrix(self._known_labels, self.predicted, len(self.classes))
        return pd.DataFrame(counts, pd.Index(self.classes, name="true"), pd.Index(self.classes, name="predicted"))

    def frame(self) -> pd.DataFrame:
        """A row for each image: id, predicted class, its probability, and the true class where the split has labels."""
        import pandas as pd

        named = np.array(self.classes)
        confidence = np.exp(log_softmax(self.logits).max(axis=1))
        table = pd.DataFrame({"id": self.ids, "predicted": named[self.predicted], "confidence": confidence})
        return table if self.labels is None else table.assign(true=named[self.labels])

    def __str__(self) -> str:
        text = f"{self.meta.name}, {self.meta.split}, views {self.meta.views}: {len(self.ids):,} images"
        if self.labels is None:
            return text
        low, high = self.interval
        return f"{text}, {self.accuracy:.2%} right (95 % interval {low:.2%} to {high:.2%})"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = self.frame().head(5) if self.labels is None else self.confusion
        return f"<p>{escape(str(self))}</p>{shown.to_html()}"

    def at(self, ids: npt.NDArray[np.int64]) -> Predictions | None:
        """The predictions of these images (M,), in their order; None where one of them is missing."""
        if not np.isin(ids, self.ids).all():
            return None
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, ids, sorter=order)]
        return replace(self, ids=ids, logits=self.logits[rows], labels=None if self.labels is None else self.labels[rows])

    def reordered(self, ids: npt.NDArray[np.int64]) -> Predictions | None:
        """The predictions in the order of these ids; None where they are not the same ones."""
        return self.at(ids) if len(ids) == len(self.ids) else None

    def with_meta(self, **changes: object) -> Predictions:
        """The same with other values in `meta`."""
        return replace(self, meta=self.meta.updated(**changes))

    def to_bytes(self) -> bytes:
        """The content of the predictions file."""
        arrays: dict[str, Any] = {"ids": self.ids, "logits": self.logits, "classes": np.array(self.classes)}
        if self.labels is not None:
            arrays["labels"] = self.labels
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=np.array(json.dumps(self.meta.plain(), allow_nan=False)), **arrays)
        return buffer.getvalue()

    def save(self, path: Path) -> str:
        """Write the file atomically and return its SHA-256."""
        content = self.to_bytes()
        write_atomic(path, content)
        return sha256_bytes(content)


MEMBERS = frozenset({"ids", "logits", "classes", "labels", "meta"})
MAX_BYTES = 2**30  # of one of them; the logits of a million images and a hundred classes take 400 MB


def load_predictions(path: str | Path) -> Predictions:
    """Read a predictions file; `meta` gains its `file` and `sha256`. Raises DataError for anything else."""
    path = Path(path)
    if path.is_dir():
        raise DataError(_folder_for_a_file(path))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected predictions/NAME.npz of a run") from None
    try:
        if not raw.startswith(b"PK"):
            raise ValueError("it is no zip archive")
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {}
            for name in MEMBERS & set(file.files):  # nothing else is unpacked, which could be of any size
                size = file.zip.getinfo(f"{name}.npy").file_size
                if size > MAX_BYTES:
                    raise ValueError(f"{name} declares {size:,} bytes; expected at most {MAX_BYTES:,}")
                arrays[name] = file[name]
        meta = json.loads(str(arrays["meta"]))
        for name, kinds, ndim in (("ids", "iu", 1), ("logits", "f", 2), ("classes", "U", 1), ("labels", "iu", 1)):
            array = arrays.get(name)
            if array is None and name == "labels":
                continue
            if array is None or array.dtype.kind not in kinds or array.ndim != ndim:
                got = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} is {got}")
    except Exception as error:  # a damaged archive raises errors of zipfile, zlib and numpy of a dozen kinds
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{path} is not a predictions file ({reason}); expected one written by cifar-small predict") from None
    labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
    classes = tuple(str(name) for name in arrays["classes"])
    known = parse(PredictionsMeta, meta, f"the meta of {path}").updated(file=path.name, sha256=sha256_bytes(raw))
    try:
        return Predictions(arrays["ids"].astype(np.int64), arrays["logits"].astype(np.float32), labels, classes, known)
    except DataError as error:
        raise DataError(f"{path}, of {error}") from None


def _folder_for_a_file(folder: Path) -> str:
    """What to say where a folder, perhaps a run directory, stands in place of a predictions file."""
    run = Run(folder)
    if not run.config_file.is_file():
        return f"{folder} is a folder; expected a predictions file, such as predictions/NAME.npz of a run"
    there = [str(path) for path in sorted(run.predictions.glob("*.npz"))]
    shown = f"{', '.join(there[:5])}{f' and {len(there) - 5} more' if len(there) > 5 else ''}"
    here = f"it has {shown}" if there else "it has none yet"
    make = command_line("predict", folder, split="submit", file="FILE")
    return f"{folder} is a run directory; expected a predictions file: {here}; `{make}` makes one of an unlabelled file"


TIMES = "seconds.json"  # beside a run's predictions, not in them: the same command writes the same bytes
TIMED = 1000  # images; what fewer take is mostly the start of the first batch


def note_seconds(run: Run, maker: str, images: int, seconds: float) -> None:
    """Keep how long so many images took what made them; of several times that of the most images counts."""
    times = _times(run)
    if images >= times.get(maker, {}).get("images", 0):
        write_json(run.predictions / TIMES, {**times, maker: {"images": images, "seconds": round(seconds, 3)}})


def seconds_of(run: Run) -> dict[str, float]:
    """The seconds that 10,000 images take, by what makes their predictions, where enough were timed to tell."""
    timed = {maker: time for maker, time in _times(run).items() if time["images"] >= TIMED}
    return {maker: 10_000 * time["seconds"] / time["images"] for maker, time in timed.items()}


def _times(run: Run) -> dict[str, dict[str, float]]:
    """Empty where the file is not there, or not ours: nothing but two columns of a table comes of it."""
    try:
        times = json.loads((run.predictions / TIMES).read_text(encoding="utf-8"))
        return {maker: {"images": float(one["images"]), "seconds": float(one["seconds"])} for maker, one in times.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def find_predictions(folder: Path, pattern: str = "*.npz") -> list[tuple[Path, Predictions]]:
    """The predictions files of a folder, by name; other archives that lie there are passed over."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with suppress(DataError):
            found.append((path, load_predictions(path)))
    return found


def sha256_of_shared(hashes: Iterable[str | None], ids: npt.NDArray[np.int64]) -> str:
    """What predictions of the images that nets with other splits of val all held out say they are of.

    hashes: of each net's val; ids: of the shared images, in any order.
    """
    return sha256_bytes(" ".join([*sorted({str(one) for one in hashes}), *map(str, sorted(ids.tolist()))]).encode())
