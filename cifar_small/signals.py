"""SIGINT and SIGTERM end a run after the step under way, with everything saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from tqdm.auto import tqdm

from cifar_small.errors import Terminated


@contextmanager
def collected_signals(received: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM in `received` instead of dying; a second one interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        tqdm.write(f"{signal.Signals(number).name} received: saving after this step (again: stop now)")

    with _handled_by(handle):
        yield


def stopped_by_signals() -> AbstractContextManager[None]:
    """SIGTERM, and SIGINT also where a shell had it ignored, raise KeyboardInterrupt inside, so that `finally` clauses run."""
    return _handled_by(signal.default_int_handler)


def leave_if_asked(received: list[int], folder: object) -> None:
    """Raise Terminated if a signal has come; call it where everything is saved."""
    if received:
        raise Terminated(f"stopped by {signal.Signals(received[0]).name}; saved in {folder}: add --resume to continue")


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
