"""Labelled images of other sources, for evaluation only: CIFAR-10-C's files, and CIFAR-10.1 or 10.2 as images with labels."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cifar_small.data.containers import integers
from cifar_small.data.images import Images
from cifar_small.data.orientation import require_in_order
from cifar_small.data.readers import npz_keys, read_npy, read_npz
from cifar_small.errors import DataError

SEVERITIES = 5  # in a file of CIFAR-10-C, one after the other


def load_corrupted(folder: Path, kind: str, severity: int, classes: tuple[str, ...]) -> Images:
    """One severity of `KIND.npy` of CIFAR-10-C, (50000, 32, 32, 3), with its part of `labels.npy`. Raises DataError."""
    path = folder / f"{kind}.npy"
    images, labels = _whole_file(path, path.stat().st_mtime_ns if path.is_file() else 0), read_npy(folder / "labels.npy")
    if images.shape[1:] != (32, 32, 3) or not len(images) or len(images) % SEVERITIES or len(labels) != len(images):
        raise DataError(
            f"{path}: is {images.shape} with {len(labels):,} labels; expected (50000, 32, 32, 3) and 50,000, "
            "five severities one after the other"
        )
    count = len(images) // SEVERITIES
    part = slice(count * (severity - 1), count * severity)
    return _labelled(images[part], labels[part], classes, f"{path} severity {severity}")


@lru_cache(maxsize=1)
def _whole_file(path: Path, _written: int) -> npt.NDArray[np.uint8]:
    """A file of 154 MB, which is asked for once for each of its severities, one after the other."""
    return read_npy(path)


def corrupted_kinds(folder: Path) -> list[str]:
    """The kinds that a folder of CIFAR-10-C has. Raises DataError for none, or no labels."""
    kinds = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    if not kinds or not (folder / "labels.npy").is_file():
        raise DataError(f"{folder}: has {len(kinds)} kinds and no labels.npy; expected CIFAR-10-C, unpacked")
    return kinds


def load_pair(path: Path, labels: Path | None, classes: tuple[str, ...]) -> Images:
    """CIFAR-10.1 as two .npy files, or CIFAR-10.2 as one .npz with `images` and `labels`. Raises DataError."""
    if labels is not None:
        return _labelled(read_npy(path), read_npy(labels), classes, str(path))
    arrays = read_npz(path, ("images", "labels"))
    if len(arrays) < 2:
        raise DataError(f"{path}: has {', '.join(npz_keys(path)) or 'nothing'}; expected images and labels")
    return _labelled(arrays["images"], arrays["labels"], classes, str(path))


def _labelled(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: tuple[str, ...], source: str) -> Images:
    ids = np.arange(len(images), dtype=np.int64)
    loaded = Images(np.ascontiguousarray(images), integers(labels, source), ids, classes, source)
    require_in_order(loaded.images, source)
    return loaded
