"""Stratified choices of images that are the same on every machine: they depend on labels, sizes and a seed alone."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError
from cifar_small.wording import plural

Indices = npt.NDArray[np.int64]


def stratified_split(labels: npt.NDArray[np.int64], val_size: int, seed: int) -> tuple[Indices, Indices]:
    """Train and validation indices, each sorted; validation has the class shares of `labels`, to within one image.

    labels: int64 (N,); a class with two or more images keeps at least one in train. Raises DataError.
    """
    count = len(labels)
    if not 1 <= val_size < count:
        raise DataError(f"val_size {val_size:,} of {count:,} labelled images; expected 1 to {count - 1:,}; set data.val_size")
    _, sizes = np.unique(labels, return_counts=True)
    most = np.where(sizes > 1, sizes - 1, sizes)
    if val_size > most.sum():
        raise DataError(
            f"val_size {val_size:,} of {count:,} labelled images would leave a class without training images; "
            f"expected at most {most.sum():,}; lower data.val_size"
        )
    val = _draw(labels, _shares(sizes, most, val_size), seed)
    train = np.setdiff1d(np.arange(count, dtype=np.int64), val, assume_unique=True)
    return train, val


def stratified_subset(labels: npt.NDArray[np.int64], size: int, seed: int) -> Indices:
    """Sorted indices of `size` images with the class shares of `labels`, to within one image. Raises DataError."""
    if not 1 <= size <= len(labels):
        raise DataError(
            f"a subset of {size:,} from {len(labels):,} images; expected 1 to {len(labels):,}; set data.train_limit"
        )
    _, sizes = np.unique(labels, return_counts=True)
    return _draw(labels, _shares(sizes, sizes, size), seed)


def index_hash(indices: Indices) -> str:
    """SHA-256 of the indices in their order, the same on every machine."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()


def _shares(sizes: Indices, most: Indices, total: int) -> Indices:
    """How many of each class, by largest remainder, at most `most` of each; whole-number arithmetic, so no rounding."""
    shares: Indices = np.minimum(sizes * total // sizes.sum(), most)
    order = np.argsort(-(sizes * total % sizes.sum()), kind="stable")
    while missing := int(total - shares.sum()):
        room = order[shares[order] < most[order]]
        shares[room[:missing]] += 1
    return shares


def _draw(labels: npt.NDArray[np.int64], shares: Indices, seed: int) -> Indices:
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = []
    for label, share in zip(np.unique(labels), shares, strict=True):
        members = np.flatnonzero(labels == label)
        chosen.append(generator.permutation(members)[:share])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def halves(labels: Indices) -> tuple[Indices, Indices]:
    """Two halves of N labelled images with the same class shares, as sorted indices, for fitting on one and scoring the other.

    The same for the same labels. Raises DataError for fewer than two images.
    """
    if len(labels) < 2:
        raise DataError(f"{plural(len(labels), 'labelled image')}; expected two or more: one half to fit, one to score")
    return stratified_split(labels, len(labels) // 2, seed=0)
