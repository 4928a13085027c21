"""Text that fits its figure: lines folded to a width, titles and legends for which the figure grows instead of cutting them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from cifar_small.figures.style import Figure

LINE = 1.28  # of the font's size, from one line to the next
_ROW = 1.2  # of it, a line of a legend without the space between two
_JOINTS = re.compile(r"[-_/.,:]")  # after these a word that is wider than a line is broken


def fold(figure: Figure, words: str, inches: float, size: float | None = None) -> str:
    """The words in lines of at most so many inches, broken at spaces, and within words only where they are wider than a line.

    size: of the font in points; None: that of the style.
    """
    probe = figure.text(0, 0, "", fontsize=size)
    try:

        def fits(line: str) -> bool:
            probe.set_text(line)
            return bool(probe.get_window_extent().width <= inches * figure.dpi)

        return "\n".join(line for part in words.split("\n") for line in _lines(part, fits))
    finally:
        probe.remove()


def _lines(words: str, fits: Callable[[str], bool]) -> list[str]:
    if fits(words):
        return [words]
    lines, line = [], ""
    for word in words.split(" "):
        joined = f"{line} {word}" if line else word
        if fits(joined):
            line = joined
        elif fits(word):
            lines.append(line)
            line = word
        else:
            *full, line = _broken(line, word, fits)
            lines += full
    return [*lines, line]


def _broken(line: str, word: str, fits: Callable[[str], bool]) -> list[str]:
    """A line and a word that is wider than any, in lines: after joints of the word, or else anywhere."""
    lines = []
    while word:
        start = f"{line} " if line else ""
        ends = [found.end() for found in _JOINTS.finditer(word)] + [len(word)]
        if not line and not fits(word[: ends[0]]):
            ends = list(range(1, ends[0]))
        end = max((end for end in ends if fits(start + word[:end])), default=0 if line else 1)
        line, word = (start + word[:end], word[end:]) if end else (line, word)
        if word:
            lines.append(line)
            line = ""
    return [*lines, line]


def width_of(figure: Figure, words: str, size: float | None = None) -> float:
    """How wide the words are in this figure, in inches; size as in `fold`."""
    probe = figure.text(0, 0, words, fontsize=size)
    width = probe.get_window_extent().width / figure.dpi
    probe.remove()
    return float(width)


def grow(figure: Figure, lines: float, size: float) -> None:
    """Make the figure higher by lines of a font of this size in points, so that its panels keep theirs."""
    figure.set_figheight(figure.get_figheight() + lines * LINE * size / 72)


def set_title(figure: Figure, title: str) -> None:
    """The figure's title, folded to its width; the figure grows by the lines that this adds."""
    from matplotlib import rcParams

    if title:
        size = rcParams["figure.titlesize"]
        folded = fold(figure, title, 0.96 * figure.get_figwidth(), size)
        figure.suptitle(folded)
        grow(figure, folded.count("\n") - title.count("\n"), size)


def legend_below(
    figure: Figure,
    handles: Sequence[Any],
    names: Sequence[str],
    columns: int,
    *,
    side: str = "center",
    room: float = 0,
    **options: Any,
) -> None:
    """A legend under the panels, in fewer columns where these are too wide; the figure grows by what lies beyond its room.

    side: left, center or right; room: lines that the figure has room for.
    """
    from matplotlib import rcParams

    size = rcParams["legend.fontsize"]
    em = size / 72
    beside = (rcParams["legend.handlelength"] + rcParams["legend.handletextpad"]) * em
    between = rcParams["legend.columnspacing"] * em
    width = 0.98 * figure.get_figwidth() - 2 * rcParams["legend.borderpad"] * em
    labels = [fold(figure, label, width - beside, size) for label in names]
    widths = [beside + width_of(figure, label, size) for label in labels]
    while columns > 1 and sum(map(max, _columns(widths, columns))) + (columns - 1) * between > width:
        columns -= 1
    legend = figure.legend(handles, labels, loc=f"outside lower {side}", ncols=columns, **options)
    space = rcParams["legend.labelspacing"]
    had = (room * (_ROW + space) - space + 2 * rcParams["legend.borderpad"]) * em
    figure.set_figheight(figure.get_figheight() + max(0.0, float(legend.get_window_extent().height) / figure.dpi - had))


def _columns(values: Sequence[float], columns: int) -> list[Sequence[float]]:
    """The values as matplotlib lays a legend's entries out: column by column, the first ones longer."""
    rows, longer = divmod(len(values), columns)
    ends = [rows * (place + 1) + min(place + 1, longer) for place in range(columns)]
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]
