"""Are images the way round that they should be? Wrongly reshaped or turned arrays have a valid shape and plausible values.

Two questions with one set of candidates. An array alone: do its neighboring values differ less when its memory is read in
another order? Pictures, unlike noise, are smoothest in the right one. Beside training images: are the directions of edges, the
brightness of top and bottom and the spread of colors as they are there, or would they be after a turn?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError

Pixels = npt.NDArray[np.uint8]
Layout = Literal["HWC", "CHW"]
CHW_BELOW, HWC_ABOVE = 0.9, 1.05  # 2,000 real images, one by one: CHW at most 0.72, HWC at least 1.10; noise gives 1.00
_SCORED = 2000  # images looked at, evenly spread
# Times as rough as in another order of memory: read in the wrong one. CIFAR has 0.7 read right, and wrong, by what was done to
# it, 1.2, 1.4, 1.5 or 2.0; tinted text and textures have up to 1.2 read right. Pictures in files, which are decoded in the
# right order, are wrong only if they were written so: of them more is asked.
ROUGHER, ROUGHER_DECODED = 1.1, 1.3
_FAR = 0.35  # standard deviations of single images from which a mean is far from the training images'
_CLEAR = 25.0  # of the improvement, in squared standard errors


def _from_planes(images: Pixels) -> Pixels:
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _to_planes(images: Pixels) -> Pixels:
    return images.transpose(0, 3, 1, 2).reshape(-1, 32, 32, 3)


def _from_lines(images: Pixels) -> Pixels:
    return images.reshape(-1, 32, 3, 32).transpose(0, 1, 3, 2)


def _to_lines(images: Pixels) -> Pixels:
    return images.transpose(0, 1, 3, 2).reshape(-1, 32, 32, 3)


# What was done to the images by mistake -> what undoes it.
_PLANES = "planes (3, 32, 32) reshaped to (32, 32, 3) where they should have been transposed"
MEMORY: Mapping[str, Callable[[Pixels], Pixels]] = {
    _PLANES: _from_planes,
    "pixels (32, 32, 3) reshaped to (3, 32, 32) and transposed, though they needed neither": _to_planes,
    "lines of planes (32, 3, 32) reshaped to (32, 32, 3) where they should have been transposed": _from_lines,
    "pixels (32, 32, 3) reshaped to lines of planes (32, 3, 32) and transposed, though they needed neither": _to_lines,
}
_QUARTER = "rows and columns exchanged, or a turn by 90 degrees"
TURNS: tuple[tuple[str, Callable[[Pixels], Pixels]], ...] = (
    (_QUARTER, lambda images: images.transpose(0, 2, 1, 3)),
    (_QUARTER, lambda images: np.rot90(images, 1, axes=(1, 2))),
    (_QUARTER, lambda images: np.rot90(images, 3, axes=(1, 2))),
    ("upside down", lambda images: images[:, ::-1]),
)


@dataclass(frozen=True)
class PixelStatistics:
    """How images lie: mean and standard deviation over images of a few numbers of each.

    mean, sd: of the log ratio of horizontal to vertical differences, of top minus bottom brightness, of the log ratio of
    differences between colors to those between neighbors, and of that between third and next neighbors in a line.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def plain(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PixelStatistics:
        """The inverse of `plain`."""
        return cls(tuple(plain["mean"]), tuple(plain["sd"]))


def pixel_statistics(images: Pixels) -> PixelStatistics:
    """The statistics of images, uint8 (N, 32, 32, 3)."""
    numbers = _numbers(_some(images))
    # A deviation that is nearly none, as of gray images' colors, says nothing.
    return PixelStatistics(
        tuple(map(float, numbers.mean(axis=0))), tuple(float(max(value, 0.02)) for value in numbers.std(axis=0))
    )


@dataclass(frozen=True)
class MemoryOrder:
    """How the memory of images lies that were read as (32, 32, 3): colors side by side (HWC), in planes (CHW), or None.

    smoothness: see there; misread: what was done to them in words, if anything shows.
    """

    layout: Layout | None
    smoothness: float | None
    misread: str | None


def memory_order(images: Pixels, rougher: float = ROUGHER) -> MemoryOrder:
    """Judge by the pixels how the memory of images lies; no other function decides it.

    images: uint8 (N, 32, 32, 3), as read; rougher: as in `misread_memory`. Smoothness tells whole planes from pixels, even for
    one image; where another order of memory leaves neighbors clearly more alike, that order has the word. Gray images, whose
    three values are equal everywhere, which no other order would leave so, lie as they were read, however rough they are.
    """
    some = _some(images)
    colored = some[~is_gray(some)]
    if not len(colored):
        return MemoryOrder("HWC", smoothness(images.reshape(len(images), -1)), None)
    score, misread = smoothness(colored.reshape(len(colored), -1)), misread_memory(colored, rougher)
    if misread is not None:
        return MemoryOrder("CHW" if misread == _PLANES else None, score, misread)
    if score is None or CHW_BELOW <= score <= HWC_ABOVE:
        return MemoryOrder(None, score, None)
    return MemoryOrder("CHW" if score < CHW_BELOW else "HWC", score, None)


def is_gray(images: Pixels) -> npt.NDArray[np.bool_]:
    """Which images (N, 32, 32, 3) have three equal values in every pixel, but not one value throughout."""
    gray = (images == images[..., :1]).all(axis=(1, 2, 3))
    return np.asarray(gray & (images != images[:, :1, :1]).any(axis=(1, 2, 3)), np.bool_)


def smoothness(flat: npt.NDArray[np.uint8]) -> float | None:
    """How alike neighbors in memory are, (L1 + L32) / (L3 + L96): over 1 for HWC images, under 1 for CHW, None if constant.

    flat: uint8 (N, 3072). Lk is the mean absolute difference of values k apart.
    """
    values = _some(flat).astype(np.int16)
    lags = [float(np.abs(values[:, lag:] - values[:, :-lag]).mean()) for lag in (1, 32, 3, 96)]
    below = lags[2] + lags[3]
    return (lags[0] + lags[1]) / below if below else None


def misread_memory(images: Pixels, rougher: float = ROUGHER) -> str | None:
    """What was done to the images when their memory was read in the wrong order, in words; None: nothing, or it cannot be told.

    images: uint8 (N, 32, 32, 3), as read; rougher: how many times as rough as in another order they must be.
    """
    some = _some(images)
    some = some[(some != some[:, :1, :1]).any(axis=(1, 2, 3))]  # a picture of one color says nothing
    if not len(some):
        return None
    found = {what: _roughness(undo(some)) for what, undo in MEMORY.items()}
    what = min(found, key=lambda name: found[name])
    return what if found[what] * rougher < _roughness(some) else None


def require_in_order(images: Pixels, where: str, *, decoded: bool = False, otherwise: str = "", remedy: str = "") -> None:
    """Raise DataError for images whose memory was read in the wrong order; `where` names them.

    decoded: from picture files. otherwise, remedy: what to do where they are right all the same, in words or as a parameter.
    """
    if what := memory_order(images, ROUGHER_DECODED if decoded else ROUGHER).misread:
        arrays = "save the images as uint8 (N, 32, 32, 3), colors side by side"
        mend = "save the pictures again with their pixels in the right order" if decoded else arrays
        right = f"; if they are right as they are, {otherwise}" if otherwise else ""
        raise DataError(f"{where}: the pixels look like {what}; {mend}{right}", remedy=remedy or ())


def turned(images: Pixels, trained: PixelStatistics) -> str | None:
    """What was done to the images as against those that a net was trained on, in words; None: nothing that shows.

    images: uint8 (N, 32, 32, 3). A few dozen images are enough to tell a wrong order of memory, some hundred for upside down.
    """
    some = _some(images)
    center, sd = np.array(trained.mean), np.array(trained.sd)

    def distance(candidate: Pixels) -> float:
        return float(np.square((_numbers(candidate).mean(axis=0) - center) / sd).sum())

    here = distance(some)
    if here < _FAR**2:
        return None
    best, what = min((distance(undo(some)), what) for what, undo in (*MEMORY.items(), *TURNS))
    return what if 4 * best < here and len(some) * (here - best) > _CLEAR else None


def _some(images: Pixels) -> Pixels:
    return images[:: max(1, -(-len(images) // _SCORED))]


def _roughness(images: Pixels) -> float:
    """Mean absolute difference of neighbors along lines and columns, and a little of that between colors.

    Without the colors gray images could not be told from their planes side by side; with more of them, gaudy ones would be.
    """
    wide = images.astype(np.int16)
    down, across, colors = (float(np.abs(np.diff(wide, axis=axis)).mean()) for axis in (1, 2, 3))
    return down + across + 0.2 * colors


def _numbers(images: Pixels) -> npt.NDArray[np.float64]:
    """The numbers of each image, (N, 4); see `PixelStatistics`."""
    wide = images.astype(np.float32) / 255
    gray = wide.mean(axis=3)
    across, down = (np.abs(np.diff(gray, axis=axis)).mean(axis=(1, 2)) + 1e-3 for axis in (2, 1))
    third = np.abs(gray[:, :, 3:] - gray[:, :, :-3]).mean(axis=(1, 2)) + 1e-3
    colors = np.abs(np.diff(wide, axis=3)).mean(axis=(1, 2, 3)) + 1e-3
    brightness = gray[:, :16].mean(axis=(1, 2)) - gray[:, 16:].mean(axis=(1, 2))
    return np.stack(
        [np.log(across / down), brightness, np.log(colors / (across + down)), np.log(third / across)], axis=1, dtype=np.float64
    )
