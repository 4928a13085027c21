"""Pictures of a data set: images of each class, samples, copies side by side, suspected label errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cifar_small.data.images import SIDE
from cifar_small.figures.fitting import LINE, fold, legend_below, set_title
from cifar_small.figures.style import BLUE, LINES, ORANGE, Figure, in_style, new_figure

Pixels = npt.NDArray[np.uint8]
_ROWS = 25  # classes in a column
_MOST = 100  # classes in a picture
_GAP = 2  # pixels between tiles
_WHITE = 255


@in_style
def draw_class_counts(counts: Mapping[str, npt.NDArray[np.int64]], classes: Sequence[str], title: str) -> Figure:
    """Images of each class in each split, as bars; of more than 100 classes the 50 largest and the 50 smallest of train."""
    shown = np.arange(len(classes))
    if len(classes) > _MOST:
        order = np.argsort(-next(iter(counts.values())), kind="stable")
        shown = np.concatenate([order[: _MOST // 2], order[-_MOST // 2 :]])
        title += f"\nthe {_MOST // 2} largest and the {_MOST // 2} smallest of {len(classes):,} classes"
    columns = -(-len(shown) // _ROWS)
    rows = -(-len(shown) // columns)
    figure = new_figure(max(7.5, 4.2 * columns), 1.4 + 0.24 * rows)
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    height = 0.84 / len(counts)
    for place, axes in enumerate(panels):
        part = shown[place * rows : (place + 1) * rows]
        for number, (split, values) in enumerate(counts.items()):
            lines = np.arange(len(part)) + (number - (len(counts) - 1) / 2) * height
            axes.barh(lines, values[part], height=height, color=LINES[number], label=f"{split}, {values.sum():,} images")
        axes.set_yticks(range(len(part)), [classes[label] for label in part], fontsize=8 if columns > 1 else 9)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlabel("images")
        axes.grid(visible=False, axis="y")
    handles, names = panels[0].get_legend_handles_labels()
    legend_below(figure, handles, names, 3, room=1)
    set_title(figure, title)
    return figure


@in_style
def draw_samples(samples: Sequence[tuple[str, Pixels]], title: str) -> Figure:
    """A row of images (n, 32, 32, 3) for each class, 25 classes to a column."""
    columns = -(-len(samples) // _ROWS)
    rows = -(-len(samples) // columns)
    most = max(len(images) for _, images in samples)
    figure = new_figure(max(6.0, (1.3 + 0.36 * most) * columns), 0.6 + 0.36 * rows)
    for place, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = samples[place * rows : (place + 1) * rows]
        sheet = np.full((rows * (SIDE + _GAP), most * (SIDE + _GAP), 3), _WHITE, np.uint8)
        for row, (_, images) in enumerate(part):
            for column, pixels in enumerate(images):
                top, left = row * (SIDE + _GAP), column * (SIDE + _GAP)
                sheet[top : top + SIDE, left : left + SIDE] = pixels
        axes.imshow(sheet, interpolation="nearest")
        axes.set_yticks([SIDE // 2 + row * (SIDE + _GAP) for row in range(len(part))], [name for name, _ in part], fontsize=8)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
    set_title(figure, title)
    return figure


@in_style
def draw_tiles(tiles: Sequence[tuple[Pixels, str, str]], title: str) -> Figure:
    """Images of any width, or several side by side, each with words above (blue) and below (orange), which are folded.

    All stand in boxes of one size, whatever is written: each row is as high as its words need.
    """
    from matplotlib import rcParams

    figure = new_figure(9.3, 1)
    width, size = figure.get_figwidth(), 0.9 * rcParams["font.size"]
    wide = max(pixels.shape[1] for pixels, _, _ in tiles) > SIDE
    columns = max(1, round(width / (2.325 if wide else 1.55)))
    cell, gap, line = width / columns, 0.1, LINE * size / 72  # inches
    box = cell - gap
    high = box * max(pixels.shape[0] / pixels.shape[1] for pixels, _, _ in tiles)
    folded = [(pixels, fold(figure, over, box, size), fold(figure, under, box, size)) for pixels, over, under in tiles]
    rows = [folded[start : start + columns] for start in range(0, len(folded), columns)]
    spaces = [(line * _most(over for _, over, _ in row), line * _most(under for *_, under in row)) for row in rows]
    heights = [above + high + below + 2 * gap for above, below in spaces]
    head = fold(figure, title, 0.96 * width, rcParams["figure.titlesize"])
    top = gap + LINE * rcParams["figure.titlesize"] / 72 * (1 + head.count("\n")) + gap
    figure.set_layout_engine("none")
    figure.set_figheight(height := top + sum(heights))
    figure.suptitle(head, y=1 - gap / height, va="top")
    for row, (above, _), row_height in zip(rows, spaces, heights, strict=True):
        for column, (pixels, over, under) in enumerate(row):
            bottom = height - top - above - high
            axes = figure.add_axes(((column * cell + gap / 2) / width, bottom / height, box / width, high / height))
            axes.set_axis_off()
            axes.imshow(pixels, interpolation="nearest")
            axes.set_title(over, fontsize=size, pad=3, color=BLUE)
            words = {"ha": "center", "va": "top", "fontsize": size, "color": ORANGE, "linespacing": 1.15}
            axes.text(0.5, -0.03, under, transform=axes.transAxes, **words)
        top += row_height
    return figure


def _most(folded: Iterable[str]) -> int:
    """The lines of the one that has most."""
    return 1 + max(words.count("\n") for words in folded)


def side_by_side(one: Pixels, other: Pixels) -> Pixels:
    """Two images (32, 32, 3) with a white line between them."""
    return np.concatenate([one, np.full((SIDE, _GAP, 3), _WHITE, np.uint8), other], axis=1)
