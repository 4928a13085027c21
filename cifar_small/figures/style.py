"""One style for every figure, and one way to save it: PNG for a screen, SVG for the page, PDF for a paper."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from pathlib import Path
from typing import Any, ParamSpec

from cifar_small.files import write_atomic

P = ParamSpec("P")
Figure = Any  # matplotlib.figure.Figure, which is imported only when something is drawn

INK, GRAY, WHITE = "#1b1f24", "#6b6b6b", "#ffffff"
BLUE, ORANGE = "#2a6fbb", "#d9730d"
LINES = (BLUE, ORANGE, "#2e8b57", "#8a4fbf", "#c23b6b", "#7a6a2f", GRAY)
# Variables of the page's style sheet that take the place of these colors, so that a figure follows light, dark and print.
PAGE_COLORS = {INK: "--ink", GRAY: "--soft", WHITE: "--on", BLUE: "--blue", ORANGE: "--orange"}

SCREEN: Any = {
    **dict.fromkeys(("figure.dpi", "savefig.dpi"), 200),  # alike, since text that fits at one need not at another
    "figure.titlesize": 11,
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "text.parse_math": False,  # a class named A$ is no formula
    "svg.fonttype": "none",
    "svg.hashsalt": "cifar_small",  # the same figure, the same bytes
    "pdf.fonttype": 42,  # AAAI refuses Type 3 fonts
}
PAPER: Any = SCREEN | {
    "figure.figsize": (3.3, 3.3),  # one of the two columns of an AAAI page
    "font.family": "serif",
    "font.size": 8,
    "figure.titlesize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
}
_style: ContextVar[Any] = ContextVar("figure style", default=SCREEN)


@contextmanager
def paper_style() -> Iterator[None]:
    """Figures drawn within are of the width of a column and in a serif font."""
    token = _style.set(PAPER)
    try:
        yield
    finally:
        _style.reset(token)


def in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws a figure, in the style that is in force."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        from matplotlib import rc_context

        with rc_context(_style.get()):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, or of the same shape in the width of the style, if that has one."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display needed

    scale = min(1.0, _style.get().get("figure.figsize", (width,))[0] / width)
    return Figure(figsize=(scale * width, scale * height), layout="constrained")


def logarithmic(axes: Any, values: Sequence[float | None]) -> None:
    """A logarithmic x axis for these values, with plain numbers: matplotlib's powers are formulas, which are shown raw here."""
    axes.set_xscale("log")
    axes.xaxis.get_major_locator().set_params(subs=(1, 1.5, *range(2, 10)) if 0 < decades(values) <= 0.4 else (1, 2, 5))
    axes.xaxis.set_major_formatter(_short_number)
    axes.minorticks_off()


def decades(values: Sequence[float | None]) -> float:
    """How many powers of ten lie between the smallest and the largest; 0 where none is known."""
    known = [value for value in values if value]
    return math.log10(max(known) / min(known)) if known else 0.0


def _short_number(value: float, _: int) -> str:
    """1,200,000 as 1.2M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def percent_ticks(axis: Any) -> None:
    """Leave out the ticks of an axis of shares in % that lie below 0 or above 100."""
    low, high = sorted(axis.get_view_interval())
    axis.set_ticks([tick for tick in axis.get_ticklocs() if max(low, 0) <= tick <= min(high, 100)])


def render(figure: Figure, kind: str) -> bytes:
    """A figure as the content of a png, svg or pdf file, the same bytes for the same figure."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context(_style.get()):
        figure.savefig(buffer, format=kind, metadata=metadata, transparent=kind == "svg")
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PDF where the path ends so, else as PNG."""
    kind = path.suffix.lower().lstrip(".")
    write_atomic(path, render(figure, kind if kind in ("svg", "pdf") else "png"))


def to_html(figure: Figure, label: str) -> str:
    """A figure as an `<svg>` element whose colors are variables of the page; label: what a screen reader says of it."""
    text = render(figure, "svg").decode()
    size = re.search(r'viewBox="[^"]*"', text)
    assert size is not None
    body = text[text.index("</metadata>") + len("</metadata>") :]
    body = re.sub(r"<!--.*?-->|<style.*?</style>", "", body, flags=re.S)  # the page has these rules in its style sheet
    body = re.sub(r'<g id="[\w.]+_\d+">', "<g>", body)  # each figure has these ids, and nothing refers to them
    for color, variable in PAGE_COLORS.items():
        body = body.replace(color, f"var({variable})")
    return f'<svg class="chart" role="img" {size[0]} aria-label="{escape(label)}">{body}'
