"""Ranks of one run as forks of the test's own process, which spares each the seconds of importing torch."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


class Ranks:
    """Processes that have everything imported and see the environment that torchrun would give them."""

    def __init__(self, size: int, action: Callable[[], int | None], log: Path) -> None:
        """Start `action` in `size` processes; what they print goes to `log`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = log
        self.children = [self._start(rank, size, port, action) for rank in range(size)]

    def _start(self, rank: int, size: int, port: int, action: Callable[[], int | None]) -> int:
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if child:
            return child
        try:
            signal.alarm(300)  # nothing here takes that long: a rank that waits for ever ends
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1), os.dup2(output, 2)
            sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115 pytest's own would keep what is printed
            names = ("RANK", "LOCAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
            os.environ.update({name: str(value) for group, value in zip(names, (rank, size), strict=True) for name in group})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            code = action() or 0
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        os._exit(code)

    def finish(self) -> tuple[list[int], str]:
        """Wait for all; their exit codes, negative for a signal, and what they printed."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in self.children]
        return codes, self.log.read_text()


def in_ranks(size: int, action: Callable[[], int | None], log: Path) -> str:
    """Run `action` in `size` processes and return what they print. Fails with that if one of them does not end with 0."""
    codes, text = Ranks(size, action, log).finish()
    assert codes == [0] * size, text
    return text
