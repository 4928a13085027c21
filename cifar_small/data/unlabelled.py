"""The unlabelled images of a competition: a pickle, a file of arrays or a folder of pictures, read without silent guesses.

Two layouts of the competition's pickle circulate, (N, 3072) with whole color planes and (N, 32, 32, 3) with colors side by
side; read as the other, a net sees noise and still answers. So the shape is checked against the pixels: in a picture,
values that are neighbors in memory under the true layout are alike.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from string import digits
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cifar_small.data.containers import read_binary, read_mat, read_table
from cifar_small.data.images import SIDE, Images
from cifar_small.data.orientation import (
    CHW_BELOW,
    HWC_ABOVE,
    Layout,
    PixelStatistics,
    memory_order,
    require_in_order,
    turned,
)
from cifar_small.data.pickles import read_pickle
from cifar_small.data.picture_folders import FolderContent, content_of, require_read
from cifar_small.data.pictures import ENDINGS, KERNEL, Pictures, read_pictures
from cifar_small.data.readers import npz_keys, read_npy, read_npz
from cifar_small.errors import DataError
from cifar_small.files import write_atomic
from cifar_small.wording import plural

AskedLayout = Literal["auto", "HWC", "CHW"]
_SHAPES = "(N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072)"


def load_unlabelled(
    path: str | Path, *, classes: tuple[str, ...] = (), layout: AskedLayout = "auto", rows: int | None = None, side: int = SIDE
) -> tuple[Images, list[str]]:
    """Unlabelled images in file order with the file's own ids, and notes in plain words on what was assumed or looks odd.

    path: a pickle with `data` and `ids`, an .npz with `data` or `images` and `ids`, a .npy of images, a .mat or .parquet file,
    a .bin of CIFAR's binary version, or a folder of pictures named by number.
    layout: how an image's 3072 values lie in memory, whatever the shape says; auto: as shape and pixels agree on.
    rows: the number of images there must be. side: pixels a side of the images that a net was trained on. Raises DataError.
    """
    path = Path(path)
    notes: list[str] = []
    small: npt.NDArray[np.uint8] | None = None
    if path.is_dir():
        pictures, ids = _read_pictures(path, notes, side, layout)
        images, small = pictures.pixels, pictures.small
    else:
        data, listed = read_raw(path, notes, side)
        if isinstance(data, Pictures):
            images, small = data.pixels, data.small
        else:
            images = _in_rows(data, str(path), layout, notes)
        if listed is None:
            listed = np.arange(len(images))
            notes.append("the file has no ids: its images were numbered from 0 in its order")
        ids = _as_ids(listed, str(path), notes)
    if len(images) != len(ids):
        raise DataError(f"{path}: has {len(ids):,} ids for {len(images):,} images; expected as many; get the file again")
    if rows is not None and len(images) != rows:
        raise DataError(
            f"{path}: has {len(images):,} images; expected {rows:,}", remedy=(f"allow_rows={len(images)}", "config")
        )
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        twice = values[counts > 1]
        raise DataError(
            f"{path}: {len(twice):,} duplicate ids, first {twice[:5].tolist()}; expected unique ids; get the file again"
        )
    if not np.array_equal(ids, np.arange(len(ids))):
        notes.append(f"ids are not 0..{len(ids) - 1} in order (they span {ids.min()}..{ids.max()}); they are written as given")
    loaded = Images(images, None, ids, classes, str(path), small)
    if loaded.side < side:
        notes.append(f"all images are 32x32; this net was trained on pictures read at {side}x{side}, so they were enlarged")
        loaded = loaded.enlarged(side)
    return loaded, notes + _content_notes(loaded)


def read_raw(path: Path, notes: list[str] | None = None, side: int = SIDE) -> tuple[Any, Any]:
    """Images and ids (None: it has none) as a file holds them, unchecked; what else is in it is noted. Raises DataError.

    side: as in `load_unlabelled`, for a file of encoded pictures, which are returned as `Pictures`.
    """
    if path.suffix.lower() in (".npy", ".bin", ".parquet") and not path.exists():
        raise DataError(f"{path}: does not exist; expected the competition's unlabelled file, or a folder of pictures")
    match path.suffix.lower():
        case ".npz":
            return _read_npz(path, notes)
        case ".npy":
            return read_npy(path), None
        case ".mat":
            found = read_mat(path)
            return _entries({"ids": None, **found}, list(found), str(path), ("data", "images"), notes)
        case ".parquet":
            table = read_table([path], side)
            if notes is not None:
                notes += _picture_notes(table.pictures)
            data = table.pictures.pixels if table.pictures.small is None else table.pictures
            found = {"data": data, "ids": table.ids}
            return _entries(found, ["data", *(name for name in table.columns if name != "id")], str(path), ("data",), notes)
        case ".bin":
            found = read_binary(path, ("labels",) if path.stat().st_size % 3073 == 0 else ("coarse_labels", "fine_labels"))
            return _entries({**found, "ids": None}, list(found), str(path), ("data",), notes)
        case _:
            return _read_pickle(path, notes)


def write_unlabelled(path: str | Path, images: npt.NDArray[np.uint8], ids: npt.NDArray[np.int64]) -> None:
    """Write the competition's pickle, a dict with b"data" and b"ids", whole or not at all.

    images: uint8 (N, 32, 32, 3); ids: int64 (N,), unique. Raises DataError, or UserError where it cannot be written.
    """
    path = Path(path)
    checked = Images(images, None, np.asarray(ids, np.int64), (), str(path))
    content = {b"data": np.ascontiguousarray(checked.images), b"ids": checked.ids}
    write_atomic(path, pickle.dumps(content, protocol=4))


def color_notes(images: Images, mean: Sequence[float]) -> list[str]:
    """Warnings where colors are far from the training images' or look swapped; mean: of red, green, blue there, in 0..1."""
    own = images.at_32.reshape(len(images), -1, 3).mean(1) / 255  # (N, 3)
    center, error = own.mean(0), own.std(0) / np.sqrt(len(own))
    notes = []
    far = np.abs(center - mean) > np.maximum(0.1, 4 * error)
    if far.any():
        got, expected = (", ".join(f"{value:.3f}" for value in values) for values in (center, mean))
        notes.append(
            f"mean red, green, blue are {got}; in training {expected}: are these the right images, on the right scale?"
        )
    # Swapped is said only when the images' own scatter cannot explain it.
    slope = own[:, 0] - own[:, 2]
    shift, doubt = float(slope.mean()), 3 * float(slope.std()) / len(own) ** 0.5
    trained = mean[0] - mean[2]
    if abs(trained) > 0.01 and abs(shift - trained) - abs(shift + trained) > max(doubt, abs(trained) / 2):
        notes.append(
            f"red minus blue is {shift:+.3f} on average, in training {trained:+.3f}: "
            "red and blue look swapped (BGR instead of RGB)"
        )
    return notes


def turn_notes(images: Images, trained: PixelStatistics) -> list[str]:
    """A warning where the images lie otherwise than those a net was trained on."""
    what = turned(images.at_32, trained)
    return [f"beside the training images, these look like {what}: predictions would be wrong without a word"] if what else []


def _read_pickle(path: Path, notes: list[str] | None) -> tuple[Any, Any]:
    value = read_pickle(path)
    if not isinstance(value, dict):
        shape = f" {value.shape}" if isinstance(value, np.ndarray) else ""
        raise DataError(f"{path}: holds a {type(value).__name__}{shape}; expected a dict with 'data' and 'ids'")
    keys: dict[str, object] = {}
    for key, entry in value.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        if name in keys:
            raise DataError(f"{path}: has the key {name!r} twice, as text and as bytes; expected it once; get the file again")
        keys[name] = entry
    return _entries(keys, list(keys), str(path), ("data",), notes)


def _read_npz(path: Path, notes: list[str] | None) -> tuple[Any, Any]:
    arrays = read_npz(path, ("data", "images", "ids"))
    return _entries({"ids": None, **arrays}, npz_keys(path), str(path), ("data", "images"), notes)


def _entries(
    entries: dict[str, object], keys: list[str], where: str, names: tuple[str, ...], notes: list[str] | None
) -> tuple[Any, Any]:
    """The images and ids of a file; `keys` are all it has, for the message."""
    found = [name for name in names if name in entries]
    if len(found) != 1 or "ids" not in entries:
        wanted = " or ".join(repr(name) for name in names)
        listed = ", ".join(repr(key)[:40] for key in keys[:10]) or "no keys"
        raise DataError(f"{where}: has {listed}; expected {wanted} and 'ids'; is it the competition's file?")
    other = [key for key in keys if key not in (*names, "ids")]
    if notes is not None and any("label" in key.lower() or key.lower() in ("y", "targets", "classes") for key in other):
        notes.append(
            f"the file also holds {', '.join(map(repr, other[:5]))}, which are not read: are these the images to be predicted?"
        )
    return entries[found[0]], entries["ids"]


def _read_pictures(folder: Path, notes: list[str], side: int, layout: AskedLayout) -> tuple[Pictures, npt.NDArray[np.int64]]:
    content = content_of(folder)
    listed = [file for part in content for file in part]
    files = [file for file in content.pictures if file.suffix.lower() in ENDINGS]
    if not files:
        require_read(content.unread, folder)
        raise _no_pictures(folder, content)
    if other := len(listed) - len(files):
        entries = plural(other, "entry", "entries")
        notes.append(f"left out of the folder, because they are no pictures ({', '.join(ENDINGS)}): {entries}")
    prefix, texts, suffix = _numbers_in([file.stem for file in files])
    numbers = dict(zip(files, texts, strict=True))
    for file, text in numbers.items():
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**63):
            raise DataError(
                f"{file}: is not named by a number; expected names such as 0.png or img_0.png, with the same text before each "
                f"number, from which the ids are taken; of other names, number copies and keep a list: {_to_numbers(folder)}"
            )
    files.sort(key=lambda file: (int(numbers[file]), file.name))
    notes.append("ids are the numbers in the file names, in increasing order")
    if suffix:
        around = f"begins with {prefix!r} and ends with {suffix!r}" if prefix else f"ends with {suffix!r}"
        notes.append(f"each name {around}, which the ids leave out; where the competition wants it, add it to the CSV")
    elif prefix:
        notes.append(
            f"each name begins with {prefix!r}, which the ids leave out; where the competition wants it, set rules.ids, or "
            "submit with its sample submission"
        )
    if padded := [file.name for file in files if str(int(numbers[file])) != numbers[file]]:
        notes.append(
            f"{plural(len(padded), 'name')} with zeros in front, such as {padded[0]}: ids are written without them; where the "
            "competition wants them, set rules.ids, or submit with its sample submission"
        )
    pictures = read_pictures(files, str(folder), side)
    notes += _picture_notes(pictures)
    if layout == "CHW":
        raise DataError(f"{folder}: a folder of pictures was asked to be read as CHW; their colors lie side by side: HWC")
    if layout == "auto":
        small = pictures.pixels if pictures.small is None else pictures.small
        require_in_order(small, str(folder), decoded=True, remedy="layout=HWC")
    return pictures, np.array([int(numbers[file]) for file in files], np.int64)


def _no_pictures(folder: Path, content: FolderContent) -> DataError:
    """The error for a folder without pictures, with the folders in it, of which one may be meant."""
    kinds = sorted({file.suffix for file in [*content.pictures, *content.others]} - {""})[:5]
    inner = [f"{one.name}/" for one in content.folders]
    there = [*kinds, *[f"the folder {name}" for name in inner[:3]], *(["..."] if len(inner) > 3 else [])]
    meant = f"; if the pictures are in {inner[0]}, name that folder" if inner else ""
    return DataError(
        f"{folder}: has no {', '.join(ENDINGS)} files but {', '.join(there) or 'nothing'}; expected pictures named by number, "
        f"such as 0.png{meant}"
    )


def _numbers_in(names: Sequence[str]) -> tuple[str, list[str], str]:
    """What all names begin with, what tells them apart, and what all end with; a number is not cut within its digits."""
    prefix = _shared_start(names).rstrip(digits)
    rest = [name.removeprefix(prefix) for name in names]
    suffix = _shared_start([name[::-1] for name in rest])[::-1].lstrip(digits)
    return prefix, [name.removesuffix(suffix) for name in rest], suffix


def _to_numbers(folder: Path) -> str:
    """The Python that copies pictures to numbers in the order of their names: line n + 1 of names.txt names picture n."""
    return (
        "import shutil; from pathlib import Path; Path('numbered').mkdir(); files = sorted(file for file in "
        f"Path({str(folder)!r}).iterdir() if file.suffix.lower() in {ENDINGS} and file.name[0] != '.'); "
        "Path('names.txt').write_text('\\n'.join(file.name for file in files)); "
        "[shutil.copy(file, f'numbered/{n}{file.suffix}') for n, file in enumerate(files)]"
    )


def _shared_start(names: Sequence[str]) -> str:
    """What all names begin with: what the first and the last of them in sorted order share."""
    letters = zip(min(names), max(names), strict=False)
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], letters))


def _picture_notes(pictures: Pictures) -> list[str]:
    side = pictures.pixels.shape[1]
    resized = f"{plural(pictures.resized, 'picture')} of another size became {side}x{side}: {KERNEL}"
    return [resized, *pictures.notes] if pictures.resized else list(pictures.notes)


def _in_rows(data: Any, where: str, layout: AskedLayout, notes: list[str]) -> npt.NDArray[np.uint8]:
    """The images as uint8 (N, 32, 32, 3), once shape and pixels agree on the layout."""
    if not isinstance(data, np.ndarray):
        raise DataError(f"{where}: data is a {type(data).__name__}; expected a numpy array {_SHAPES}")
    if not len(data.shape) or not data.shape[0]:
        raise DataError(f"{where}: no images (data is {data.shape}); expected at least one; get the file again")
    shapes: dict[tuple[int, ...], Layout | None] = {(32, 32, 3): "HWC", (3, 32, 32): "CHW", (3072,): None}
    if data.shape[1:] not in shapes:
        raise DataError(f"{where}: data has shape {data.shape}; expected {_SHAPES}")
    said = shapes[data.shape[1:]]
    flat = _as_uint8(data.reshape(len(data), 3072), where, notes)
    found = memory_order(flat.reshape(-1, 32, 32, 3))
    seen, score = found.layout, found.smoothness
    shown = (
        "the images are constant" if score is None else f"smoothness {score:.2f}: CHW under {CHW_BELOW}, HWC over {HWC_ABOVE}"
    )
    if layout == "auto":
        if said and seen and said != seen:
            raise DataError(
                f"{where}: the shape {data.shape} says {said} but the pixels lie as {seen} ({shown}); it was reshaped where it "
                "should have been transposed",
                remedy=f"layout={seen}",
            )
        chosen = said or seen
        if chosen is None:
            raise DataError(
                f"{where}: the layout of {data.shape} cannot be told ({shown}); expected CHW or HWC", remedy="layout"
            )
        if said is None:
            notes.append(f"rows of 3072 values were read as {chosen} ({shown})")
    else:
        chosen = layout
        if seen not in (None, layout):
            notes.append(f"read as {layout}, as asked, but the pixels look like {seen} ({shown})")
    planes = chosen == "CHW"
    images = np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)) if planes else flat.reshape(-1, 32, 32, 3)
    if layout == "auto":
        require_in_order(images, where, remedy="layout=HWC")
    return images


def _as_uint8(data: npt.NDArray[Any], where: str, notes: list[str]) -> npt.NDArray[np.uint8]:
    """Pixels as uint8 by one rule per dtype and range; what could be read in two ways is refused."""
    kind, allowed = data.dtype.kind, "expected uint8, or numbers that are clearly 0..255 or 0..1"
    if data.dtype == np.uint8:
        if data.max() <= 1 and data.any():
            notes.append("the largest pixel value is 1 of 255: these images are nearly black, or were scaled to 0..1 and cut")
        return np.ascontiguousarray(data, np.uint8)
    if kind not in "iuf":
        raise DataError(f"{where}: data is {data.dtype}; {allowed}")
    if kind == "f" and not np.isfinite(data).all():
        bad = np.flatnonzero(~np.isfinite(data).all(1))
        raise DataError(f"{where}: {plural(len(bad), 'image')} with NaN or infinite values, first in row {bad[0]}; {allowed}")
    low, high = float(data.min()), float(data.max())
    if low < 0 or high > 255:
        raise DataError(f"{where}: {data.dtype} values span {low:g}..{high:g} (normalized already?); {allowed}")
    whole = kind != "f" or bool((data == np.rint(data)).all())
    if (whole and 0 < high <= 1) or (not whole and 1 < high <= 2):
        raise DataError(
            f"{where}: {data.dtype} values span {low:g}..{high:g}, which could be 0..1 or 0..255; save uint8 images"
        )
    scale = 1 if whole or high > 1 else 255
    scaled = data.astype(np.float32) * scale if kind == "f" else data
    change = float(np.abs(scaled - np.rint(scaled)).max()) if kind == "f" else 0.0
    rounded = f", rounded by up to {change:.2f} of 255" if change > 0.01 else ""
    notes.append(f"{data.dtype} values {low:g}..{high:g} were taken as 0..{1 if scale == 255 else 255}{rounded}")
    return np.ascontiguousarray(np.rint(scaled), np.uint8)


def _as_ids(listed: Any, where: str, notes: list[str]) -> npt.NDArray[np.int64]:
    """Ids as int64 (N,), in file order; every one a whole number that is written back exactly as it stands."""
    if not isinstance(listed, list | tuple | np.ndarray):
        raise DataError(f"{where}: ids is a {type(listed).__name__}; expected whole numbers, one an image")
    entries = listed.tolist() if isinstance(listed, np.ndarray) and listed.ndim else listed
    if isinstance(listed, np.ndarray) and listed.ndim != 1:
        raise DataError(f"{where}: ids have shape {listed.shape}; expected (N,)")
    ids = []
    for row, entry in enumerate(entries):
        text = entry.decode("latin-1") if isinstance(entry, bytes) else entry
        # "007" is refused: a number would not be written back as it stands
        if isinstance(text, str):
            whole = text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**63 and str(int(text)) == text
        else:
            whole = isinstance(text, int | float) and not isinstance(text, bool) and abs(text) < 2**63 and text == int(text)
        if not whole:
            other = "; as numbers they would not be written back as they stand: store numbers, and set rules.ids"
            hint = other if isinstance(text, str) and text.isdecimal() else ""
            raise DataError(
                f"{where}: id {_shown(text)} in row {row} is not a whole number; expected ids such as 0, 1, 2{hint}"
            )
        if int(text) < 0:
            raise DataError(f"{where}: id {int(text)} in row {row} is below 0; expected ids such as 0, 1, 2")
        ids.append(int(text))
    kinds = {type(entry).__name__ for entry in entries} - {"int"}
    if kinds:
        notes.append(f"ids stand as {', '.join(sorted(kinds))} and were read as whole numbers")
    return np.array(ids, np.int64)


def _shown(entry: object) -> str:
    """What stands in place of an id, for a message: in short, and only by its type where it is no text or usual number."""
    if isinstance(entry, str):
        return repr(entry[:40])
    usual = entry is None or isinstance(entry, float) or (isinstance(entry, int) and abs(entry) < 2**128)
    return repr(str(entry)) if usual else f"of type {type(entry).__name__}"


def _content_notes(images: Images) -> list[str]:
    """What looks odd about the pictures: constant ones and exact duplicates."""
    notes = []
    flat = images.at_32.reshape(len(images), -1)
    constant = flat.min(1) == flat.max(1)
    black = constant & (flat[:, 0] == 0)
    for which, what in ((black, "all zero"), (constant & ~black, "of one value throughout")):
        if which.any():
            notes.append(f"{plural(int(which.sum()), 'image')} {what}, first ids {images.ids[which][:5].tolist()}")
    first: dict[bytes, int] = {}
    twins = []
    for row in np.flatnonzero(~constant):
        key = hashlib.blake2b(flat[row].tobytes(), digest_size=16).digest()
        if first.setdefault(key, int(row)) != row:
            twins.append(f"{images.ids[row]} = {images.ids[first[key]]}")
    if twins:
        notes.append(f"{plural(len(twins), 'exact duplicate')} of earlier images, first ids {', '.join(twins[:5])}")
    return notes
