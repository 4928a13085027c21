"""Read single PNG pictures and .npz archives, with what they declare checked before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.errors import DataError

MAX_BYTES = 2**30  # of one array in an archive; CIFAR's 50,000 training images take 154 MB
_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")


def read_png(path: str | Path) -> npt.NDArray[np.uint8]:
    """A 32x32 PNG as uint8 (32, 32, 3), RGB; grey and palette are converted, transparency is dropped. Raises DataError."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            # The size stands in the header; a picture that would not fit is refused before it is decoded.
            size, mode = picture.size, picture.mode
            if size == (32, 32) and mode in _MODES:
                return np.asarray(picture.convert("RGB"), np.uint8)
    except Exception as error:
        raise DataError(f"{path}: is not a readable PNG ({type(error).__name__}: {error}); expected 32x32 RGB") from error
    if size != (32, 32):
        raise DataError(f"{path}: is {size[0]}x{size[1]} pixels; expected 32x32; resize it first")
    raise DataError(f"{path}: has pixel format {mode}; expected 8 bits a channel ({', '.join(_MODES)}); convert it first")


def read_npz(path: str | Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Those of the named arrays that an .npz file has; never Python objects. Raises DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: {'is not a regular file' if path.exists() else 'there is no such file'}; expected an .npz file"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            return {name: _read_member(archive, f"{name}.npy") for name in names if f"{name}.npy" in present}
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:
        raise DataError(
            f"{path}: is not a whole .npz file ({type(error).__name__}: {error}); download or save it again"
        ) from error


def npz_keys(path: str | Path) -> list[str]:
    """The names of the arrays in an .npz file, for messages."""
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    declared = archive.getinfo(name).file_size
    if declared > MAX_BYTES:
        raise DataError(f"{name} declares {declared:,} bytes; expected at most {MAX_BYTES:,}; save uint8 images")
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{name} has .npy version {version}; expected 1.0 or 2.0; save it with numpy.savez")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(member)
        if dtype.hasobject:
            raise DataError(f"{name} holds Python objects; expected plain numbers or text")
        size = math.prod(shape) * dtype.itemsize
        if size != declared - member.tell():
            raise DataError(
                f"{name} declares {dtype} {shape}, {size:,} bytes, but has {declared - member.tell():,}; save it again"
            )
        raw = io.BytesIO(member.read()).getbuffer()
    if len(raw) != size:
        raise DataError(f"{name} has {len(raw):,} bytes; expected {size:,}; save it again")
    flat: npt.NDArray[Any] = np.frombuffer(raw, dtype) if size else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
