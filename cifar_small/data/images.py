"""`Images`: the one value every data source becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cifar_small.data.conversions import how_to_convert
from cifar_small.errors import DataError

SIDE = 32  # pixels a side of what data sets of arrays hold


@dataclass(frozen=True)
class Images:
    """Images in memory with what is known about them.

    images: uint8 (N, 32, 32, 3), RGB, or larger squares; labels: int64 (N,) in [0, K) or None; ids: int64 (N,), unique;
    classes: K names; source: what it was read from, for messages and records; small: of larger images the same at 32x32, by
    which they are recognized; notes: what a reader should know of how they were read, in words. Raises DataError when the
    parts do not fit together.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    ids: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    small: npt.NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, count = self.at_32.shape, len(self.images)
        if self.at_32.dtype != np.uint8 or shape[1:] != (SIDE, SIDE, 3):
            how = how_to_convert(self.at_32)
            raise DataError(
                f"{self.source}: images are {self.at_32.dtype} {shape}; expected uint8 (N, 32, 32, 3)" + f"; {how}" * bool(how)
            )
        assert self.images.shape == (len(self.at_32), self.side, self.side, 3)
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
            from_1 = "; counted from 1? then subtract 1" if (low, high) == (1, len(self.classes)) else ""
            raise DataError(
                f"{self.source}: labels span {low}..{high}; expected 0..{len(self.classes) - 1} ({len(self.classes)} classes)"
                + from_1
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Pixels a side."""
        return int(self.images.shape[1])

    @property
    def at_32(self) -> npt.NDArray[np.uint8]:
        """The images at 32x32, which say what they show whatever size a net wants: for hashes, copies, the order of memory."""
        return self.images if self.small is None else self.small

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over shapes, pixels at 32x32, labels, ids and class names: the same for nets of every size."""
        digest = hashlib.sha256(repr((self.at_32.shape, self.classes, self.labels is not None)).encode())
        for array in (self.at_32, self.labels, self.ids):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def take(self, indices: npt.NDArray[np.int64]) -> Images:
        """The images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        small = None if self.small is None else self.small[indices]
        return Images(self.images[indices], labels, self.ids[indices], self.classes, self.source, small, self.notes)

    def enlarged(self, side: int) -> Images:
        """The images at least at `side` pixels a side: those of 32x32 by Pillow's bicubic kernel, as pictures are read."""
        if side <= self.side:
            return self
        from PIL import Image

        whole = (side, side)
        larger = np.stack([np.asarray(Image.fromarray(one).resize(whole, Image.Resampling.BICUBIC)) for one in self.images])
        return replace(self, images=larger, small=self.at_32)
