"""`Images`: the one value every data source becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError


@dataclass(frozen=True)
class Images:
    """Images in memory with what is known about them.

    images: uint8 (N, 32, 32, 3), RGB; labels: int64 (N,) in [0, K) or None; ids: int64 (N,), unique; classes: K names;
    source: what it was read from, for messages and records. Raises DataError when the parts do not fit together.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    ids: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        shape, count = self.images.shape, len(self.images)
        if self.images.dtype != np.uint8 or shape[1:] != (32, 32, 3):
            raise DataError(f"{self.source}: images are {self.images.dtype} {shape}; expected uint8 (N, 32, 32, 3)")
        if not count:
            raise DataError(f"{self.source}: no images; expected at least one")
        if len(self.ids) != count:
            raise DataError(f"{self.source}: {len(self.ids):,} ids for {count:,} images; expected as many")
        unique, counts = np.unique(self.ids, return_counts=True)
        if len(unique) != count:
            raise DataError(f"{self.source}: duplicate ids, first {unique[counts > 1][:5].tolist()}; expected unique ids")
        if self.labels is None:
            return
        if len(self.labels) != count:
            raise DataError(f"{self.source}: {len(self.labels):,} labels for {count:,} images; expected as many")
        if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise DataError(f"{self.source}: two classes are named {twice[0]!r}; expected different names")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.source}: labels span {low}..{high}; expected 0..{len(self.classes) - 1} ({len(self.classes)} classes)"
            )

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over shapes, pixels, labels, ids and class names."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes, self.labels is not None)).encode())
        for array in (self.images, self.labels, self.ids):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def take(self, indices: npt.NDArray[np.int64]) -> Images:
        """The images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return Images(self.images[indices], labels, self.ids[indices], self.classes, self.source)
