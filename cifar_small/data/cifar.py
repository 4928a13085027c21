"""The official releases of CIFAR: python batches as a folder or archive, the binary and MATLAB versions, parquet tables.

Every version becomes the same parts, dicts as the python batches hold them, so that the same images get the same hash.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_small.data.containers import integers, read_binary, read_mat, read_table, tables_of
from cifar_small.data.download import download
from cifar_small.data.pickles import parse_pickle, read_pickle
from cifar_small.errors import DataError

VARIABLE = "CIFAR_SMALL_DATA"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CACHE = Path("~/.cache/cifar_small")
_MEMBER_BYTES = 200 * 2**20  # the largest official member has 155 MB
_ARCHIVE_BYTES = 512 * 2**20  # unpacked; the official archives have 186 MB


class Release(NamedTuple):
    """Where one source stands in the official python batches."""

    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names: str  # key of the class names in the meta file
    labels: str  # key of the labels in a batch
    classes: int
    binary: str  # folders of the binary and of the MATLAB version
    matlab: str
    name_file: str  # of the binary version, a class in each line
    bytes: tuple[str, ...] = ("labels",)  # what stands before each image in the binary version


_C10 = Release(
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("test_batch",),
    "batches.meta",
    "label_names",
    "labels",
    10,
    "cifar-10-batches-bin",
    "cifar-10-batches-mat",
    "batches.meta.txt",
)
_C100 = Release(
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    ("train",),
    ("test",),
    "meta",
    "fine_label_names",
    "fine_labels",
    100,
    "cifar-100-binary",
    "cifar-100-matlab",
    "fine_label_names.txt",
    ("coarse_labels", "fine_labels"),
)
_COARSE = _C100._replace(names="coarse_label_names", labels="coarse_labels", classes=20, name_file="coarse_label_names.txt")
RELEASES: Mapping[str, Release] = {"cifar10": _C10, "cifar100": _C100, "cifar100_coarse": _COARSE}


def read_cifar(source: str, root: Path | None, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    """Images (N, 32, 32, 3), labels and class names of a split of an official release. Raises DataError."""
    what = RELEASES[source]
    names = what.train if split == "train" else what.test
    parts, place = _find(what, root, names)
    classes = [_string(name) for name in _entry(parts[what.meta], what.names, f"{place} {what.meta}")]
    if len(classes) != what.classes:
        raise DataError(f"{place} {what.meta}: names {len(classes)} classes; {source} has {what.classes}; download it again")
    pixels, labels = [], []
    for name in names:
        where = f"{place} {name}"
        rows, marks = _entry(parts[name], "data", where), _entry(parts[name], what.labels, where)
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise DataError(f"{where}: images are {got}; expected uint8 (N, 3072); download it again")
        if len(marks) != len(rows):
            raise DataError(f"{where}: {len(marks):,} labels for {len(rows):,} images; expected as many; download it again")
        pixels.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(integers(marks, where))
    return np.concatenate(pixels), np.concatenate(labels), classes


def is_at_hand(source: str) -> bool:
    """Is a release in the cache, so that it would not be downloaded?"""
    place, what = _CACHE.expanduser(), RELEASES[source]
    return (place / what.folder / what.meta).is_file() or (place / what.archive).is_file()


def _find(what: Release, root: Path | None, names: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The parts of a release, by the names of the python version, and the folder or archive they came from."""
    place = _CACHE.expanduser() if root is None else root
    files = (what.meta, *names)
    archives = (place, place / what.archive)
    for folder in (place, place / what.folder):
        # data folders of other kinds also have a `train` in them, so the meta file decides
        if (folder / what.meta).is_file():
            return {name: read_pickle(folder / name) for name in files}, folder
    for archive in archives:
        if archive.is_file():
            return _read_archive(archive, what.folder, files), archive
    if root is not None:
        if found := _find_other(what, root, names):
            return found
        others = f"{what.binary}/, {what.matlab}/"
        raise DataError(
            f"{root}: has neither {what.folder}/ nor {what.archive}; put one there, or point data.root or {VARIABLE} at the "
            f"folder that has it ({others} and train-*.parquet are read, too; without both it is downloaded into {_CACHE})"
        )
    download(f"https://www.cs.toronto.edu/~kriz/{what.archive}", what.md5, archives[1])
    return _read_archive(archives[1], what.folder, files), archives[1]


def _find_other(what: Release, root: Path, names: Sequence[str]) -> tuple[dict[str, Any], Path] | None:
    """The same parts from the binary version, the MATLAB version or parquet tables; None where none of them is there."""
    for folder in (root, root / what.binary):
        if (folder / what.name_file).is_file():
            parts = {name: read_binary(folder / f"{name}.bin", what.bytes) for name in names}
            lines = (folder / what.name_file).read_text(encoding="utf-8", errors="replace").split()
            return {**parts, what.meta: {what.names: lines}}, folder
    for folder in (root, root / what.matlab):
        if (folder / f"{what.meta}.mat").is_file():
            return {name: read_mat(folder / f"{name}.mat") for name in (what.meta, *names)}, folder
    split = "train" if names == what.train else "test"
    if not (files := tables_of(root, split)):
        return None
    table = read_table(files)
    column = what.labels if what.labels in table.columns else what.labels.removesuffix("s")
    rows = table.pictures.pixels.transpose(0, 3, 1, 2).reshape(-1, 3072)
    shares = np.array_split(np.arange(len(rows)), len(names))  # the tables do not say where batches ended
    parts = {name: {"data": rows[one]} for name, one in zip(names, shares, strict=True)}
    if column in table.columns:
        for name, one in zip(names, shares, strict=True):
            parts[name][what.labels] = table.columns[column][one]
    known = list(CIFAR10_CLASSES) if what.classes == 10 else []
    return {**parts, what.meta: {what.names: table.names.get(column, known)}}, files[0].parent


class _Capped:
    """A file that refuses to give more than a number of bytes: a small gzip file can unpack to terabytes."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self.file, self.left = file, limit

    def read(self, size: int) -> bytes:
        piece = self.file.read(size)
        self.left -= len(piece)
        if self.left < 0:
            raise DataError(f"unpacks to more than {_ARCHIVE_BYTES:,} bytes; expected the official archive; download it again")
        return piece


def _read_archive(path: Path, folder: str, names: Sequence[str]) -> dict[str, Any]:
    """The named pickles of a .tar.gz, read one by one into memory; nothing is ever written to disk."""
    found: dict[str, Any] = {}
    try:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=_Capped(unpacked, _ARCHIVE_BYTES), mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                short = _member(member, folder, names)
                if short in found:
                    raise DataError(f"has {member.name} twice; expected the official archive")
                if short:
                    file = archive.extractfile(member)
                    raw = file.read() if file else b""
                    found[short] = parse_pickle(raw, f"{path} {member.name}")
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except Exception as error:
        raise DataError(
            f"{path}: is not a whole .tar.gz archive ({type(error).__name__}: {error}); download it again"
        ) from error
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{path}: has no {folder}/{missing[0]}; expected the official archive; download it again")
    return found


def _member(member: tarfile.TarInfo, folder: str, names: Sequence[str]) -> str | None:
    """The wanted name this archive member is, None for one that is passed over. Raises DataError for an unsafe one."""
    parts = member.name.split("/")
    odd = ".." in parts or member.name.startswith("/") or "\\" in member.name
    if odd or not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.issparse():
        kind = "leads out of its folder" if odd else "is a link or a special file"
        raise DataError(f"its member {member.name[:100]!r} {kind}; nothing was unpacked; expected the official archive")
    short = member.name.removeprefix("./").removeprefix(f"{folder}/")
    if member.isdir() or short not in names or not member.name.removeprefix("./").startswith(f"{folder}/"):
        return None
    if not 0 <= member.size <= _MEMBER_BYTES:
        raise DataError(f"its member {member.name} has {member.size:,} bytes; expected at most {_MEMBER_BYTES:,}")
    return short


def _entry(batch: Any, key: str, where: str) -> Any:
    if not isinstance(batch, dict):
        raise DataError(f"{where}: holds a {type(batch).__name__}; expected a dict with {key!r}; download it again")
    for spelling in (key.encode(), key):
        if spelling in batch:
            value = batch[spelling]
            if not isinstance(value, list) and not (isinstance(value, np.ndarray) and value.ndim):
                raise DataError(f"{where}: {key!r} is a {type(value).__name__}; expected a list; download it again")
            return value
    keys = ", ".join(sorted(_string(name) for name in batch))
    raise DataError(f"{where}: has no {key!r}, only {keys}; another data set? Check data.source")


def _string(value: object) -> str:
    """A name as text; of what is no name only its type, since a list could be of any size."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
