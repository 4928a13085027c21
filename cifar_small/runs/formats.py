"""Former formats of summaries, predictions and records, brought up to date as they are read."""

from __future__ import annotations

from typing import Any

from cifar_small.config.renamed import with_current_names

FORMAT = 2  # of summaries, predictions and records; files of format 1 do not name it
MEAN_OF_LOGITS = "mean of logits: "  # start of the name of every ensemble of format 1 that does not name its method


def upgrade(plain: dict[str, Any]) -> dict[str, Any]:
    """A summary, meta, reading or record of any known format, with all that is in it, in the present format.

    Raises ValueError for a format that is not known.
    """
    found = plain.get("format", 1)
    if not isinstance(found, int) or found not in range(1, FORMAT + 1):
        raise ValueError(f"has format {found}; this version reads formats up to {FORMAT}: update cifar_small")
    plain = with_current_names(plain)
    if "format" in plain:
        plain["format"] = FORMAT
    for key in ("run", "summary", "predictions"):
        if isinstance(plain.get(key), dict):
            plain[key] = upgrade(plain[key])
    for key in ("test_readings", "members", "left_out"):
        if isinstance(plain.get(key), list):
            plain[key] = [upgrade(part) if isinstance(part, dict) else part for part in plain[key]]
        elif key in plain and plain[key] is None:
            del plain[key]
    if plain.get("members") and "method" not in plain and str(plain.get("name")).startswith(MEAN_OF_LOGITS):
        plain["method"] = "logits"
    return plain
