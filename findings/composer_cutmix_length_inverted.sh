#!/usr/bin/env bash
# mosaicml (Composer) 0.32.1: the smaller the length of cutmix_batch's box, documented as a share of the side, the larger the box: length=0.25
# cuts up to 30 of 32 pixels, length=0.9 up to 14, since the area of the box is taken for the area outside of it
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps mosaicml==0.32.1 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import types
from importlib.metadata import distribution, version
from pathlib import Path

root = Path(str(distribution("mosaicml").locate_file("composer")))
for name in ("composer", "composer.algorithms", "composer.algorithms.cutmix", "composer.core", "composer.loggers", "composer.loss"):
    sys.modules[name] = types.ModuleType(name)  # their own files import the trainer, unused here, and ask for an older torch
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
for name, names in {"composer.core": ("Algorithm", "Event", "State"), "composer.loggers": ("Logger",)}.items():
    for each in names:
        setattr(sys.modules[name], each, type(each, (), {}))
import numpy as np
import torch
from composer.algorithms.cutmix.cutmix import cutmix_batch

SIDE, DRAWS = 32, 300
images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, SIDE, SIDE)  # an image is of its own number throughout
partner = torch.arange(8).roll(1)


def boxes(length: float) -> tuple:
    """The longest side of a box, and the mean share of pixels that are another image's."""
    np.random.seed(0)
    longest, foreign = 0, []
    for _ in range(DRAWS):
        mixed, _, kept, (left, top, right, bottom) = cutmix_batch(images, torch.arange(8), length=length, indices=partner)
        longest = max(longest, int(right - left), int(bottom - top))
        foreign.append((mixed != images).float().mean().item())
        assert abs(1 - kept - foreign[-1]) < 1e-6  # the labels' weight is that of the pixels
    return longest, round(float(np.mean(foreign)), 2)


print("version:", {name: version(name) for name in ("mosaicml", "torch")})
seen = {}
for length in (0.25, 0.5, 0.75, 0.9):
    seen[length] = boxes(length)
    print(f"length={length}: expected a box of {length * SIDE:.0f} pixels at most; seen: up to {seen[length][0]}, {seen[length][1]:.0%} of pixels replaced")
largest = [longest for longest, _ in seen.values()]
raise SystemExit(0 if largest == [30, 26, 20, 14] and seen[0.25][1] > 3 * seen[0.9][1] else 1)
PYTHON
