"""Checkpoint files that are whole or refused: atomic writes, a SHA-256 checked on every load, a previous copy.

torch.save does not promise to detect a flipped bit, and its reader is built without the archive's own checksums; so a
checkpoint here ends with `MAGIC` + the SHA-256 of everything before it. torch.load reads such a file as it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from cifar_small.errors import CheckpointError
from cifar_small.files import kind_of, sync_folder, write_atomic

FORMAT = 1
MAGIC = b"CSMALL01"
TRAILER = len(MAGIC) + hashlib.sha256().digest_size


def save_checkpoint(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Write tensors, numbers, strings, lists and dicts; `previous` keeps the file that stood there until now.

    The new file is whole on the disk before anything of the old one is touched.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    payload = buffer.getvalue()
    fresh = path.with_name(f".{path.name}.new")
    content = payload + MAGIC + hashlib.sha256(payload).digest()
    write_atomic(fresh, content)
    if fresh.read_bytes() != content:
        raise CheckpointError(f"{fresh} does not read back as written; the earlier checkpoint stays: check the disk")
    if previous is not None and path.exists():
        os.replace(path, previous)  # killed between these two renames, loading takes `previous`
    os.replace(fresh, path)
    sync_folder(path.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises CheckpointError for a missing, damaged, foreign or newer file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error.strerror}; train first, or name another run"
        ) from None
    payload, trailer = raw[:-TRAILER], raw[-TRAILER:]
    if not trailer.startswith(MAGIC) or len(trailer) < TRAILER:
        raise CheckpointError(
            f"{path} ({len(raw):,} bytes, {kind_of(raw)}) is truncated, or was not written by cifar-small (no checksum); use "
            "another checkpoint"
        )
    if hashlib.sha256(payload).digest() != trailer[len(MAGIC) :]:
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256; use another checkpoint")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} contains pickled Python objects; refusing to load it ({reason})") from None
    except Exception as error:  # what torch raises for a payload that it did not write, of several kinds
        reason = " ".join(str(error).split())[:100]
        raise CheckpointError(f"{path} is no checkpoint of torch ({reason}); use another checkpoint") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected a checkpoint of cifar-small; use another one")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {state.get('format')}; this version reads format {FORMAT}: update cifar_small"
        )
    return state


def load_newest(path: Path, previous: Path) -> tuple[dict[str, Any], str]:
    """The newest whole checkpoint of the two and, if that is not the newer file, a sentence that says why."""
    try:
        return load_checkpoint(path), ""
    except CheckpointError as error:
        if not previous.exists():
            raise
        return load_checkpoint(previous), f"{error}; falling back to {previous.name}"
