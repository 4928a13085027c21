"""Name the format of a file that is not the one expected, and say how to turn it into one that is read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cifar_small.files import kind_of

_SAVE = "save its uint8 images and its ids (or labels) with numpy.savez"
PICTURES = ("a PNG picture", "a JPEG picture", "a WebP picture")
_TO_PNG = "convert it to PNG, as Pillow does: Image.open(old).convert('RGBA').save(new)"
_CONVERT = {
    "a .npy array": f"load it with numpy.load and {_SAVE}",
    "a MATLAB file": f"give it the ending .mat, or read it with scipy.io.loadmat and {_SAVE}",
    "an HDF5 file": f"read it with h5py (MATLAB 7.3 files too) and {_SAVE}",
    "a parquet file": "give it the ending .parquet, or for training name its folder, with data.source folder",
    "a PNG picture": "name the folder of pictures instead",
    "a JPEG picture": "name the folder of pictures instead",
    "a WebP picture": "name the folder of pictures instead",
    "a GIF picture": _TO_PNG,
    "a TIFF picture": _TO_PNG,
    "a BMP picture": _TO_PNG,
    "a gzip file": "unpack it first",
    "an xz file": "unpack it first",
    "a zip, .npz or torch file": "unpack it first, or give a file of arrays the ending .npz",
    "a git-lfs pointer": "run `git lfs pull` where it came from",
    "a PDF": "get the file of images itself",
    "HTML or XML": "it may be a login page: download the file itself",
}
_ROWS = {3073: "10", 3074: "100"}  # bytes of one image with its labels in CIFAR's binary version


def other_format(start: bytes, path: Path | str, size: int) -> str | None:
    """A clause that names a known format and what to do with it; None for what is not known.

    start: the first bytes of the file, 64 or more; size: all its bytes.
    """
    kind = kind_of(start)
    if kind in _CONVERT:
        return f"is {kind}; {_CONVERT[kind].removeprefix(f'give it the ending {Path(path).suffix}, or ')}"  # which it has
    for row, classes in _ROWS.items():
        if str(path).endswith(".bin") and size and size % row == 0:
            return (
                f"is of the binary version of CIFAR-{classes}; give it as the unlabelled file, or to train name its folder, "
                f"with data.source cifar{classes}"
            )
    return None


def format_of_file(path: Path, read: Collection[str] = ()) -> str | None:
    """The same clause for a file that is there; none for the kinds that the caller does read."""
    with path.open("rb") as file:
        start = file.read(64)
    return None if kind_of(start) in read else other_format(start, path, path.stat().st_size)
