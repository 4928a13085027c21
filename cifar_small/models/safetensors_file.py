"""Weights as safetensors. A tensor that a net uses at several places is held once; the metadata name the other places.

As `safetensors.torch.save_model` and `load_model` have it, which read and write such files too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifar_small.errors import UserError


def to_safetensors(model: nn.Module) -> bytes:
    """The content of a file of a net's state dict. Raises UserError where safetensors is not installed."""
    library = import_safetensors()
    tensors: dict[str, Tensor] = {}
    places: dict[int, str] = {}  # of each tensor, the first name
    others: dict[str, str] = {}  # further names, and the first
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = places.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor.detach().contiguous().clone()  # a view would be refused as shared memory
        else:
            others[name] = first
    return bytes(library.torch.save(tensors, metadata={"format": "pt", **others}))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file on the CPU, under all names. Raises UserError, OSError, or safetensors' own for a damaged file."""
    library = import_safetensors()
    with library.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        others = file.metadata() or {}
    return {**tensors, **{name: tensors[first] for name, first in others.items() if first in tensors and name not in tensors}}


def import_safetensors() -> Any:
    """The package `safetensors`. Raises UserError, naming the extra, where it is not installed."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(
            f"safetensors is needed and is not installed ({error}); pip install 'cifar_small[pretrained]'"
        ) from None
    return safetensors
