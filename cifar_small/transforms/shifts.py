"""Labelled stand-ins for other sources: what pictures go through elsewhere, done to images whose labels are known.

A kind of shift has severities 1, 2, ...; `shifted` depends on the images, the kind, the severity and the seed alone.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cifar_small.data.images import SIDE
from cifar_small.errors import UserError
from cifar_small.randomness import SHIFT, numpy_generator
from cifar_small.transforms.corruptions import COMMON, EXTRA, Corruption, Floats, to_float, to_uint8

Pixels = npt.NDArray[np.uint8]
CHUNK = 1000  # images that are worked on at once, each chunk with random numbers of its own
VERSION = 1  # of what the kinds do to pixels; a change makes cached sets another's


@dataclass(frozen=True)
class ShiftKind:
    """One way in which a source may differ. apply: uint8 (N, 32, 32, 3), severity from 1, generator -> the same shape."""

    family: str
    severities: int
    apply: Callable[[Pixels, int, np.random.Generator], Pixels]


def shifted(kind: str, severity: int, images: Pixels, seed: int) -> Pixels:
    """Images (N, 32, 32, 3) after a shift, the same for the same arguments. Raises UserError for what is unknown."""
    known = find_kind(kind)
    if not 1 <= severity <= known.severities:
        raise UserError(f"{kind} has no severity {severity}; expected 1 to {known.severities}")
    stream = zlib.crc32(kind.encode())
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    parts = [
        known.apply(part, severity, numpy_generator(seed, SHIFT, stream, severity, number))
        for number, part in enumerate(chunks)
    ]
    return np.ascontiguousarray(np.concatenate(parts), np.uint8)


def find_kind(name: str) -> ShiftKind:
    """A kind by its name. Raises UserError naming the nearest."""
    from difflib import get_close_matches

    if name not in KINDS:
        near = get_close_matches(name, KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(KINDS)}"
        raise UserError(f"there is no kind of shift {name!r}; {hint}")
    return KINDS[name]


def _corruption(apply: Corruption) -> Callable[[Pixels, int, np.random.Generator], Pixels]:
    return lambda images, severity, rng: to_uint8(apply(to_float(images), severity, rng))


def _jpeg(qualities: Sequence[int], chroma: str) -> ShiftKind:
    """Saved as JPEG and read again; chroma: `4:2:0` halves the resolution of color in both directions, `4:4:4` keeps it."""
    from PIL import Image

    def once(image: Pixels, quality: int) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=chroma)
        return np.asarray(Image.open(buffer), np.uint8)

    return ShiftKind(
        "jpeg", len(qualities), lambda images, severity, _: np.stack([once(one, qualities[severity - 1]) for one in images])
    )


def _webp(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Saved as lossy WebP and read again; it keeps color at half the resolution in both directions."""
    from PIL import Image

    def once(image: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "WEBP", quality=(80, 50, 30, 15, 5)[severity - 1])
        return np.asarray(Image.open(buffer).convert("RGB"), np.uint8)

    return np.stack([once(one) for one in images])


def _palette(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """As GIF keeps it: few colors, chosen for each image, and errors spread to the pixels beside (dither)."""
    from PIL import Image

    colors = (64, 32, 16, 12, 8)[severity - 1]

    def once(image: Pixels) -> Pixels:
        whole = Image.fromarray(image)
        # quantize() dithers only toward a palette that is given.
        few = whole.quantize(colors, Image.Quantize.MEDIANCUT)
        return np.asarray(whole.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"), np.uint8)

    return np.stack([once(one) for one in images])


def _letterbox(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """The whole image, flatter or narrower, between two black bars."""
    from PIL import Image

    inner = (28, 26, 24, 22, 20)[severity - 1]
    start = (SIDE - inner) // 2

    def once(image: Pixels, upright: bool) -> Pixels:
        found = np.zeros_like(image)
        small = Image.fromarray(image).resize((inner, SIDE) if upright else (SIDE, inner), Image.Resampling.BICUBIC)
        found[(slice(None), slice(start, start + inner)) if upright else slice(start, start + inner)] = np.asarray(small)
        return found

    return np.stack([once(one, bool(upright)) for one, upright in zip(images, rng.integers(0, 2, len(images)), strict=True)])


SIZES = (64, 40, 28)  # pixels a side, of the severities of resampling: more than the image has, a little more, fewer


def _resample(resize: Callable[[Pixels, int], Pixels]) -> ShiftKind:
    """To another size and back; resize: images (N, H, H, 3) and a side -> (N, side, side, 3)."""
    return ShiftKind("resample", len(SIZES), lambda images, severity, _: resize(resize(images, SIZES[severity - 1]), SIDE))


def _by_pil(kernel: str) -> Callable[[Pixels, int], Pixels]:
    """PIL's kernels widen where the image shrinks."""
    from PIL import Image

    how = Image.Resampling[kernel.upper()]
    return lambda images, side: np.stack([np.asarray(Image.fromarray(one).resize((side, side), how)) for one in images])


def _by_opencv(kernel: str) -> Callable[[Pixels, int], Pixels]:
    """OpenCV's kernels do not widen, so that fine detail aliases."""

    def resize(images: Pixels, side: int) -> Pixels:
        import cv2

        how = getattr(cv2, f"INTER_{kernel.upper()}")
        return np.stack([np.asarray(cv2.resize(one, (side, side), interpolation=how), np.uint8) for one in images])

    return resize


def _by_torch(images: Pixels, side: int) -> Pixels:
    """torch's bilinear without antialiasing, rounded to whole values."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    found = interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    return np.asarray(found.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(), np.uint8)


def _cast(gains: Sequence[float]) -> ShiftKind:
    """Red, green and blue each times a gain, which the severity raises: the light of another lamp."""
    toward = np.array(gains, np.float32) - 1

    def apply(x: Floats, severity: int, _: np.random.Generator) -> Floats:
        return np.asarray(x * (1 + severity / 5 * toward), np.float32)

    return ShiftKind("color", 5, _corruption(apply))


def _gamma(x: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Middle tones brighter (severities 1 and 3) or darker (2, 4 and 5)."""
    return np.asarray(x ** np.float32((0.8, 1.25, 0.6, 1.7, 2.2)[severity - 1]), np.float32)


def _zoomed(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """A smaller square anywhere in the image, enlarged: objects are larger, and off-center."""
    from PIL import Image

    side = (30, 28, 26, 24, 22)[severity - 1]
    corners = rng.integers(0, SIDE - side + 1, (len(images), 2))
    cut = (one[top : top + side, left : left + side] for one, (top, left) in zip(images, corners, strict=True))
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in cut])


def _moved(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """The image to one side, by as many pixels in both directions; what is uncovered mirrors the border."""
    by = (2, 4, 6, 8, 10)[severity - 1]
    wide = np.pad(images, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect")
    corners = 2 * by * rng.integers(0, 2, (len(images), 2))
    return np.stack([one[top : top + SIDE, left : left + SIDE] for one, (top, left) in zip(wide, corners, strict=True)])


def _rotated(images: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Turned by an angle, to the left or right at random; what is uncovered mirrors the border."""
    import cv2

    degrees = (4, 8, 12, 18, 25)[severity - 1] * rng.choice((-1, 1), len(images))
    center = ((SIDE - 1) / 2, (SIDE - 1) / 2)
    turned = [
        cv2.warpAffine(one, cv2.getRotationMatrix2D(center, float(by), 1.0), (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
        for one, by in zip(images, degrees, strict=True)
    ]
    return np.asarray(np.stack(turned), np.uint8)


def _sharpened(images: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """The sharpening of a camera or an editor: an unsharp mask."""
    from PIL import Image, ImageFilter

    mask = ImageFilter.UnsharpMask(radius=1, percent=(50, 100, 150, 225, 300)[severity - 1], threshold=0)
    return np.stack([np.asarray(Image.fromarray(one).filter(mask), np.uint8) for one in images])


_FAMILIES = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"), "noise"),
    **dict.fromkeys(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"), "blur"),
    **dict.fromkeys(("snow", "frost", "fog", "brightness", "spatter"), "weather"),
}
QUALITIES = (90, 70, 50, 30, 15)
KINDS: Mapping[str, ShiftKind] = {
    **{name: ShiftKind(_FAMILIES.get(name, "digital"), 5, _corruption(one)) for name, one in COMMON.items()},
    "jpeg_compression": _jpeg((80, 65, 58, 50, 40), "4:2:0"),
    **{name: ShiftKind(_FAMILIES.get(name, "digital"), 5, _corruption(one)) for name, one in EXTRA.items()},
    "jpeg_420": _jpeg(QUALITIES, "4:2:0"),
    "jpeg_422": _jpeg(QUALITIES, "4:2:2"),
    "jpeg_444": _jpeg(QUALITIES, "4:4:4"),
    **{f"pil_{kernel}": _resample(_by_pil(kernel)) for kernel in ("bilinear", "bicubic", "lanczos")},
    **{f"opencv_{kernel}": _resample(_by_opencv(kernel)) for kernel in ("linear", "cubic")},
    "torch_bilinear": _resample(_by_torch),
    "warm": _cast((1.25, 1.0, 0.6)),
    "cool": _cast((0.6, 1.0, 1.25)),
    "green": _cast((0.75, 1.15, 0.75)),
    "gamma": ShiftKind("color", 5, _corruption(_gamma)),
    "zoomed": ShiftKind("crop", 5, _zoomed),
    "moved": ShiftKind("crop", 5, _moved),
    "rotated": ShiftKind("camera", 5, _rotated),
    "sharpened": ShiftKind("camera", 5, _sharpened),
    "webp": ShiftKind("format", 5, _webp),
    "palette": ShiftKind("format", 5, _palette),
    "letterbox": ShiftKind("format", 5, _letterbox),
}
# The 15 of the mean corruption error.
MCE_KINDS = (*COMMON, "jpeg_compression")
