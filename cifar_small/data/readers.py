"""Read .npz archives and .npy arrays, with what they declare checked before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cifar_small.data.formats import format_of_file
from cifar_small.errors import DataError

MAX_BYTES = 2**30  # of one array in an archive; CIFAR's 50,000 training images take 154 MB


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
        other = format_of_file(path)
        if other and "a zip" not in other:
            raise DataError(f"{path}: {other}; expected an .npz file") from error
        raise DataError(
            f"{path}: is not a whole .npz file ({type(error).__name__}: {error}); download or save it again"
        ) from error


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array in a .npy file; never Python objects. Raises DataError."""
    try:
        with path.open("rb") as file:
            return _read_array(file, path.name, path.stat().st_size)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:
        other = format_of_file(path) if path.is_file() else None
        if other and ".npy" not in other:
            raise DataError(f"{path}: {other}") from error
        raise DataError(f"{path}: is not a whole .npy file ({type(error).__name__}: {error}); copy it again") from error


def npz_keys(path: str | Path) -> list[str]:
    """The names of the arrays in an .npz file, for messages."""
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    declared = archive.getinfo(name).file_size
    with archive.open(name) as member:
        return _read_array(member, name, declared)


def _read_array(member: IO[bytes], name: str, declared: int) -> npt.NDArray[Any]:
    """The array of a .npy file of `declared` bytes, once its header agrees with that."""
    if declared > MAX_BYTES:
        raise DataError(f"{name} declares {declared:,} bytes; expected at most {MAX_BYTES:,}; save uint8 images")
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} has .npy version {version}; expected 1.0 or 2.0; save it with numpy.savez")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(member)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects; expected plain numbers or text")
    size = math.prod(shape) * dtype.itemsize
    if size != declared - member.tell():
        raise DataError(f"{name} declares {dtype} {shape}, {size:,} bytes, but has {declared - member.tell():,}; save it again")
    raw = io.BytesIO(member.read()).getbuffer()
    if len(raw) != size:
        raise DataError(f"{name} has {len(raw):,} bytes; expected {size:,}; save it again")
    flat: npt.NDArray[Any] = np.frombuffer(raw, dtype) if size else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
