"""Handing a CSV to Kaggle by its own program, which has the account and is never imported."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from cifar_small.errors import UserError

PATIENCE = 600  # seconds for an upload
FAILED = ("could not submit", "could not find competition")  # what the program says of a failure that it ends from with 0


def upload(csv: Path, competition: str, message: str) -> str:
    """Upload a CSV where the `kaggle` program is there and return what it said; otherwise the command to run.

    Raises UserError when the program fails, or says that it did. The CSV stays in both cases.
    """
    words = ["kaggle", "competitions", "submit", "-c", competition, "-f", str(csv), "-m", message]
    program = shutil.which(words[0])
    if program is None:
        return f"the kaggle program is not installed (pip install kaggle); to upload: {shlex.join(words)}"
    try:
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"kaggle could not upload {csv} ({error}); the CSV is written: {shlex.join(words)}") from None
    lines = (done.stdout.strip() + "\n" + done.stderr.strip()).strip().splitlines()
    said = [line for line in lines if any(text in line.lower() for text in FAILED)]
    if done.returncode or said:
        last = (said or lines)[-1:] or ["without a word"]
        raise UserError(
            f"kaggle did not take {csv} (exit code {done.returncode}: {last[0]}); the CSV is written; try again with: "
            f"{shlex.join(words)}"
        )
    return f"kaggle: {done.stdout.strip()}"
