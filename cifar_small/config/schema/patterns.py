"""Texts of a fixed form: the pattern of each, the form in words (for messages and lists of settings), and what was meant."""

from __future__ import annotations

import re

DEVICE = r"^(auto|cpu|cuda(:[0-9]+)?)$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"  # of a recipe
CELL_LABEL = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
SWEEP_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$"
LIBRARY = r"^(torchvision|timm)/[A-Za-z0-9_.]+$"
SHA256 = "^[0-9a-f]{64}$"
HEADER = r"^[A-Za-z][\w .-]*,[A-Za-z][\w .-]*$"
# Around the number of an id in a CSV. A prefix begins with a letter, or a spreadsheet might run it, and ends with no digit.
ID_PREFIX = "(?:[A-Za-z_](?:[A-Za-z0-9_/-]*[A-Za-z_/-])?)?"
ID_SUFFIX = r"(?:\.[A-Za-z]{1,5})?"
FIRST_ID = rf"^{ID_PREFIX}0+{ID_SUFFIX}$"

IN_WORDS = {
    DEVICE: "auto, cpu, cuda or, of several GPUs, one such as cuda:0",
    **{
        pattern: f"text of letters, digits and . _ - (at most {most}, the first a letter or digit)"
        for pattern, most in ((NAME, 100), (CELL_LABEL, 64), (SWEEP_NAME, 32))
    },
    LIBRARY: "torchvision/NAME or timm/NAME",
    SHA256: "64 hexadecimal digits",
    HEADER: "two names of columns, such as ID,Labels",
    FIRST_ID: "0 as the CSV writes it, such as 00000.png or img-0",
}


def meant(pattern: str, given: str) -> str:
    """The text of this form that another one probably means; empty where none is known."""
    if pattern == DEVICE:
        number = re.fullmatch(r"(?:cuda|gpu)[ :_-]?([0-9]+)", given.lower())
        near = (
            f"cuda:{number[1]}"
            if number
            else {"gpu": "cuda", "gpus": "cuda", "nvidia": "cuda"}.get(given.lower(), given.lower())
        )
    elif pattern in (NAME, CELL_LABEL, SWEEP_NAME):
        near = re.sub(r"[^A-Za-z0-9_.-]+", "_", given).strip("_.-")
    else:
        return ""
    return near if re.match(pattern, near) and near != given else ""
