"""Charts as inline SVG that takes its colours from the page's style sheet, so that they follow light, dark and print.

Every function returns a `<svg>` element as text; numbers in it are rounded, and every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 44  # margins around the axes


@dataclass(frozen=True)
class Line:
    """A line of a chart: points (x, y) and its name in the legend; `kind` is the class the style sheet colours."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str


@dataclass(frozen=True)
class Axis:
    """An axis: its label and the values at its ends."""

    label: str
    low: float
    high: float

    def ticks(self) -> list[float]:
        """Four to eight round values (1, 2 or 5 times a power of ten apart) within the axis."""
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 7)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 10) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies on the axis, 0 at its low end, 1 at its high end."""
        return (value - self.low) / (self.high - self.low)


def around(values: Sequence[float], label: str, room: float = 0.05) -> Axis:
    """An axis that holds all values, with a share of room at both ends."""
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    return Axis(label, low - room * spread, high + room * spread)


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[float] = ()) -> str:
    """Lines over an axis each, a legend above, dashed verticals at `marks`."""
    parts = [*_frame(x, y)]
    for mark in marks:
        place = _column(x, mark)
        parts.append(f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for line in lines:
        points = " ".join(f"{_column(x, a):.1f},{_row(y, b):.1f}" for a, b in zip(line.x, line.y, strict=True))
        parts.append(f'<polyline class="line {line.kind}" points="{points}"/>')
        if len(line.x) <= 30:
            dots = zip(line.x, line.y, strict=True)
            parts += [
                f'<circle class="dot {line.kind}" cx="{_column(x, a):.1f}" cy="{_row(y, b):.1f}" r="2.4">'
                f"<title>{escape(line.name)}: {b:.4g} at {a:g}</title></circle>"
                for a, b in dots
            ]
    return _svg(title, parts)


def legend(lines: Sequence[Line]) -> str:
    """The names of lines beside a stroke of their colour, as HTML."""
    return " ".join(f'<span class="key {line.kind}">{escape(line.name)}</span>' for line in lines)


def reliability_chart(title: str, confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[int]) -> str:
    """Accuracy of each confidence bin against its mean confidence; the area of a dot is the bin's share of the images."""
    x, y = Axis("confidence", 0, 1), Axis("accuracy", 0, 1)
    diagonal = f'x1="{_column(x, 0)}" y1="{_row(y, 0)}" x2="{_column(x, 1)}" y2="{_row(y, 1)}"'
    parts = [*_frame(x, y), f'<line class="mark" {diagonal}/>']
    total = max(1, sum(count))
    for sure, right, images in zip(confidence, accuracy, count, strict=True):
        if images:
            radius = 2.5 + 16 * math.sqrt(images / total)
            parts.append(
                f'<circle class="bubble" cx="{_column(x, sure):.1f}" cy="{_row(y, right):.1f}" r="{radius:.1f}">'
                f"<title>{images:,} images: confidence {sure:.1%}, accuracy {right:.1%}</title></circle>"
            )
    return _svg(title, parts)


def confusion_chart(title: str, counts: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    """A confusion matrix (K, K), rows true, columns predicted, shaded by share of the row; numbers for up to 20 classes."""
    number = len(classes)
    named = number <= 20
    cell = 34.0 if named else 420.0 / number
    left, top = (92.0, 8.0) if named else (24.0, 8.0)
    size = cell * number
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    parts = [f'<rect class="ground" x="{left}" y="{top}" width="{size:.1f}" height="{size:.1f}"/>']
    for row, column in zip(*np.nonzero(counts), strict=True):
        share, count = float(shares[row, column]), int(counts[row, column])
        kind = "right" if row == column else "wrong"
        # Mistakes are rare: a square root lets a share of 1 % be seen beside one of 90 %.
        place = f'x="{left + column * cell:.1f}" y="{top + row * cell:.1f}" width="{cell:.2f}" height="{cell:.2f}"'
        parts.append(
            f'<rect class="{kind}" {place} fill-opacity="{math.sqrt(share):.2f}"><title>{escape(classes[row])} taken for '
            f"{escape(classes[column])}: {count:,} of {int(counts[row].sum()):,} ({share:.1%})</title></rect>"
        )
        if named:
            dark = " on" if share > 0.35 else ""
            parts.append(
                f'<text class="count{dark}" x="{left + (column + 0.5) * cell:.1f}" y="{top + (row + 0.62) * cell:.1f}">'
                f"{count:,}</text>"
            )
    if named:
        for index, name in enumerate(classes):
            middle = (index + 0.5) * cell
            parts.append(f'<text class="name end" x="{left - 6:.1f}" y="{top + middle + 4:.1f}">{escape(name)}</text>')
            at = f"{left + middle + 4:.1f},{top + size + 10:.1f}"
            parts.append(f'<text class="name end" transform="translate({at}) rotate(-45)">{escape(name)}</text>')
    bottom = 78.0 if named else 24.0
    parts.append(f'<text class="label" x="{left + size / 2:.1f}" y="{top + size + bottom - 6:.1f}">predicted</text>')
    parts.append(f'<text class="label" transform="translate(12,{top + size / 2:.1f}) rotate(-90)">true</text>')
    return _svg(title, parts, left + size + 8, top + size + bottom)


def _frame(x: Axis, y: Axis) -> list[str]:
    parts = []
    for tick in y.ticks():
        row = _row(y, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{row + 4:.1f}">{tick:g}</text>')
    for tick in x.ticks():
        parts.append(f'<text class="tick mid" x="{_column(x, tick):.1f}" y="{HEIGHT - BOTTOM + 16}">{tick:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}">{escape(x.label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="label" transform="translate(12,{middle:.0f}) rotate(-90)">{escape(y.label)}</text>')
    return parts


def _column(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _row(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _svg(title: str, parts: Sequence[Any], width: float = WIDTH, height: float = HEIGHT) -> str:
    head = f'<svg class="chart" role="img" viewBox="0 0 {width:.0f} {height:.0f}" aria-label="{escape(title, quote=True)}">'
    return "\n".join([head, *parts, "</svg>"])
