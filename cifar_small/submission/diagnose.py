"""What an unlabelled file is, before anything is predicted on it: a card of findings, from its container to copied images.

The labelled test images are read for one purpose, to look for their pixels in the file; their labels are dropped at once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cifar_small.config.schema import Data, Rules
from cifar_small.data import Images, is_available, load_test, load_train, turn_notes
from cifar_small.data.datamodule import channel_moments, channel_statistics
from cifar_small.data.duplicates import NEAR, Copies, find_copies
from cifar_small.data.orientation import HWC_ABOVE, memory_order, pixel_statistics
from cifar_small.data.unlabelled import AskedLayout, color_notes, load_unlabelled, read_raw
from cifar_small.errors import DataError
from cifar_small.metrics.significance import neighbor_likeness

Level = Literal["ok", "note", "warn", "fault"]
SHIFTED = 4.0  # standard errors of a channel's mean or contrast from which the images are not like the training images
ALPHA = 0.001


@dataclass(frozen=True)
class FileFinding:
    """One line of the card."""

    level: Level
    subject: str
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """The card, and every copied image as (id, where its original is, its id there, likeness, exact)."""

    findings: tuple[FileFinding, ...]
    copies: tuple[tuple[int, str, int, float, bool], ...]

    def count(self, level: Level) -> int:
        """How many findings are of a level; a fault means that predictions on the file would be wrong or refused."""
        return sum(finding.level == level for finding in self.findings)


def diagnose(path: Path, rules: Rules, data: Data, *, layout: AskedLayout = "auto") -> Diagnosis:
    """Look at an unlabelled file as it will be read, and compare it with the training and test images where they are there.

    Nothing is downloaded. Raises DataError for a file that cannot be read at all.
    """
    images, notes = load_unlabelled(path, layout=layout)
    findings = list(_container(path, images, rules))
    findings += [FileFinding("warn", "reading", note) for note in notes]
    if not notes:
        findings.append(
            FileFinding("ok", "reading", "uint8 as it stands, ids 0, 1, ... in order, no image constant or repeated")
        )
    findings.append(_compression(images))
    copies: list[tuple[int, str, int, float, bool]] = []
    parts: dict[str, Images | None] = {"file": None}
    if is_available(data):
        parts["train"] = train = load_train(data)
        try:
            parts["test"] = replace(load_test(data), labels=None)
        except DataError as error:  # data of one's own may have none, as Kaggle's has
            findings.append(FileFinding("note", "data", f"compared with the training images alone: {error}"))
        findings += _colors(images, train)
        wrong = turn_notes(images, pixel_statistics(train.images))
        findings += [FileFinding("fault", "turned", note) for note in wrong] or [
            FileFinding("ok", "turned", "edges and brightness run as in training")
        ]
    else:
        findings.append(
            FileFinding("note", "data", f"no {data.source} data at hand, so colors and copies are not compared with it")
        )
    for where, part in parts.items():
        found = find_copies(images.images, None if part is None else part.images)
        findings.append(_copied(found, where, part, images))
        ids = (part or images).ids
        copies += [
            (int(images.ids[at]), where, int(ids[other]), float(likeness), bool(exact))
            for at, other, likeness, exact in zip(found.index, found.other, found.likeness, found.exact, strict=True)
        ]
    usual = f"; by this rule {USUAL[data.source]}" if data.source in USUAL else ""
    findings += [FileFinding("note", "near copies", f"details correlate from {NEAR} on{usual}"), _order(images)]
    return Diagnosis(tuple(findings), tuple(copies))


def _container(path: Path, images: Images, rules: Rules) -> Iterator[FileFinding]:
    count = len(images)
    if path.is_dir():
        yield FileFinding("ok", "file", f"{count:,} pictures")
    else:
        data, ids = read_raw(path)
        listed = "none" if ids is None else f"{type(ids).__name__} of {len(ids):,}"
        kind = f"{ids.dtype} {ids.shape}" if isinstance(ids, np.ndarray) else listed
        yield FileFinding("ok", "file", f"data {data.dtype} {data.shape}, ids {kind}")
    if rules.rows is not None and count != rules.rows:
        yield FileFinding(
            "fault", "rows", f"{count:,} images; the rules expect {rules.rows:,} (if the file is right, allow {count} rows)"
        )
    else:
        yield FileFinding("ok", "rows", f"{count:,} images" + ", as the rules expect" * (rules.rows is not None))
    found = memory_order(images.images)
    score, smooth = found.smoothness, found.layout == "HWC"
    shown = "all constant" if score is None else f"smoothness {score:.2f}; pictures read right have over {HWC_ABOVE}"
    yield FileFinding(
        "ok" if smooth else "warn", "layout", shown if smooth else f"{shown}: noise, or read in the wrong layout?"
    )
    low, high = int(images.images.min()), int(images.images.max())
    used = len(np.unique(images.images))
    level: Level = "fault" if high <= 1 else "warn" if used < 64 else "ok"
    yield FileFinding(
        level, "values", f"{low}..{high}, {used} different ones as uint8" + ": coarse or scaled" * (level != "ok")
    )


def _colors(images: Images, train: Images) -> Iterator[FileFinding]:
    mean, std = channel_statistics(train)
    own_mean, own_std = channel_moments(images)
    texts = [", ".join(f"{value:.3f}" for value in values) for values in (own_mean, own_std, mean, std)]
    text = f"mean {texts[0]}, sd {texts[1]}; in training {texts[2]} and {texts[3]}"
    if wrong := color_notes(images, mean):
        yield from (FileFinding("fault", "colors", note) for note in wrong)
        return
    own, trained = (_per_image(part, mean) for part in (images, train))
    away = np.abs(own.mean(axis=0) - trained.mean(axis=0)) / (trained.std(axis=0) * np.sqrt(1 / len(images) + 1 / len(train)))
    if away.max() > SHIFTED:
        text += (
            f": {away[:3].max():.0f} standard errors apart in color, {away[3:].max():.0f} in contrast: images of another "
            "source, so expect an accuracy below that on val"
        )
        yield FileFinding("warn", "colors", text)
    else:
        yield FileFinding("ok", "colors", text)


GRID = 0.93  # of `color_grid`: images with less were compressed; CIFAR-10's own have 0.99 to 1.00, their JPEGs 0.72 to 0.85
GRID_IMAGES = 100  # fewer are too few to tell


def color_grid(images: npt.NDArray[np.uint8]) -> float | None:
    """Change of colors within pairs of pixels over that between pairs, relative to the same of brightness; images (N, H, W, 3).

    About 1 in pictures as a camera or a PNG has them. JPEG, WebP and AVIF keep colors at half the size, unless told otherwise,
    and brightness whole. None: no color or no brightness changes anywhere.
    """
    pixels = images.astype(np.float32)
    brightness = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    color, bright = _within_pairs(pixels[..., 2] - brightness), _within_pairs(brightness)
    return color / bright if color and bright else None


def _within_pairs(planes: npt.NDArray[np.float32]) -> float:
    """Mean change from even pixels to their next, along both axes, over that from odd ones; planes (N, H, W)."""
    across, down = np.abs(np.diff(planes, axis=2)), np.abs(np.diff(planes, axis=1))
    between = float(across[:, :, 1::2].mean() + down[:, 1::2].mean())
    return float(across[:, :, ::2].mean() + down[:, ::2].mean()) / between if between else 0.0


def _compression(images: Images) -> FileFinding:
    grid = color_grid(images.images[:5000]) if len(images) >= GRID_IMAGES else None
    if grid is None:
        return FileFinding("note", "compression", "too few images, or none in color, to see traces of JPEG or WebP")
    shown = f"colors change {grid:.2f} times as much within pairs of pixels as between pairs"
    if grid < GRID:
        return FileFinding(
            "warn",
            "compression",
            f"{shown}: the images went through JPEG, WebP or the like, which costs points of accuracy even at quality 100; ask "
            "for the pixels as they were",
        )
    return FileFinding("ok", "compression", f"{shown}: no trace of JPEG or WebP")


def _per_image(images: Images, center: Sequence[float]) -> npt.NDArray[np.float64]:
    """Mean of each channel, and mean squared distance from `center`, of each image: (N, 6), pixels in 0..1."""
    flat = images.images.reshape(len(images), -1, 3)
    means = flat.mean(axis=1) / 255
    squares = np.einsum("npc,npc->nc", flat, flat, dtype=np.int64) / (flat.shape[1] * 255**2)  # casts as it goes
    return np.concatenate([means, squares - 2 * means * center + np.square(center)], axis=1)


# What the data sets' own test images have by this rule, so that a file is not held to be worse than they are.
USUAL = {
    "cifar10": "309 (30 mirrored) of CIFAR-10's own 10,000 test images are copies of training images, 43 of other test images",
    "cifar100": (
        "419 (10 exact, 53 mirrored) of CIFAR-100's own 10,000 test images are copies of training images, 47 of other test "
        "images"
    ),
}
USUAL["cifar100_coarse"] = USUAL["cifar100"]
# Where an original may stand: what it is called there, and what a copy of it means.
ORIGINALS = {
    "file": ("earlier images of the file", "they count as many times as they stand"),
    "train": ("training images", "accuracy on them says little about new images"),
    "test": ("labelled test images", "their labels are public: train on none of them and choose nothing by them"),
}


def _copied(found: Copies, where: str, part: Images | None, images: Images) -> FileFinding:
    of, meaning = ORIGINALS[where]
    subject = f"copies of {where}"
    compared = "" if part is None else f" ({len(part):,} compared)"
    if not len(found):
        return FileFinding("ok", subject, f"no image is an exact or near copy of {of}{compared}")
    exact, ids = int(found.exact.sum()), (part or images).ids
    first = ", ".join(f"{images.ids[at]} = {ids[other]}" for at, other in zip(found.index[:3], found.other[:3], strict=True))
    mirrored = f", {found.mirrored.sum():,} of them mirrored" if found.mirrored.any() else ""
    text = (
        f"{exact:,} exact and {len(found) - exact:,} near copies of {of}{compared}{mirrored}, "
        f"{len(found) / len(images):.2%} of the file, first ids {first}: {meaning}"
    )
    return FileFinding("warn", subject, text)


PART = 1000  # images looked at together


def _order(images: Images) -> FileFinding:
    known = "what a label-sorted file gives away is seen on a submission, by cifar-small check or diff"
    parts = range(0, len(images), PART)  # numpy's deviations take 24 bytes for each value
    flat = [images.images[start : start + PART].reshape(-1, images.side**2, 3) for start in parts]
    features = np.concatenate([np.hstack([part.mean(axis=1), part.std(axis=1)]) for part in flat], dtype=np.float64)
    found = neighbor_likeness(features)
    if found is None:
        return FileFinding("note", "order", f"too few images to tell; {known}")
    likeness, p = found
    shown = f"neighboring colors correlate by {likeness:.3f}"
    if p < ALPHA:
        return FileFinding("warn", "order", f"{shown} (p {p:.1g}): not shuffled, sorted by class or source? {known}")
    return FileFinding("ok", "order", f"{shown}, as in a random order (p {p:.2f}); {known}")


def render_card(diagnosis: Diagnosis) -> str:
    """The card for a terminal: level, subject, finding."""
    width = max(len(finding.subject) for finding in diagnosis.findings)
    heads = [f"{one.level:<5}  {one.subject:<{width}}  " for one in diagnosis.findings]
    return "\n".join(
        textwrap.fill(one.text, 120, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
        for head, one in zip(heads, diagnosis.findings, strict=True)
    )


def copies_csv(diagnosis: Diagnosis) -> str:
    """Every copied image: `id,copy_of,other_id,correlation,exact`, where copy_of is file, train or test."""
    lines = [f"{image},{where},{other},{likeness:.4f},{exact}" for image, where, other, likeness, exact in diagnosis.copies]
    return "\n".join(["id,copy_of,other_id,correlation,exact", *lines]) + "\n"
