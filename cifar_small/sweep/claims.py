"""Which worker holds which job, among processes and machines that share only a folder.

A claim is a file `<job>.<generation>`, made with O_EXCL: the one file operation that every file system, NFS included, grants to
exactly one of many. It is never removed or renamed. A job whose newest claim has fallen silent is taken over by making the next
generation, which again only one can do; removing or renaming the old claim instead could hit the new one of a faster worker.

A holder shows that it lives by setting its claim's modification time, a thread doing so while the main one trains. The age is
taken against a file written into the same folder at that moment, so that both times come from one clock, the file server's,
whatever the machines' own clocks say. Where the holder's processes are numbered as ours are (same host name, boot and pid
namespace: containers and restarted machines may share a name) a missing process tells at once. Releasing sets the time to 0.

The locks of the run directories (`runs.locks.locked`) stand behind this where flock holds: on one machine, on many NFS mounts.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cifar_small.errors import DiskError

LONGEST_BEAT = 30.0  # seconds between two signs of life, or a tenth of the stale time if that is shorter


class ClaimLost(Exception):  # noqa: N818  (not an error: another worker goes on with the run)
    """This process sent no heartbeat for so long that another worker has taken its job over."""


class Claim:
    """A job that is ours while the context lasts."""

    def __init__(self, folder: Path, job: str, generation: int, stale_minutes: float) -> None:
        self.path, self._next = _path(folder, job, generation), _path(folder, job, generation + 1)
        self._beat = min(LONGEST_BEAT, 60 * stale_minutes / 10)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"claim of {job}", daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        with suppress(OSError):  # then the claim expires by itself; the error that ended the work matters more
            os.utime(self.path, (0, 0))

    def check(self) -> None:
        """Raise ClaimLost if another worker has taken the job over."""
        if self._next.exists():
            raise ClaimLost(f"{self.path.name} sent no heartbeat for too long and was taken over by another worker")

    def _live(self) -> None:
        while not self._over.wait(self._beat):
            try:
                if self._next.exists():
                    return
                os.utime(self.path)
            except OSError:
                continue  # a file server may be away for a moment; if for long, another worker takes over and `check` raises


def take(folder: Path, job: str, stale_minutes: float, in_use: Callable[[], bool] = lambda: False) -> Claim | None:
    """The claim on a job, to be entered at once, or None while another worker has it. Raises DiskError naming the folder.

    in_use: is the job's run directory locked? Then its holder, however silent, has only been stopped or cut off.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        newest = _newest(folder, job)
        if newest is not None and (_silence(newest, stale_minutes) is None or in_use()):
            return None
        generation = 0 if newest is None else _generation(newest) + 1
        try:
            descriptor = os.open(_path(folder, job, generation), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:  # another worker was faster
            return None
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps({**_machine(), "process": os.getpid()}))
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror}", remedy="output") from None
    return Claim(folder, job, generation, stale_minutes)


def holder(folder: Path, job: str, stale_minutes: float) -> str | None:
    """The holder of a job, such as `process 12 on host`; None if it is free."""
    newest = _newest(folder, job)
    if newest is None or _silence(newest, stale_minutes) is not None:
        return None
    facts = _facts(newest)
    return f"process {facts['process']} on {facts['host']}" if facts else "another process"


def _path(folder: Path, job: str, generation: int) -> Path:
    return folder / f"{job}.{generation}"


def _newest(folder: Path, job: str) -> Path | None:
    pattern = re.compile(re.escape(job) + r"\.[0-9]+")
    found = [path for path in folder.glob(f"{job}.*") if pattern.fullmatch(path.name)]
    return max(found, key=_generation, default=None)


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def _facts(path: Path) -> dict[str, Any] | None:
    """Host and process of a claim's holder, or None while the file is still being written."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.endswith("}") else None


def _silence(path: Path, stale_minutes: float) -> str | None:
    """Why a claim has expired, or None while it holds."""
    beat = path.stat().st_mtime
    if beat == 0:
        return "released"
    facts = _facts(path)
    if facts and all(facts.get(key) == value for key, value in _machine().items()) and not _lives(facts["process"]):
        return "its process is gone"
    age = _now(path.parent) - beat
    return f"silent for {age / 60:.0f} minutes" if age > 60 * stale_minutes else None


def _machine() -> dict[str, str | None]:
    """What must be equal for a process number of another to mean the same here; boot and namespace are Linux's."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else None,
        "namespace": os.readlink(namespace) if namespace.is_symlink() else None,
    }


def _lives(process: int) -> bool:
    if hasattr(signal, "CTRL_C_EVENT"):
        return True  # Windows, where 0 is that event: not a question but an interrupt; such a claim expires by its silence
    try:
        os.kill(process, 0)  # signal 0 only tests whether the process exists
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now(folder: Path) -> float:
    """The time by the clock that stamps the folder's files."""
    probe = folder / f".clock.{secrets.token_hex(8)}"
    try:
        probe.touch()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return time.time()  # a read-only visitor, for whom this machine's clock will do
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
