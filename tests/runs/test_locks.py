"""Locks of run directories where Python has fcntl and, with stand-ins for what Windows has, where it has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_raw

from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import InUseError
from cifar_small.runs import locks

# Windows as far as Linux can play it: no fcntl, half of the signals, and locks on single bytes that a folder cannot have.
WINDOWS = """
import fcntl, os, signal, socket, subprocess, sys, types  # subprocess takes msvcrt for Windows

def locking(descriptor, mode, size):
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, size, 0, os.SEEK_CUR)
    except BlockingIOError as error:
        raise PermissionError(*error.args) from None

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
"""
HIDING = """
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
del os.sched_getaffinity, os.getloadavg, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.pthread_sigmask
"""
TRY = """
from pathlib import Path
from cifar_small.errors import UserError
from cifar_small.runs.locks import is_locked, locked
print(is_locked(Path(sys.argv[1])))
try:
    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("system", ["import sys", WINDOWS + HIDING], ids=["flock", "without fcntl"])
def test_a_second_process_is_told_who_holds_the_run_until_that_one_is_killed(tmp_path: Path, system: str) -> None:
    command, folder = [sys.executable, "-c", system + TRY, str(tmp_path / "run")], tmp_path / "run"
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdin is not None
    assert first.stdout is not None
    with first:
        assert [first.stdout.readline() for _ in range(2)] == ["False\n", "held\n"]
        second = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        assert second.stdout.startswith(f"True\n{folder} is in use by process {first.pid} on ")
        first.kill()
    third = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert third.stdout == "False\nheld\n"
    assert not folder.exists()  # a lock alone leaves nothing behind


def test_a_lock_file_that_is_removed_while_it_is_taken_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended before it began removes its folder, perhaps just after another process has opened the lock file."""
    folder, lock = tmp_path / "run", locks._lock
    removed = []

    def interrupted(descriptor: int, shared: bool = False) -> None:
        lock(descriptor, shared)
        if not removed:
            removed.append(folder)
            locks._remove_if_empty(folder)

    monkeypatch.setattr(locks, "_lock", interrupted)
    with locks.locked(folder):
        assert removed
        assert locks.is_locked(folder)
        with pytest.raises(InUseError), locks.locked(folder):
            pass


def test_commands_run_where_fcntl_and_half_of_the_signals_are_missing(tmp_path: Path) -> None:
    config = tiny_raw(phases=[{"epochs": 1}], data={"source": "digits", "val_size": 200, "train_limit": 64})
    (tmp_path / "tiny.yaml").write_text(dump_yaml(config))
    run = """
from cifar_small.cli.main import main
for line in ("train --config tiny.yaml", "train --config tiny.yaml --resume", "check missing.csv --file missing.pkl"):
    print("code", main(line.split()), flush=True)
"""
    (tmp_path / "program.py").write_text(WINDOWS + HIDING + run)
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert [line for line in done.stdout.splitlines() if line.startswith("code ")] == ["code 0", "code 0", "code 3"], (
        done.stderr
    )
    assert "Traceback" not in done.stderr
