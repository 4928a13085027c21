"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cifar_small.errors import DiskError, UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never leaves it half-written.

    The content goes to a temporary name in the same folder (a rename is atomic only within a file system), reaches the disk,
    and takes the final name; then the folder's entry reaches the disk too. Raises DiskError naming the path.
    """
    # Not by process id alone: workers of a sweep write the same table from machines whose ids may be equal.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = f"it takes {len(content):,} bytes: free some space" if full else "choose another path"
        blocked = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
        reason = f"{blocked} is a file, not a folder" if blocked else error.strerror or str(error)
        raise DiskError(f"cannot write {path}: {reason}; {advice}") from None


def sync_folder(folder: Path) -> None:
    """Bring renames and new names in a folder to the disk; Windows opens no folders and has no way to do it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def probe_writable(path: Path) -> None:
    """Raise UserError if a file could not be written here; leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.probe")
    created = [parent for parent in path.parents if not parent.exists()]
    write_atomic(temporary, b"")
    temporary.unlink()
    for folder in created:
        folder.rmdir()


def append_whole(path: Path, content: bytes) -> int:
    """Append lines and bring them to the disk, all or none; only one process may do so at a time. Raises DiskError.

    A last line without its end, left by a process killed while writing it, is removed first; returns how many bytes that were.
    """
    try:
        with open(path, "ab+", buffering=0) as file:
            whole = file.seek(0, os.SEEK_END)
            file.seek(0)
            torn = whole - (file.read().rfind(b"\n") + 1)
            file.truncate(whole := whole - torn)
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise
    except OSError as error:
        raise DiskError(f"cannot append to {path}: {error.strerror}; free some space or check its permissions") from None
    return torn


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; a NaN is refused because it is not JSON."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise UserError if the file is there and was not to be overwritten."""
    try:
        there = path.exists()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another path") from None
    if there and not overwrite:
        raise UserError(f"{path} exists already", remedy=("overwrite", "output"))


def sha256_bytes(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_HEADS = (
    (b"PK\x03\x04", "a zip, .npz or torch file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"version https://git-lfs", "a git-lfs pointer"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"\x93NUMPY", "a .npy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB 7.3", "an HDF5 file"),
    (b"MATLAB ", "a MATLAB file"),
    (b"PAR1", "a parquet file"),
    (b"%PDF", "a PDF"),
    (b"<", "HTML or XML"),
)


def kind_of(start: bytes) -> str:
    """What a file that starts so seems to be, in words."""
    if not start:
        return "empty"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "a WebP picture"
    if start.startswith(b"BM") and start[6:10] == bytes(4):
        return "a BMP picture"
    return next((name for head, name in _HEADS if start.lstrip().startswith(head)), "an unknown type")


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows of plain values below their names, as text; None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
