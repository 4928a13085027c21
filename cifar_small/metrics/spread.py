"""Medians of repeated measurements with their spread, and ratios taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

BUSY = 0.5  # processes that run or wait, averaged over the last minute, above which a machine is not idle


@dataclass(frozen=True)
class Spread:
    """The median and the ends of repeated measurements."""

    median: float
    low: float
    high: float

    def text(self, pattern: str = ".2f") -> str:
        """`2.31 (2.20 .. 2.45)`, each number in the given format."""
        return f"{self.median:{pattern}} ({self.low:{pattern}} .. {self.high:{pattern}})"

    def plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum of at least one number."""
    assert values, "nothing was measured"
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of the quotients of each round; both must hold a number for every round."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])
