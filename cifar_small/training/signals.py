"""SIGINT, SIGTERM and what schedulers send end a run after the step under way, with everything saved."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from tqdm.auto import tqdm

from cifar_small.environment import ENDING_SIGNALS
from cifar_small.errors import Terminated

GRACE = 1.0  # seconds after a signal in which others belong to it


@contextmanager
def collected_signals(received: list[int]) -> Iterator[None]:
    """Collect ENDING_SIGNALS in `received` instead of exiting; Ctrl+C more than GRACE seconds later interrupts at once.

    What comes sooner, and any further SIGTERM, changes nothing: torchrun hands on to its ranks the signal that a terminal or a
    job scheduler has just sent to all of them. `received` may hold a signal already, which came to another rank. A handler that
    was there before, such as submitit's, which has a job queued again, gets the signal once all is saved.
    """
    first: float | None = None  # when the first one came to us

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            if not received:
                received.append(number)
            tqdm.write(f"{signal.Signals(number).name} received: saving after this step (Ctrl+C after a second: stop now)")
        elif number == signal.SIGINT and now - first > GRACE:
            raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    hangup = getattr(signal, "SIGHUP", None)  # which Windows has not
    deaf = [hangup] if handlers.get(hangup) == signal.SIG_IGN else []  # under nohup, which asked for that
    try:
        with _handled_by(handle, set(ENDING_SIGNALS).difference(deaf)):
            yield
    finally:
        former = handlers[signal.Signals(received[0])] if first is not None else None
        if callable(former) and received[0] != signal.SIGINT:
            former(received[0], None)


def stopped_by_signals() -> AbstractContextManager[None]:
    """SIGTERM, and SIGINT also where a shell had it ignored, raise KeyboardInterrupt inside, so that `finally` clauses run."""
    return _handled_by(signal.default_int_handler, (signal.SIGINT, signal.SIGTERM))


def leave_if_asked(received: list[int], folder: object, finished: bool = False) -> None:
    """Raise Terminated if a signal has come; call it where everything is saved."""
    if received:
        state = f"the run in {folder} is finished" if finished else f"the run is saved in {folder} and can be resumed"
        raise Terminated(f"stopped by {signal.Signals(received[0]).name}; {state}", finished)


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None], numbers: Iterable[int]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
