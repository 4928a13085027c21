"""How to make images of an array that holds them in another form: a line of numpy to be copied. Nothing is converted here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_CHANNELS = (1, 3, 4)
_RESIZE = "np.stack([np.asarray(Image.fromarray(one).resize((32, 32))) for one in x])"


def how_to_convert(images: npt.NDArray[Any]) -> str:
    """What makes uint8 (N, 32, 32, 3), RGB, of an array `x`, as a clause for a message; empty where that cannot be told."""
    if images.dtype.kind not in "biuf" or not images.size:
        return ""
    order, rest = _in_order(images.shape)
    if rest is None:
        return ""
    values, obstacle = _as_uint8(images)
    if obstacle:
        return obstacle
    *sides, channels = rest
    steps = [*order, *values]
    if channels == 1:
        steps.append("x.repeat(3, axis=3)")
    elif channels == 4:
        steps.append("x[..., :3]")
    resized = sides != [32, 32]
    if resized:
        steps.append(_RESIZE)
    if not steps:
        return ""
    line = "; ".join(["from PIL import Image"] * resized + [f"x = {step}" for step in steps])
    larger = ", or save them as pictures in class folders, which data.source folder reads at input.size"
    return f"to convert such an array x: {line}{larger * (min(sides) > 32)}"


def _in_order(shape: tuple[int, ...]) -> tuple[list[str], tuple[int, int, int] | None]:
    """Steps to (N, H, W, C), and the H, W, C that they lead to; None where the axes cannot be told."""
    match shape:
        case (_, values):
            gray, color = math.isqrt(values), math.isqrt(values // 3)
            if gray**2 == values:
                return [f"x.reshape(-1, {gray}, {gray}, 1)"], (gray, gray, 1)
            if 3 * color**2 == values:  # whole color planes, as CIFAR's rows have them
                return [f"x.reshape(-1, 3, {color}, {color}).transpose(0, 2, 3, 1)"], (color, color, 3)
            return [], None
        case (_, height, width):
            return ["x[..., None]"], (height, width, 1)
        case (_, height, width, channels) if channels in _CHANNELS:
            return [], (height, width, channels)
        case (_, channels, height, width) if channels in _CHANNELS:
            return ["x.transpose(0, 2, 3, 1)"], (height, width, channels)
        case (height, width, channels, _) if channels in _CHANNELS:
            return ["x.transpose(3, 0, 1, 2)"], (height, width, channels)
        case _:
            return [], None


def _as_uint8(images: npt.NDArray[Any]) -> tuple[list[str], str]:
    """Steps to uint8 values 0..255; or what stands in their way, in words."""
    kind = images.dtype.kind
    if images.dtype == np.uint8:
        return [], ""
    if kind == "f" and not np.isfinite(images).all():
        return [], "some of its values are NaN or infinite: mend these first"
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        return [], f"its values span {low:g}..{high:g}: bring them to 0..255 first (of normalized ones: x * std + mean)"
    scale = "(255 * x)" if high <= 1 else "x"
    rounded = ".round()" if kind == "f" else ""
    return [f"{scale}{rounded}.astype(np.uint8)"], ""
