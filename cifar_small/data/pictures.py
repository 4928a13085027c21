"""Single pictures: PNG, JPEG and WebP of any size, brought to one size, RGB, as they are read.

A picture of that size is taken as it is. Of another the largest square in its middle is resized by Pillow's bicubic kernel,
which widens with the reduction (antialiasing). JPEGs are first turned as their EXIF orientation says. What is transparent is
shown on white, as most viewers show it: below it may lie anything.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from cifar_small.data.formats import PICTURES, format_of_file
from cifar_small.data.images import SIDE
from cifar_small.environment import memory_at_hand, no_bar
from cifar_small.errors import DataError
from cifar_small.wording import plural

if TYPE_CHECKING:
    from PIL.Image import Image

KERNEL = "the middle square, by Pillow's bicubic kernel with antialiasing"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")
_MOST_PIXELS = 2**26  # of one picture, before it is decoded
Pixels = npt.NDArray[np.uint8]


class Pictures(NamedTuple):
    """Pictures as they were read.

    pixels: uint8 (N, side, side, 3); small: the same at 32x32, None where that is the side; resized: how many were of another
    size than the side; transparent: how many had pixels that are not opaque.
    """

    pixels: Pixels
    small: Pixels | None
    resized: int
    transparent: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What the pixels do not show of how they were stored, in words."""
        return (f"{plural(self.transparent, 'picture')} with transparent pixels, shown on white",) if self.transparent else ()


def read_picture(source: Path | bytes, where: str = "") -> Image:
    """A picture in RGB, upright, or in RGBA where some of its pixels are not opaque; gray and palette are converted.

    source: a file, or its bytes, which `where` names. Raises DataError.
    """
    from PIL import Image, ImageOps

    where = where or str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as picture:
            # Size and mode stand in the header; what is not wanted is refused before it is decoded.
            size, mode = picture.size, picture.mode
            if mode in _MODES and size[0] * size[1] <= _MOST_PIXELS:
                upright = ImageOps.exif_transpose(picture)
                if upright.has_transparency_data:
                    upright = upright.convert("RGBA")
                    if upright.getchannel("A").getextrema() != (255, 255):
                        return upright
                return upright.convert("RGB")
    except Exception as error:
        known = format_of_file(source, PICTURES) if isinstance(source, Path) and source.is_file() else None
        reason = known or f"is not a readable picture ({type(error).__name__}: {error})"
        raise DataError(f"{where}: {reason}; expected PNG, JPEG or WebP") from error
    if mode not in _MODES:
        raise DataError(f"{where}: has pixel format {mode}; expected 8 bits a channel ({', '.join(_MODES)}); convert it first")
    raise DataError(f"{where}: is {size[0]}x{size[1]} pixels; expected at most {_MOST_PIXELS:,} in all; make it smaller first")


def fitted(picture: Image, side: int) -> Pixels:
    """A picture as uint8 (side, side, 3), on white: as it is where that is its size, else its middle square resized."""
    from PIL import Image, ImageOps

    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)


def read_pictures(sources: Sequence[Path | bytes], where: str, side: int = SIDE) -> Pictures:
    """Pictures at `side` pixels a side, but at 32x32 where that is the size of all. Raises DataError."""
    if side != SIDE and all(_stored_size(source) == (SIDE, SIDE) for source in sources):
        side = SIDE
    small = np.empty((len(sources), SIDE, SIDE, 3), np.uint8) if side != SIDE else None
    _require_memory(len(sources), side, where)
    pixels, resized, transparent = np.empty((len(sources), side, side, 3), np.uint8), 0, 0
    slow = len(sources) > 5000  # some seconds
    for row, source in enumerate(tqdm(sources, desc=f"reading {where}", unit="picture", disable=no_bar(slow))):
        picture = read_picture(source, f"{where} row {row}" if isinstance(source, bytes) else "")
        pixels[row] = fitted(picture, side)
        if small is not None:
            small[row] = fitted(picture, SIDE)
        resized += picture.size != (side, side)
        transparent += picture.mode == "RGBA"
    return Pictures(pixels, small, resized, transparent)


def _stored_size(source: Path | bytes) -> tuple[int, int] | None:
    """Width and height as the header says; None for what is no picture, which reading it explains."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as picture:
            return picture.size
    except Exception:
        return None


def _require_memory(count: int, side: int, where: str) -> None:
    """Raise DataError for more pictures than the memory holds twice: as they are read, and split into train and val."""
    needed, there = 2 * 3 * count * side**2, memory_at_hand()
    if there is not None and needed > there:
        raise DataError(
            f"{where}: {count:,} pictures at {side}x{side} take {needed / 1e9:.1f} GB of memory while they are split, and "
            f"{there / 1e9:.1f} GB are available; lower input.size, or use a machine with more memory"
        )


def stored_sizes(files: Sequence[Path]) -> Counter[tuple[int, int]]:
    """How many pictures are stored at each width and height, as their headers say; files: those that were read before."""
    bar = tqdm(files, desc="sizes of pictures", unit="picture", disable=no_bar(len(files) > 5000))
    return Counter(size for file in bar if (size := _stored_size(file)))
