"""Pictures of a data set: images of each class, samples, copies side by side, suspected label errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

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
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
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
        sheet = np.full((rows * (32 + _GAP), most * (32 + _GAP), 3), _WHITE, np.uint8)
        for row, (_, images) in enumerate(part):
            for column, pixels in enumerate(images):
                top, left = row * (32 + _GAP), column * (32 + _GAP)
                sheet[top : top + 32, left : left + 32] = pixels
        axes.imshow(sheet, interpolation="nearest")
        axes.set_yticks([16 + row * (32 + _GAP) for row in range(len(part))], [name for name, _ in part], fontsize=8)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
    figure.suptitle(title)
    return figure


@in_style
def draw_tiles(tiles: Sequence[tuple[Pixels, str, str]], title: str) -> Figure:
    """Images of any width, or several side by side, each with a line above (blue) and below (orange)."""
    wide = max(pixels.shape[1] for pixels, _, _ in tiles) > 32
    columns, height = (4, 1.85) if wide else (6, 2.15)
    rows = -(-len(tiles) // columns)
    figure = new_figure(9.3, 0.5 + height * rows)
    figure.get_layout_engine().set(h_pad=0.09)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (pixels, above, below) in zip(grid.flat, tiles, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(above, fontsize=9, pad=3, color=BLUE)
        words = {"ha": "center", "va": "top", "fontsize": 9, "color": ORANGE, "linespacing": 1.15}
        axes.text(0.5, -0.03, below, transform=axes.transAxes, **words)
    figure.suptitle(title)
    return figure


def side_by_side(one: Pixels, other: Pixels) -> Pixels:
    """Two images (32, 32, 3) with a white line between them."""
    return np.concatenate([one, np.full((32, _GAP, 3), _WHITE, np.uint8), other], axis=1)
