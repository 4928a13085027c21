"""Copies among images: the same photograph byte for byte, or re-encoded, resized, brightened, tinted or moved by a pixel, and
any of these mirrored.

All pairs are compared by their 8x8 thumbnails, as products of matrices. For the few that are alike, the details are compared:
gray values less their 9x9 surroundings, so that skies and horizons, which all photographs share, do not count; over the inner
28x28 pixels, at the best of 25 shifts by up to two pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Chosen by looking at pairs of CIFAR-10: nearly all of 0.8 and over are one photograph, of those around 0.75 about half. Of 400
# training images each, found again among all 50,000: all of JPEG quality 75, of 24x24 or brightened, 99 % of JPEG 30 and of
# 16x16, 94 % made gray, 98 % moved by one pixel both ways but 59 % moved by two, 85 % cropped by one pixel and enlarged.
COARSE = 0.85  # correlation of thumbnails from which details are compared
NEAR = 0.8  # correlation of details from which an image is a near copy
_SHIFT = 2
_INNER = 32 - 2 * _SHIFT
_AROUND = 4  # pixels on each side that details are taken against
_MOST = 4  # candidates of an image in one block; of a file of nearly equal images all pairs would be
_ROWS, _COLUMNS = 1024, 16384  # of a block of products: 64 MiB
_PART = 4096  # images or pairs worked on at a time
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """The best match of each image that has one.

    index, other: (M,) places in the images and in the reference; likeness: (M,) correlation of details; exact: (M,), byte for
    byte; mirrored: (M,), left and right exchanged.
    """

    index: Indices
    other: Indices
    likeness: Floats
    exact: npt.NDArray[np.bool_]
    mirrored: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


def find_copies(images: Pixels, reference: Pixels | None = None) -> Copies:
    """Copies of images (N, 32, 32, 3) in a reference (R, 32, 32, 3), or without one among the earlier of the images themselves.

    Images of one value throughout have no thumbnail to compare and are never copies.
    """
    others = images if reference is None else reference
    found = [_compared(one, others, reference is None) for one in (images, images[:, :, ::-1])]
    index, other, likeness, exact = (np.concatenate(parts) for parts in zip(*found, strict=True))
    mirrored = np.arange(len(index)) >= len(found[0][0])
    # The best of each image first: exact, then most alike, then as it is, then the earliest.
    order = np.lexsort((other, mirrored, -likeness, ~exact, index))
    order = order[likeness[order] >= NEAR]
    best = order[np.unique(index[order], return_index=True)[1]]
    return Copies(index[best], other[best], likeness[best], exact[best], mirrored[best])


def _compared(images: Pixels, others: Pixels, within: bool) -> tuple[Indices, Indices, Floats, npt.NDArray[np.bool_]]:
    """Pairs whose thumbnails are alike: places in images and others, correlation of details, whether byte for byte."""
    index, other = _candidates(images, others, within)
    parts = [slice(start, start + _PART) for start in range(0, len(index), _PART)]
    same = [(images[index[part]] == others[other[part]]).all(axis=(1, 2, 3)) for part in parts]
    exact = np.concatenate([np.zeros(0, np.bool_), *same])
    return index, other, np.where(exact, np.float32(1), _likeness(images, others, index, other)), exact


def _candidates(images: Pixels, others: Pixels, within: bool) -> tuple[Indices, Indices]:
    """Pairs whose thumbnails are alike, as places in images and others; within: each only with earlier ones."""
    rows, columns = _thumbnails(images), _thumbnails(others)
    pairs = []
    for top in range(0, len(rows), _ROWS):
        for left in range(0, min(top + _ROWS, len(columns)) if within else len(columns), _COLUMNS):
            alike = rows[top : top + _ROWS] @ columns[left : left + _COLUMNS].T
            if within:
                height, width = alike.shape
                alike[np.arange(left, left + width) >= np.arange(top, top + height)[:, None]] = -1
            many = np.flatnonzero((alike >= COARSE).sum(axis=1) > _MOST)
            if len(many):
                kept = np.argpartition(alike[many], -_MOST, axis=1)[:, -_MOST:]
                best = np.take_along_axis(alike[many], kept, axis=1)
                alike[many] = -1
                alike[many[:, None], kept] = best
            pairs.append(np.argwhere(alike >= COARSE) + np.array([top, left]))
    index, other = np.concatenate(pairs).T
    return index, other


def _thumbnails(images: Pixels) -> Floats:
    """8x8 means, the mean of each channel removed, of unit length: (N, 192); zeros for an image without contrast."""
    lines = images.reshape(-1, 8, 4, 96).sum(axis=2, dtype=np.uint16)  # whole lines first: three numbers in a row are slow
    small = lines.reshape(-1, 8, 8, 4, 3).sum(axis=3).astype(np.float32)
    flat = (small - small.mean(axis=(1, 2), keepdims=True)).reshape(len(images), -1)
    length = np.sqrt(np.einsum("nd,nd->n", flat, flat))[:, None]
    scaled: Floats = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0.5)
    return scaled


def _likeness(images: Pixels, others: Pixels, index: Indices, other: Indices) -> Floats:
    """Correlation of the details of pairs, (M,): the largest over shifts."""
    used, at = np.unique(index, return_inverse=True)
    used_others, at_other = np.unique(other, return_inverse=True)
    (fixed, lengths), (moving, all_lengths) = _details(images[used]), _details(others[used_others])
    fixed = fixed[:, _SHIFT : _SHIFT + _INNER, _SHIFT : _SHIFT + _INNER]
    likeness = np.zeros(len(index), np.float32)
    for start in range(0, len(index), _PART):
        part = slice(start, start + _PART)
        one, two = fixed[at[part]], moving[at_other[part]]
        for row in range(2 * _SHIFT + 1):
            for column in range(2 * _SHIFT + 1):
                window = two[:, row : row + _INNER, column : column + _INNER]
                scale = lengths[at[part], _SHIFT, _SHIFT] * all_lengths[at_other[part], row, column]
                alike = np.einsum("nij,nij->n", one, window) / scale
                likeness[part] = np.maximum(likeness[part], alike)
    return likeness


def _details(images: Pixels) -> tuple[Floats, Floats]:
    """Gray values less the mean of their surroundings (N, 32, 32), and their length in each inner window (N, 5, 5)."""
    details = np.empty((len(images), 32, 32), np.float32)
    lengths = np.empty((len(images), 2 * _SHIFT + 1, 2 * _SHIFT + 1), np.float32)
    size = 2 * _AROUND + 1
    for start in range(0, len(images), _PART):
        part = slice(start, start + _PART)
        gray = images[part].sum(axis=3, dtype=np.float64) / 3
        padded = np.pad(gray, ((0, 0), (_AROUND, _AROUND), (_AROUND, _AROUND)), mode="reflect")
        details[part] = gray - _window_sums(padded, size) / size**2
        lengths[part] = np.sqrt(_window_sums(details[part].astype(np.float64) ** 2, _INNER).clip(min=1e-6))
    return details, lengths


def _window_sums(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Sums over every size x size window of (N, H, W), by an integral image: (N, H + 1 - size, W + 1 - size)."""
    whole = np.pad(values.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
    sums: npt.NDArray[np.float64] = (
        whole[:, size:, size:] - whole[:, :-size, size:] - whole[:, size:, :-size] + whole[:, :-size, :-size]
    )
    return sums
