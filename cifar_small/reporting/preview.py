"""What the net will see: training images as each phase augments and mixes them, from the very draws of a run."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_small.config.phases import Phase
from cifar_small.config.resolved import ResolvedConfig, resolve_config
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.errors import UserError
from cifar_small.figures.run import draw_contact_sheet
from cifar_small.figures.style import save
from cifar_small.randomness import MIX, numpy_generator
from cifar_small.reporting.timeline import UPDATES, phase_rows
from cifar_small.training.initial_weights import with_input_of_weights
from cifar_small.transforms.augmenter import Augmenter, epoch_order
from cifar_small.transforms.functional import resize
from cifar_small.transforms.mixing import apply_mix, draw_mix
from cifar_small.wording import plural


@dataclass(frozen=True)
class Tile:
    """One image as the net gets it in one epoch."""

    pixels: npt.NDArray[np.uint8]  # (side, side, 3) at the phase's resolution, after undoing the normalization
    shares: dict[int, float]  # share of each class in the target, largest first, without label smoothing


@dataclass(frozen=True)
class Block:
    """The cells of one phase: a row per image, a column per epoch; None where an epoch leaves an image out."""

    phase: Phase
    epochs: tuple[int, ...]  # 0-based
    cells: tuple[tuple[Tile | None, ...], ...]


def choose_images(labels: Tensor, number: int) -> list[int]:
    """The first `number` dataset indices when classes take turns."""
    seen: Counter[int] = Counter()
    turns = []
    for index, label in enumerate(labels.tolist()):
        turns.append((seen[label], label, index))
        seen[label] += 1
    return [index for _, _, index in sorted(turns)[:number]]


def preview_blocks(
    resolved: ResolvedConfig, data: DataModule, chosen: list[int], epoch: int | None = None, columns: int = 4
) -> list[Block]:
    """The cells of every phase from its first epoch on, or of the phase in force at `epoch` (0-based) from there on."""
    blocks, config = [], resolved.config
    with closing(Augmenter(data, config.seed, config.engine.workers, config.interpolation)) as augmenter:
        for phase in resolved.phases:
            if epoch is not None and not phase.start <= epoch < phase.end:
                continue
            first = phase.start if epoch is None else epoch
            epochs = tuple(range(first, min(first + columns, phase.end)))
            by_epoch = [_cells(config, data, augmenter, phase, phase.shown(one), chosen) for one in epochs]
            blocks.append(Block(phase, epochs, tuple(zip(*by_epoch, strict=True))))
    return blocks


def _cells(
    config: Config, data: DataModule, augmenter: Augmenter, phase: Phase, epoch: int, chosen: list[int]
) -> list[Tile | None]:
    """One epoch's cell of each chosen image. Whole batches are made as in training, since mixing takes partners from them."""
    settings, batch = phase.settings, config.batch_size
    order = epoch_order(len(data.images), config.seed, epoch)
    places = torch.argsort(order)[chosen].tolist()
    last = phase.steps_in(epoch, len(data.images) // batch) * batch
    steps = sorted({place // batch for place in places if place < last})
    parts = [slice(step * batch, (step + 1) * batch) for step in steps]
    found: dict[int, Tile] = {}
    side = config.augmented_at(settings.resolution, data.side)
    batches = augmenter.epoch(settings.augment, order, epoch, parts, side)
    for step, rows, pixels in zip(steps, parts, batches, strict=True):
        targets = F.one_hot(data.labels[order[rows].to(data.device)], len(data.classes)).float()
        mix = draw_mix(settings, batch, numpy_generator(config.seed, MIX, epoch, step), side)
        mixed, mixed_targets = apply_mix(mix, pixels, targets)
        mixed = resize(mixed, settings.resolution, config.interpolation)
        for place in places:
            if place // batch == step:
                row = place - step * batch
                found[place] = Tile(_visible(mixed[row], data), _shares(mixed_targets[row]))
    return [found.get(place) for place in places]


COUNTED = 2000  # images of an epoch in which those that are nearly empty are counted
SAME = 4  # levels of 255, within which two pixels count as of one color


@dataclass(frozen=True)
class Blanks:
    """Shares of images that an augmentation leaves hardly anything of, and of the same images as they are in the data."""

    images: int
    one_color: float  # at least 95 % of the pixels are of one color
    half: float  # more than half of them are
    one_color_before: float
    half_before: float

    def __str__(self) -> str:
        now, before = f"{self.one_color:.1%} and {self.half:.1%}", f"{self.one_color_before:.1%} and {self.half_before:.1%}"
        return f"of {self.images:,} augmented images {now} are of one color, all over and by more than half (before: {before})"


def count_blanks(data: DataModule, augmenter: Augmenter, config: Config, phase: Phase, epoch: int) -> Blanks:
    """How many of the first images of an epoch (0-based) of the phase, augmented and not mixed, are nearly empty."""
    order = epoch_order(len(data.images), config.seed, epoch)
    count = min(COUNTED, len(order))
    parts = [slice(start, min(start + 250, count)) for start in range(0, count, 250)]  # images may be 224 pixels wide
    side = config.augmented_at(phase.settings.resolution, data.side)
    shares = []
    for rows, pixels in zip(parts, augmenter.epoch(phase.settings.augment, order, epoch, parts, side), strict=True):
        before = data.images[order[rows].to(data.device)].permute(0, 2, 3, 1).cpu().numpy()
        shares.append([flat_shares(np.stack([_visible(image, data) for image in pixels])), flat_shares(before)])
    now, before = np.concatenate(shares, axis=1)
    found = [float((values >= 0.95).mean() if whole else (values > 0.5).mean()) for values in (now, before) for whole in (1, 0)]
    return Blanks(count, *found)


def flat_shares(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The share of pixels of each image (N, H, W, 3) that are of its median color, (N,)."""
    flat = images.reshape(len(images), -1, 3).astype(np.int64)
    near = (np.abs(flat - np.median(flat, axis=1, keepdims=True)) <= SAME).all(axis=2)
    return np.asarray(near.mean(axis=1), np.float64)


def _visible(pixels: Tensor, data: DataModule) -> npt.NDArray[np.uint8]:
    mean, std = (np.array(values)[:, None, None] for values in (data.mean, data.std))
    levels: npt.NDArray[np.float64] = 255 * (pixels.cpu().numpy() * std + mean)
    return levels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _shares(target: Tensor) -> dict[int, float]:
    values = enumerate(target.tolist())
    return dict(sorted(((label, share) for label, share in values if share > 0.0005), key=lambda item: -item[1]))


def draw_preview(config: Config, path: Path, *, epoch: int | None = None, images: int | None = None, columns: int = 4) -> str:
    """Write the contact sheet of a config as a PNG; say what is on it, and how many images each phase leaves nearly empty.

    epoch: 1-based as training counts them; None: the first epochs of every phase. images: None: one of each class, but at
    least 8 and at most 20. Raises UserError for an epoch or a number
    of images that the run does not have.
    """
    config = with_input_of_weights(config)
    resolved = resolve_config(config)
    phases = resolved.phases
    if epoch is not None and not 1 <= epoch <= phases[-1].end:
        raise UserError(f"epoch {epoch} is not in this run; expected 1 to {phases[-1].end}")
    data = load_datamodule(config)
    if images is None:
        images = min(max(8, len(data.classes)), 20, len(data.images))
    if not 1 <= images <= len(data.images) or columns < 1:
        raise UserError(
            f"{plural(images, 'image')} and {plural(columns, 'column')}; "
            f"expected 1 to {len(data.images):,} images and at least 1 column"
        )
    chosen = choose_images(data.labels, images)
    blocks = preview_blocks(resolved, data, chosen, None if epoch is None else epoch - 1, columns)
    labels = data.labels.tolist()
    originals = [(data.images[index].permute(1, 2, 0).cpu().numpy(), data.classes[labels[index]]) for index in chosen]
    rows = {name: values for name, values in phase_rows(phases).items() if name not in UPDATES}
    sheet = []
    for block in blocks:
        number = block.phase.index
        on = [rows["augment"][number]]
        on += [f"{name} {values[number]}" for name, values in rows.items() if name != "augment" and values[number] != "-"]
        title = f"phase {number + 1}, epochs {block.phase.start + 1}-{block.phase.end}: " + "; ".join(on)
        cells = [
            [None if cell is None else (cell.pixels, _caption(cell, labels[index], data)) for cell in row]
            for index, row in zip(chosen, block.cells, strict=True)
        ]
        sheet.append((title, [f"epoch {one + 1}" for one in block.epochs], cells))
    save(draw_contact_sheet(originals, sheet, f"{config.name}, seed {config.seed}"), path)
    lines = [f"{images} images, {', '.join(f'phase {block.phase.index + 1}' for block in blocks)} -> {path}"]
    with closing(Augmenter(data, config.seed, config.engine.workers, config.interpolation)) as augmenter:
        for block in blocks:
            blanks = count_blanks(data, augmenter, config, block.phase, block.epochs[0])
            lines.append(f"phase {block.phase.index + 1}: {blanks}")
    return "\n".join(lines)


def _caption(cell: Tile, label: int, data: DataModule) -> str:
    """The target of a mixed image, to a hundredth; nothing for one that kept its own label whole."""
    if list(cell.shares) == [label]:
        return ""
    shown = {other: share for other, share in cell.shares.items() if share >= 0.005}
    return "\n".join(f"{share:.2f} {data.classes[other]}" for other, share in shown.items())
