"""The outputs of a frozen backbone, computed once: a phase that trains the head alone then costs seconds an epoch.

View v of a phase is what the backbone makes of the pixels that epoch v of the phase would see; epochs take the views in turn.
The numbers are kept in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_small.config.phases import Phase
from cifar_small.environment import autocast
from cifar_small.models import LibraryNet, in_backbone
from cifar_small.runs.directory import Run
from cifar_small.training.batches import Batches
from cifar_small.training.view_cache import (
    SLICE,
    cache_folder,
    check_size,
    compute_in_parts,
    key_of,
    load_or_compute,
    make_room,
    view_slices,
)
from cifar_small.transforms.functional import resize


@dataclass(frozen=True)
class FeatureCache:
    """Features of the training images, a tensor (N, ...) in 16 bits for each view, and of the validation images."""

    views: list[Tensor]
    val: Tensor
    first_epoch: int
    precision: str  # of the run

    def of(self, epoch: int, chosen: Tensor) -> Tensor:
        """The features of images of the dataset, by index (B,), in the view of an epoch."""
        return self._as_computed(self.views[(epoch - self.first_epoch) % len(self.views)][chosen])

    @torch.no_grad()
    def validate(self, net: nn.Module, labels: Tensor, batch_size: int) -> tuple[float, float]:
        """Loss and accuracy on val of a net with the backbone that the features are of, so many images at a time."""
        assert isinstance(net, LibraryNet)
        net.eval()
        with autocast(self.val.device, self.precision):
            logits = torch.cat([net.classify(self._as_computed(part)).float() for part in torch.split(self.val, batch_size)])
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()

    def _as_computed(self, features: Tensor) -> Tensor:
        return features.float() if self.precision == "fp32" else features


def same_backbone(one: nn.Module, other: nn.Module) -> bool:
    """Do two nets have equal backbones, as a net and its average have while the backbone is frozen?"""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return one is other or all(torch.equal(mine, theirs) for (name, mine), theirs in pairs if in_backbone(name))


def fill_cache(
    run: Run, net: nn.Module, batches: Batches, phase: Phase, precision: str, between: Callable[[], None] = lambda: None
) -> FeatureCache:
    """The features of a phase: read from the run directory where they were computed before, computed and kept otherwise.

    between: called before each slice of images.
    Features of other weights, data or settings are removed. Raises ConfigError where they would take more than MAX_BYTES.
    """
    assert isinstance(net, LibraryNet)
    assert phase.settings.cached_views is not None
    data, folder, count = batches.data, cache_folder(run), phase.settings.cached_views
    needed = bytes_needed(net, phase, len(data.images), len(data.val), batches.config.side)
    key = _key(net, batches, phase, precision)
    names = [f"{key}-view{view}.npy" for view in range(count)]
    make_room(run, [*names, f"{key}-val.npy"], needed)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    val = load_or_compute(folder / f"{key}-val.npy", dtype, lambda: _of_val(net, batches, precision, dtype, between))
    views = [
        load_or_compute(folder / name, dtype, lambda view=view: _of_view(net, batches, phase, view, precision, dtype, between))  # type: ignore[misc]
        for view, name in enumerate(names)
    ]
    return FeatureCache([view.to(data.device) for view in views], val.to(data.device), phase.start, precision)


def bytes_needed(net: nn.Module, phase: Phase, images: int, val: int, side: int) -> int:
    """Bytes that a phase keeps of so many images at its resolution, and of val at `side`; the net is put into evaluation.

    Raises ConfigError for more than MAX_BYTES.
    """
    assert isinstance(net, LibraryNet)
    assert phase.settings.cached_views is not None
    device, views = next(net.parameters()).device, phase.settings.cached_views
    net.eval()
    numbers, of_val = (
        compute_features(net, torch.zeros(1, 3, size, size, device=device), "fp32").numel()
        for size in (phase.settings.resolution, side)
    )
    return check_size(
        2 * (numbers * images * views + of_val * val),
        f"phases.{phase.index}.cached_views {views}",
        f"of features, {numbers:,} numbers for each image",
        "lower cached_views, resolution or train_limit, or drop it",
    )


@torch.no_grad()
def compute_features(net: LibraryNet, pixels: Tensor, precision: str) -> Tensor:
    """What the backbone of a net in evaluation makes of pixels (B, 3, H, H): (B, ...)."""
    with autocast(pixels.device, precision):
        return net.features(pixels.contiguous(memory_format=torch.channels_last))


def _of_val(net: LibraryNet, batches: Batches, precision: str, dtype: torch.dtype, between: Callable[[], None]) -> Tensor:
    images = batches.data.val_images
    places = torch.split(torch.arange(len(images)), SLICE)
    parts = ((rows, batches.preprocess(images[rows])) for rows in places)
    compute = partial(compute_features, net, precision=precision)
    return compute_in_parts(compute, parts, len(images), dtype, "features of val", between)


def _of_view(
    net: LibraryNet,
    batches: Batches,
    phase: Phase,
    view: int,
    precision: str,
    dtype: torch.dtype,
    between: Callable[[], None],
) -> Tensor:
    """The pixels that epoch `view` of the phase would see, those of its remainder included, at its resolution."""
    side, interpolation = phase.settings.resolution, batches.config.interpolation
    parts = ((rows, resize(part, side, interpolation)) for rows, part in view_slices(batches, phase, view))
    compute = partial(compute_features, net, precision=precision)
    return compute_in_parts(compute, parts, len(batches.data.images), dtype, f"features of view {view + 1}", between)


def _key(net: LibraryNet, batches: Batches, phase: Phase, precision: str) -> str:
    """A hash of all that the features depend on: the backbone, the views, the precision."""
    backbone = ((name, value) for name, value in net.state_dict().items() if in_backbone(name))
    return key_of(batches, phase, [precision], backbone)
