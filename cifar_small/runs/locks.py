"""Who may write to a run directory: one process, whose lock goes with it, however it ends.

`flock` on Linux and macOS; where Python has no fcntl, as on Windows, a byte of the file far behind its text is locked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from cifar_small.errors import DiskError, InUseError

fcntl: Any = None
try:
    import fcntl
except ModuleNotFoundError:
    import msvcrt

LOCK_FILE = ".lock"
LOCKED_BYTE = 2**30  # Windows lets nobody else read what is locked, and the text before it says who holds the lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run directory alone, creating it. Raises InUseError if another process holds it, DiskError without locks."""
    with _locked_file(folder) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if fcntl is None:
                file.close()  # Windows removes no file that is open
            _remove_if_empty(folder)


def _locked_file(folder: Path) -> TextIO:
    """The folder's lock file, open and locked until it is closed. Raises as `locked` does."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115  (stays open while the lock is held)
        except OSError as error:
            raise DiskError(f"cannot write to {folder}: {error.strerror}", remedy="output") from None
        try:
            _lock(file.fileno())
            if _stands_at(file, folder / LOCK_FILE):
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise InUseError(f"{folder} is in use by {holder}; wait for it", remedy="output") from None
        except OSError as error:
            file.close()
            raise DiskError(
                f"{folder} lies on a file system without locks ({error.strerror}), where two processes could write one run "
                "at once; put runs on a local disk, or mount it with locks (Lustre: flock)",
                remedy="output",
            ) from None
        file.close()  # its holder removed it, with an empty folder, after we had opened it: others would lock a new one


def _stands_at(file: TextIO, path: Path) -> bool:
    """Is an open file still the one at a path?"""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_locked(folder: Path) -> bool:
    """Does another process hold the run directory, as far as locks reach?"""
    try:
        with open(folder / LOCK_FILE, "r+b") as file:
            _lock(file.fileno(), shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False  # never trained, or a file system without locks
    return False


@contextmanager
def briefly_alone(folder: Path) -> Iterator[None]:
    """Wait for others who are about to replace a small file of the folder; the run may be in training meanwhile."""
    if fcntl is None:  # folders cannot be opened there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, shared: bool = False) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError if another process holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except PermissionError as error:
        raise BlockingIOError(error.errno, error.strerror) from None


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder if nothing but the lock was put into it; it may have been renamed meanwhile."""
    if folder.exists() and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
        (folder / LOCK_FILE).unlink()
        with suppress(OSError):  # not empty any more: another process has begun there
            folder.rmdir()
