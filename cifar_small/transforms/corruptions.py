"""The 15 common corruptions and 4 extra ones of CIFAR-10-C, at CIFAR's own five severities, for whole batches.

Source: Hendrycks & Dietterich (2019), arXiv 1903.12261, whose constants for 32x32 images these are. Each function maps images
float32 (N, 32, 32, 3) in 0..1 and a severity 1..5 to images of the same shape, which may leave 0..1. Differences from the
published files: the random draws; frost, whose photographs are replaced by a fractal; scikit-image's blur, which is scipy's
here; and ImageMagick's motion blur, which is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.data.images import SIDE

Floats = npt.NDArray[np.float32]
Corruption = Callable[[Floats, int, np.random.Generator], Floats]
GRAY = np.array([0.299, 0.587, 0.114], np.float32)


def gaussian_noise(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """The same noise at every brightness."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + scale * rng.standard_normal(x.shape, np.float32)


def shot_noise(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Poisson noise of few photons."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return (rng.poisson(x * photons) / photons).astype(np.float32)


def impulse_noise(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Salt and pepper in single channel values."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = rng.random(x.shape, np.float32)
    return np.where(drawn < amount / 2, 0, np.where(drawn < amount, 1, x)).astype(np.float32)


def speckle_noise(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Noise in proportion to brightness."""
    scale = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    return x + x * scale * rng.standard_normal(x.shape, np.float32)


def gaussian_blur(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """A plain blur."""
    return smoothed(x, (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1])


def smoothed(x: Floats, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Floats:
    """Gaussian blur of the axes 1 and 2; sigma in pixels."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(x, sigma, axes=(1, 2), mode=mode, truncate=truncate), np.float32)


def glass_blur(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Pixels are replaced by neighbors, between two blurs.

    The published code means to swap two pixels, but swaps views of one array, which copies one over the other; so does this.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    mixed = to_float(to_uint8(smoothed(x, sigma)))
    every = np.arange(len(x))
    for _ in range(rounds):
        for row in range(SIDE - 1, 1, -1):
            for column in range(SIDE - 1, 1, -1):
                down, right = rng.integers(-1, 1, (2, len(x)))
                mixed[:, row, column] = mixed[every, row + down, column + right]
    return smoothed(mixed, sigma)


def defocus_blur(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """The disk of a lens out of focus."""
    from scipy.ndimage import convolve, correlate

    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    reach = np.arange(-8, 9)
    disk = (reach**2 + reach[:, None] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * alias**2))
    taps /= taps.sum()
    kernel = convolve(disk / disk.sum(), np.outer(taps, taps), mode="mirror")[6:11, 6:11]  # nothing lies further out
    return np.asarray(correlate(x, kernel[None, :, :, None].astype(np.float32), mode="mirror"), np.float32)


def motion_blur(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Dragged along a line within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return dragged(x, radius, sigma, rng.uniform(-45, 45, len(x)))


def dragged(x: Floats, radius: int, sigma: float, degrees: npt.NDArray[np.float64]) -> Floats:
    """ImageMagick's motion blur: half a Gaussian of whole-pixel steps along each image's own angle, the border repeated."""
    angle = np.deg2rad(degrees)
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    place, every, out = np.arange(SIDE), np.arange(len(x))[:, None, None], np.zeros_like(x)
    for step, weight in zip(steps, weights, strict=True):
        right = np.ceil(step * np.cos(angle) - 0.5).astype(np.int64)
        down = np.ceil(step * np.sin(angle) - 0.5).astype(np.int64)
        rows = np.clip(place + down[:, None], 0, SIDE - 1)[:, :, None]
        columns = np.clip(place + right[:, None], 0, SIDE - 1)[:, None, :]
        out += np.float32(weight) * x[every, rows, columns]
    return out


def zoom_blur(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """The mean of the image and its enlargements, as while zooming in."""
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    total = x.copy()
    for factor in factors:
        total += enlarged(x, factor)
    return total / np.float32(len(factors) + 1)


def enlarged(x: Floats, factor: float) -> Floats:
    """The middle of images (N, 32, 32, C), enlarged to their size by linear interpolation."""
    from scipy.ndimage import zoom

    side = int(np.ceil(SIDE / factor))
    top = (SIDE - side) // 2
    matrix = zoom(np.eye(side), (factor, 1), order=1)  # linear interpolation of each unit vector; of whole batches it is slow
    trim = (len(matrix) - SIDE) // 2
    rows = matrix[trim : trim + SIDE].astype(np.float32)
    middle = x[:, top : top + side, top : top + side].transpose(0, 3, 1, 2)
    return np.asarray((rows @ middle @ rows.T).transpose(0, 2, 3, 1), np.float32)


def fog(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """A fractal haze."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return np.asarray((x + amount * plasma(len(x), decay, rng)[..., None]) * brightest / (brightest + amount), np.float32)


def plasma(count: int, decay: float, rng: np.random.Generator) -> Floats:
    """Fractal height maps (N, 32, 32) in 0..1 by the diamond-square algorithm; decay: of the noise from scale to scale."""
    heights = np.zeros((count, SIDE, SIDE))
    step, noise = SIDE, 100.0

    def disturbed(total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return total / 4 + noise * rng.uniform(-noise, noise, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        heights[:, half::step, half::step] = disturbed(pairs + np.roll(pairs, -1, 2))
        centers, corners = heights[:, half::step, half::step], heights[:, ::step, ::step]
        heights[:, ::step, half::step] = disturbed(centers + np.roll(centers, 1, 1) + corners + np.roll(corners, -1, 2))
        heights[:, half::step, ::step] = disturbed(centers + np.roll(centers, 1, 2) + corners + np.roll(corners, -1, 1))
        step, noise = half, noise / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return np.asarray(heights / heights.max(axis=(1, 2), keepdims=True), np.float32)


def frost(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Pale ridges over the image. The published files use photographs of ice, so these stand in for them only roughly."""
    kept, added = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    ridges = 1 - np.abs(2 * plasma(len(x), 1.6, rng) - 1)
    ice = ridges[..., None] * np.array([0.8, 0.92, 1.0], np.float32)
    return np.asarray(kept * x + added * ice, np.float32)


def snow(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Falling flakes, in two layers that are turned against each other, over a paler image."""
    mean, sd, factor, least, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = enlarged(rng.normal(mean, sd, (len(x), SIDE, SIDE, 1)).astype(np.float32), factor)
    flakes = np.floor(np.where(flakes < least, 0, flakes.clip(0, 1)) * 255).astype(np.float32) / 255
    flakes = dragged(flakes, int(radius), sigma, rng.uniform(-135, -45, len(x)))
    pale = np.maximum(x, (x @ GRAY)[..., None] * 1.5 + 0.5)
    return np.asarray(kept * x + (1 - kept) * pale + flakes + flakes[:, ::-1, ::-1], np.float32)


def spatter(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Drops of water (severities 1 to 3) or mud (4 and 5) on the lens."""
    mean, sd, sigma, least, strength = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = smoothed(rng.normal(mean, sd, (len(x), SIDE, SIDE)).astype(np.float32), sigma)
    liquid = np.where(liquid < least, 0, liquid).astype(np.float32)
    if severity < 4:
        depth = strength * np.stack([_refracted(np.floor(one * 255).astype(np.uint8)) for one in liquid])[..., None]
        return np.asarray(x + depth * np.array([175, 238, 238], np.float32) / 255, np.float32)
    cover = smoothed((liquid > least).astype(np.float32), strength)[..., None]
    cover = np.where(cover < 0.8, 0, cover)
    return np.asarray(x * (1 - cover) + cover * np.array([63, 42, 20], np.float32) / 255, np.float32)


def _refracted(liquid: npt.NDArray[np.uint8]) -> Floats:
    """How much light drops (32, 32) add, in 0..1: most near one side of their edges."""
    import cv2

    distance: Any = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(distance, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32))
    light = liquid * cv2.blur(relief, (3, 3)).astype(np.float32)
    return np.asarray(light / max(float(light.max()), 1e-9), np.float32)


def contrast(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Closer to each channel's mean."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray((x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + mean, np.float32)


def brightness(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """A higher value at the same hue and saturation (HSV)."""
    value = x.max(axis=3, keepdims=True)
    raised = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], 1)
    return np.asarray(np.where(value > 0, x * raised / np.maximum(value, 1e-9), raised), np.float32)


def saturate(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Another saturation at the same hue and value (HSV), where gray counts as a red without saturation."""
    factor, offset = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    value = x.max(axis=3, keepdims=True)
    span = value - x.min(axis=3, keepdims=True)
    wanted = np.clip(span / np.maximum(value, 1e-9) * factor + offset, 0, 1)
    missing = np.where(span > 0, (value - x) / np.maximum(span, 1e-9), np.array([0, 1, 1], np.float32))
    return np.asarray(value * (1 - wanted * missing), np.float32)


def pixelate(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Fewer pixels, by their means."""
    from PIL import Image

    side = int(SIDE * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])
    small = (Image.fromarray(one).resize((side, side), Image.Resampling.BOX) for one in to_uint8(x))
    return to_float(np.stack([np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BOX)) for one in small]))


def elastic_transform(x: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """A random affine map, then a random smooth displacement."""
    import cv2

    reach, sigma, jitter = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
        severity - 1
    ]
    middle, span = SIDE // 2, SIDE // 3
    corners = np.array([[middle + span] * 2, [middle + span, middle - span], [middle - span] * 2], np.float32)
    moved = corners + SIDE * rng.uniform(-jitter, jitter, (len(x), 3, 2)).astype(np.float32)
    noise = rng.uniform(-1, 1, (2, len(x), SIDE, SIDE)).astype(np.float32)
    # Columns, then rows, as the published files have them: there the first displacement moves along x.
    right, down = (SIDE * reach * smoothed(one, SIDE * sigma, "reflect", 3.0) for one in noise)
    columns, rows = np.meshgrid(np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32))
    out = np.empty_like(x)
    for place, image in enumerate(x):
        matrix = cv2.getAffineTransform(corners, moved[place])
        turned = cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
        across, along = (grid.astype(np.float32) for grid in (columns + right[place], rows + down[place]))
        out[place] = cv2.remap(turned, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return out


def to_uint8(x: Floats) -> npt.NDArray[np.uint8]:
    """0..1 to 0..255, rounded down as in the published files; what came from whole values stays what it was."""
    return np.asarray(np.clip(x, 0, 1) * 255 + 1e-3, np.uint8)


def to_float(images: npt.NDArray[np.uint8]) -> Floats:
    """0..255 to 0..1."""
    return np.asarray(images / np.float32(255), np.float32)


COMMON: Mapping[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
}  # the fifteenth is JPEG, beside its other qualities in shifts.py
EXTRA: Mapping[str, Corruption] = {
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
