"""The one place that imports torchvision, because its registry wheel does not import beside a CPU build of torch.

The Linux wheel on the package registry is a CUDA build. Its compiled operators then cannot load, and the import dies with
`operator torchvision::nms does not exist`, since torchvision registers shape functions for operators it failed to load.
Declaring the two first is enough for transforms, models and datasets, which never call them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the declarations live as long as this object


def import_torchvision(submodule: str = "") -> Any:
    """Return torchvision, or `torchvision.<submodule>`, declaring its operators only when the import fails without them."""
    global _library
    name = "torchvision" + (f".{submodule}" if submodule else "")
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error) or _library is not None:
            raise
    for loaded in [key for key in sys.modules if key.partition(".")[0] == "torchvision"]:
        del sys.modules[loaded]  # modules left behind by the failed import
    _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        _library.define(schema)  # type: ignore[no-untyped-call]
    return importlib.import_module(name)
