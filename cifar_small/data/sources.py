"""The labelled sources a run can train on; each becomes `Images` with ids 0..N-1."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, assert_never

import numpy as np
import numpy.typing as npt

from cifar_small.config.schema import Data
from cifar_small.data.download import download
from cifar_small.data.images import Images
from cifar_small.data.orientation import require_in_order
from cifar_small.data.pickles import parse_pickle, read_pickle
from cifar_small.data.readers import npz_keys, read_npz, read_png
from cifar_small.data.splits import stratified_split
from cifar_small.errors import DataError, plural

VARIABLE = "CIFAR_SMALL_DATA"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CACHE = Path("~/.cache/cifar_small")
_MEMBER_BYTES = 200 * 2**20  # the largest official member has 155 MB
_ARCHIVE_BYTES = 512 * 2**20  # unpacked; the official archives have 186 MB
_DIGITS_TEST = 360  # of 1797
Split = Literal["train", "test"]


class _Cifar(NamedTuple):
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


_C10 = _Cifar(
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("test_batch",),
    "batches.meta",
    "label_names",
    "labels",
    10,
)
_C100 = _Cifar(
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    ("train",),
    ("test",),
    "meta",
    "fine_label_names",
    "fine_labels",
    100,
)
_COARSE = _C100._replace(names="coarse_label_names", labels="coarse_labels", classes=20)
_CIFARS: Mapping[str, _Cifar] = {"cifar10": _C10, "cifar100": _C100, "cifar100_coarse": _COARSE}


def load_train(data: Data) -> Images:
    """The labelled training part of a source: images uint8 (N, 32, 32, 3), ids 0..N-1. Raises DataError."""
    return _load(data, "train")


def load_test(data: Data) -> Images:
    """The labelled test part of a source: images uint8 (N, 32, 32, 3), ids 0..N-1. Raises DataError."""
    return _load(data, "test")


def is_available(data: Data) -> bool:
    """Can the source be read without a download? A place that is named counts as there, right or wrong."""
    if data.root or os.environ.get(VARIABLE) or data.source not in _CIFARS:
        return True
    place, what = _CACHE.expanduser(), _CIFARS[data.source]
    return (place / what.folder / what.meta).is_file() or (place / what.archive).is_file()


def class_names(data: Data) -> tuple[str, ...]:
    """The class names of a source, read from its data unless they are CIFAR-10's or the digits. Raises DataError."""
    known = {"cifar10": CIFAR10_CLASSES, "digits": tuple("0123456789")}
    return data.classes or known.get(data.source) or load_train(data).classes


def _load(data: Data, split: Split) -> Images:
    images = _load_source(data, split)
    return _in_order(images, data.classes) if data.classes else images


def _in_order(images: Images, classes: tuple[str, ...]) -> Images:
    """The same images with labels that are positions in `classes`."""
    if sorted(classes) != sorted(images.classes):
        lone = sorted(set(classes) ^ set(images.classes)) or sorted(classes)
        raise DataError(
            f"{images.source}: data.classes does not name its {plural(len(images.classes), 'class', 'classes')} once each "
            f"(look at {', '.join(lone[:5])}); expected {', '.join(images.classes[:100])} in another order"
        )
    assert images.labels is not None
    place = np.array([classes.index(name) for name in images.classes], np.int64)
    return replace(images, labels=place[images.labels], classes=classes)


def _load_source(data: Data, split: Split) -> Images:
    given = data.root or os.environ.get(VARIABLE)
    root = Path(given).expanduser() if given else None
    match data.source:
        case "digits":
            return _digits(split)
        case "cifar10" | "cifar100" | "cifar100_coarse":
            return _cifar(_CIFARS[data.source], data.source, root, split)
        case "npz":
            return _npz(_required(root, data), split)
        case "folder":
            return _folder(_required(root, data), split)
        case unknown:
            assert_never(unknown)


def _required(root: Path | None, data: Data) -> Path:
    if root is None:
        raise DataError(f"data.source {data.source} needs a place to read; set data.root or {VARIABLE}")
    return root


def _images(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: Sequence[str], source: str) -> Images:
    loaded = Images(np.ascontiguousarray(images), labels, np.arange(len(images), dtype=np.int64), tuple(classes), source)
    require_in_order(loaded.images, source)
    return loaded


def _cifar(what: _Cifar, source: str, root: Path | None, split: Split) -> Images:
    names = what.train if split == "train" else what.test
    parts, place = _find(what, root, (what.meta, *names))
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
        labels.append(_integers(marks, where))
    return _images(np.concatenate(pixels), np.concatenate(labels), classes, f"{source} {split}")


def _find(what: _Cifar, root: Path | None, names: Sequence[str]) -> tuple[dict[str, object], Path]:
    """The parsed files of a CIFAR archive, and the folder or archive they came from."""
    place = _CACHE.expanduser() if root is None else root
    archives = (place, place / what.archive)
    for folder in (place, place / what.folder):
        # data folders of other kinds also have a `train` in them, so the meta file decides
        if (folder / what.meta).is_file():
            return {name: read_pickle(folder / name) for name in names}, folder
    for archive in archives:
        if archive.is_file():
            return _read_archive(archive, what.folder, names), archive
    if root is not None:
        raise DataError(
            f"{root}: has neither {what.folder}/ nor {what.archive}; put one there, or point data.root or {VARIABLE} at the "
            f"folder that has it (without both it is downloaded into {_CACHE})"
        )
    download(f"https://www.cs.toronto.edu/~kriz/{what.archive}", what.md5, archives[1])
    return _read_archive(archives[1], what.folder, names), archives[1]


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


def _read_archive(path: Path, folder: str, names: Sequence[str]) -> dict[str, object]:
    """The named pickles of a .tar.gz, read one by one into memory; nothing is ever written to disk."""
    found: dict[str, object] = {}
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
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _integers(values: Any, where: str) -> npt.NDArray[np.int64]:
    """Labels as int64 (N,). Raises DataError when they are not whole numbers."""
    try:
        labels = np.asarray(values)
    except Exception as error:  # a ragged list
        raise DataError(f"{where}: labels are not one list of numbers; expected whole numbers") from error
    if labels.ndim != 1 or (labels.dtype.kind not in "iu" and len(labels)):
        raise DataError(f"{where}: labels are {labels.dtype} {labels.shape}; expected whole numbers (N,)")
    return labels.astype(np.int64)


def _digits(split: Split) -> Images:
    """scikit-learn's 1797 handwritten digits, 8x8 with values 0..16, enlarged to 32x32x3; a fixed stratified split."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    indices = stratified_split(labels, _DIGITS_TEST, seed=0)[split == "test"]
    small = np.rint(digits.images[indices] * (255 / 16)).astype(np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in small])
    images = np.repeat(grey[..., None], 3, axis=3)
    return _images(images, labels[indices], [str(name) for name in digits.target_names], f"digits {split}")


def _npz(path: Path, split: Split) -> Images:
    wanted = (f"{split}_images", f"{split}_labels", "classes")
    arrays = read_npz(path, wanted)
    if missing := [name for name in wanted if name not in arrays]:
        if {"images", "labels"} <= set(npz_keys(path)):
            raise DataError(f"{path}: has images and labels without a split: a set for evaluation, which is not trained on")
        raise DataError(
            f"{path}: has no {', '.join(missing)}, only {', '.join(npz_keys(path)) or 'nothing'}; expected train_images, "
            "train_labels, test_images, test_labels, classes"
        )
    images, labels, classes = (arrays[name] for name in wanted)
    if classes.ndim != 1 or classes.dtype.kind not in "US":
        raise DataError(f"{path}: classes is {classes.dtype} {classes.shape}; expected a list of names")
    return _images(images, _integers(labels, str(path)), [_string(name) for name in classes.tolist()], f"npz {split} of {path}")


def _folder(root: Path, split: Split) -> Images:
    classes = _class_names(root / "train")
    # Competitions give no labelled test part, and training needs none.
    needed = split == "test" or (root / "test").is_dir()
    if lone := sorted(set(classes) ^ set(_class_names(root / "test"))) if needed else []:
        raise DataError(
            f"{root}: train and test differ in their class folders ({', '.join(lone[:5])}); expected the same in both"
        )
    pictures, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(file for file in (root / split / name).iterdir() if not file.name.startswith("."))
        if not files and split == "train":
            raise DataError(f"{root / split / name}: has no pictures; expected 32x32 .png files")
        # a file of another type ends in read_png's error, which names it, instead of being left out silently
        pictures += [read_png(file) for file in files]
        labels += [label] * len(files)
    if not pictures:
        raise DataError(f"{root / split}: no images; expected {split}/<class>/*.png")
    return _images(np.stack(pictures), np.array(labels, np.int64), classes, f"folder {split} of {root}")


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder; expected train/<class>/*.png under data.root, and test/<class>/*.png where "
            "accuracy on test is wanted"
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not all(name.isascii() and name.isdecimal() for name in names):
        return names
    if len({int(name) for name in names}) < len(names):
        raise DataError(f"{folder}: two class folders have the same number, such as 1 and 01; expected each class once")
    return sorted(names, key=int)  # 10 after 9, not after 1
