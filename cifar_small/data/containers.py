"""Images in files of other programs: MATLAB's .mat, parquet tables, CIFAR's binary version. Nothing in them is executed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cifar_small.data.formats import format_of_file
from cifar_small.data.images import SIDE
from cifar_small.data.pictures import Pictures, read_pictures
from cifar_small.data.readers import MAX_BYTES
from cifar_small.errors import DataError

IMAGE_BYTES = 3072
_PICTURES = ("img", "image", "images", "picture")  # columns of pictures, as the tables of the Hugging Face hub name them


class TableOfPictures(NamedTuple):
    """The pictures of a parquet table, its columns of whole numbers with their class names, and its ids as they stand."""

    pictures: Pictures
    columns: Mapping[str, npt.NDArray[np.int64]]
    names: Mapping[str, list[str]]
    left_out: Sequence[str]  # columns of whole numbers of which some are missing
    ids: list[Any] | None  # of a column `id` or `ids`, of any type and with what is missing


def integers(values: Any, where: str) -> npt.NDArray[np.int64]:
    """Labels as int64 (N,). Raises DataError when they are not whole numbers."""
    try:
        if isinstance(values, list | tuple) and any(isinstance(one, list | tuple | dict | str | bytes) for one in values):
            raise ValueError("no numbers")  # of which numpy could make an array of any size
        labels = np.asarray(values)
    except Exception as error:  # also a ragged list
        raise DataError(f"{where}: labels are not one list of numbers; expected whole numbers") from error
    if labels.ndim != 1 or (labels.dtype.kind not in "iu" and len(labels)):
        raise DataError(f"{where}: labels are {labels.dtype} {labels.shape}; expected whole numbers (N,)")
    return labels.astype(np.int64)


def read_binary(path: Path, labels: Sequence[str]) -> dict[str, Any]:
    """A file of CIFAR's binary version: rows of one byte for each of `labels`, then 3072 of color planes. Raises DataError."""
    row = len(labels) + IMAGE_BYTES
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; expected CIFAR's binary version") from None
    if not len(raw) or len(raw) % row:
        known = format_of_file(path)
        raise DataError(f"{path}: {known or f'has {len(raw):,} bytes'}; expected rows of {row:,} bytes; download it again")
    rows = raw.reshape(-1, row)
    return {"data": rows[:, len(labels) :], **{name: rows[:, place] for place, name in enumerate(labels)}}


def read_mat(path: Path) -> dict[str, Any]:
    """The arrays of numbers and lists of text in a MATLAB file up to version 7; columns become (N,). Raises DataError."""
    from scipy.io import loadmat, whosmat

    if not path.is_file():
        raise DataError(f"{path}: there is no such file; expected a .mat file")
    try:
        with path.open("rb") as file:
            declared = {name: math.prod(shape) for name, shape, _ in whosmat(file)}
            if declared and max(declared.values()) > MAX_BYTES:
                raise DataError(f"{path}: declares {max(declared.values()):,} values; expected at most {MAX_BYTES:,}")
            file.seek(0)
            content = loadmat(file, chars_as_strings=True)
    except DataError:
        raise
    except Exception as error:  # scipy raises a dozen kinds for damaged files, NotImplementedError for version 7.3
        known = format_of_file(path)
        reason = known if known and "MATLAB" not in known.partition(";")[0] else f"is not a whole MATLAB file ({error})"
        raise DataError(f"{path}: {reason}; expected a .mat file up to version 7") from error
    return {name: _plain(value) for name, value in content.items() if not name.startswith("__")}


def _plain(value: npt.NDArray[Any]) -> Any:
    if value.dtype == object:  # a cell array of text
        return [str(cell.ravel()[0]) if getattr(cell, "size", 0) == 1 else str(cell) for cell in value.ravel()]
    return value.ravel() if value.ndim == 2 and 1 in value.shape and value.dtype.kind in "iuf" else value


def tables_of(root: Path, split: str) -> list[Path]:
    """The parquet files of a split, in a folder or one below it, as the Hugging Face hub has them; empty: none."""
    if not root.is_dir():
        return []
    return sorted(root.glob(f"{split}*.parquet")) or sorted(root.glob(f"*/{split}*.parquet"))


def _read_parquet(paths: Sequence[Path], column: str | None = None) -> Any:
    """The rows of parquet files with the same columns, one file after the other; or one column. Raises DataError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DataError(f"{paths[0]}: parquet is read by pyarrow, which is not installed: pip install pyarrow") from error
    try:
        lacking = [path for path in paths if column is not None and column not in pyarrow.parquet.read_schema(path).names]
        columns = None if column is None or lacking else [column]
        tables = [] if lacking else [pyarrow.parquet.read_table(path, columns=columns) for path in paths]
        joined = pyarrow.concat_tables(tables) if tables else None
    except Exception as error:  # of a damaged file, or of files with other columns
        known = format_of_file(paths[0])
        reason = known if known and "parquet" not in known.partition(";")[0] else f"cannot be read as parquet ({error})"
        raise DataError(f"{paths[0]}: {reason}; download it again") from error
    if lacking:
        raise DataError(f"{lacking[0]}: has no column {column}, which the other split has; expected the same columns in both")
    return joined


def read_column(paths: Sequence[Path], name: str) -> npt.NDArray[np.int64]:
    """A column of whole numbers of parquet files, without their pictures. Raises DataError."""
    if not paths:
        raise DataError(f"there are no parquet files of train, whose {name} names the classes; put them beside those of test")
    column = _read_parquet(paths, name)[name]
    numbers = column.to_numpy()
    if numbers.dtype.kind not in "iu":
        raise DataError(f"{paths[0]}: {name} is {column.type}, {column.null_count:,} of it missing; expected whole numbers")
    return np.asarray(numbers, np.int64)


def read_table(paths: Sequence[Path], side: int = SIDE) -> TableOfPictures:
    """Pictures and whole numbers of parquet files with the same columns, one after the other. Raises DataError.

    A picture is encoded bytes, alone or under `bytes`, as in the tables of the Hugging Face hub.
    """
    table = _read_parquet(paths)
    import pyarrow

    found = [name for name in _PICTURES if name in table.column_names]
    if not found:
        raise DataError(f"{paths[0]}: has the columns {', '.join(table.column_names[:10])}; expected pictures in img or image")
    cells = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in table[found[0]].to_pylist()]
    if bad := [row for row, cell in enumerate(cells) if not isinstance(cell, bytes)]:
        raise DataError(f"{paths[0]}: row {bad[0]} of {found[0]} holds no encoded picture; expected PNG or JPEG bytes")
    wholes = [field.name for field in table.schema if pyarrow.types.is_integer(field.type)]
    left_out = [name for name in wholes if table[name].null_count]
    columns = {name: np.asarray(table[name].to_numpy(), np.int64) for name in wholes if name not in left_out}
    ids = next((table[name].to_pylist() for name in ("id", "ids") if name in table.column_names), None)
    encoded = [cell for cell in cells if isinstance(cell, bytes)]
    pictures = read_pictures(encoded, str(paths[0]), side)
    return TableOfPictures(pictures, columns, _class_names(table.schema.metadata or {}), left_out, ids)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The class names that the Hugging Face hub keeps beside the columns of a table."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(map(str, one["names"])) for name, one in features.items() if "names" in one}
    except (ValueError, KeyError, TypeError, AttributeError):  # none, or of another form
        return {}
