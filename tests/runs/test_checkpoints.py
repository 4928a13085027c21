"""Checkpoint files: whole or refused, whatever happens to the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from pathlib import Path

import pytest
import torch

from cifar_small.errors import CheckpointError, UserError
from cifar_small.runs.checkpoints import FORMAT, MAGIC, TRAILER, load_checkpoint, load_newest, save_checkpoint

STATE = {"weights": {"a": torch.arange(2000.0), "b": torch.ones(3, 4)}, "epoch": 3, "rows": [{"x": 1.5}]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    return path


def test_round_trip_and_plain_torch_load(saved: Path) -> None:
    for state in (load_checkpoint(saved), torch.load(saved, weights_only=True)):
        assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])  # type: ignore[index]
        assert state["epoch"] == 3
        assert state["rows"] == [{"x": 1.5}]
        assert state["format"] == FORMAT
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_every_flipped_bit_is_found(saved: Path) -> None:
    raw, rng = saved.read_bytes(), random.Random(0)
    places = [*rng.sample(range(len(raw)), 300), 0, len(raw) - 1, len(raw) - TRAILER, len(raw) - TRAILER - 1]
    for place in places:
        broken = bytearray(raw)
        broken[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"damaged|is truncated"):
            load_checkpoint(saved)


def test_every_truncation_is_found(saved: Path) -> None:
    raw, rng = saved.read_bytes(), random.Random(1)
    for length in [0, 1, TRAILER - 1, TRAILER, len(raw) - 1, *rng.sample(range(len(raw)), 50)]:
        saved.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            load_checkpoint(saved)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "empty"), (b"<!DOCTYPE html>", "HTML"), (b"version https://git-lfs.github.com", "git-lfs"), (b"hello", "unknown")],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=kind):
        load_checkpoint(tmp_path / "x.pt")


def test_missing_and_newer_format(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train first"):
        load_checkpoint(tmp_path / "none.pt")
    newer = tmp_path / "newer.pt"
    torch.save({"format": FORMAT + 4}, newer)
    payload = newer.read_bytes()
    newer.write_bytes(payload + MAGIC + hashlib.sha256(payload).digest())
    with pytest.raises(CheckpointError, match=f"format {FORMAT + 4}; this version reads format {FORMAT}"):
        load_checkpoint(newer)


def test_previous_is_kept_and_used(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for epoch in range(3):
        save_checkpoint(last, {"epoch": epoch}, previous=previous)
    assert (load_checkpoint(last)["epoch"], load_checkpoint(previous)["epoch"]) == (2, 1)
    assert load_newest(last, previous) == (load_checkpoint(last), "")
    last.write_bytes(last.read_bytes()[:-1])
    state, warning = load_newest(last, previous)
    assert state["epoch"] == 1
    assert "falling back to previous.pt" in warning
    previous.unlink()
    with pytest.raises(CheckpointError):
        load_newest(last, previous)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    save_checkpoint(last, {"epoch": 1}, previous=previous)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(UserError, match=r"last\.pt.*No space left on device"):
            save_checkpoint(last, {"epoch": 2}, previous=previous)
    assert load_checkpoint(last)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"PK\x03\x04 no archive of torch", "is no checkpoint of torch"),
        (None, "holds a list; expected a checkpoint of cifar-small"),
    ],
)
def test_what_is_sealed_but_no_checkpoint_is_refused(tmp_path: Path, payload: bytes | None, message: str) -> None:
    """Anybody can write the seal, so that it says nothing of what is in it."""
    path = tmp_path / "x.pt"
    if payload is None:
        torch.save([1, 2], path)
        payload = path.read_bytes()
    path.write_bytes(payload + MAGIC + hashlib.sha256(payload).digest())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_only_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": FORMAT, "path": Path("x")}, path)
    payload = path.read_bytes()
    path.write_bytes(payload + MAGIC + hashlib.sha256(payload).digest())
    with pytest.raises(CheckpointError, match="contains pickled Python objects"):
        load_checkpoint(path)
