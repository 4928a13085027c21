"""The outputs of a frozen backbone, computed once: a phase that trains the head alone then costs seconds an epoch.

View v of a phase is what the backbone makes of the pixels that epoch v of the phase would see; epochs take the views in turn.
The numbers are kept in 16 bits, in the run directory, under a name that depends on all that they depend on.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cifar_small.config.phases import Phase
from cifar_small.environment import autocast, no_bar
from cifar_small.errors import ConfigError
from cifar_small.files import write_atomic
from cifar_small.models import LibraryNet, in_backbone
from cifar_small.runs.directory import Run, require_space
from cifar_small.training.batches import Batches
from cifar_small.transforms.augmenter import epoch_order
from cifar_small.transforms.functional import resize
from cifar_small.transforms.preprocess import Preprocess

MAX_BYTES = 4 * 2**30  # of all views of a phase
SLICE = 500  # images that go through the backbone at once


def cache_folder(run: Run) -> Path:
    """Where the features of the phase under way are."""
    return run.folder / "features"


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
    def validate(self, net: nn.Module, labels: Tensor) -> tuple[float, float]:
        """Loss and accuracy on val of a net with the backbone that the features are of."""
        assert isinstance(net, LibraryNet)
        net.eval()
        with autocast(self.val.device, self.precision):
            logits = net.classify(self._as_computed(self.val)).float()
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()

    def _as_computed(self, features: Tensor) -> Tensor:
        return features.float() if self.precision == "fp32" else features


def same_backbone(one: nn.Module, other: nn.Module) -> bool:
    """Do two nets have equal backbones, as a net and its average have while the backbone is frozen?"""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return one is other or all(torch.equal(mine, theirs) for (name, mine), theirs in pairs if in_backbone(name))


def fill_cache(run: Run, net: nn.Module, batches: Batches, phase: Phase, precision: str) -> FeatureCache:
    """The features of a phase: read from the run directory where they were computed before, computed and kept otherwise.

    Features of other weights, data or settings are removed. Raises ConfigError where they would take more than MAX_BYTES.
    """
    assert isinstance(net, LibraryNet)
    assert phase.settings.cached_views is not None
    data, folder = batches.data, cache_folder(run)
    net.eval()
    shape = compute_features(net, batches.preprocess(data.val_images[:2]), precision).shape[1:]
    needed = 2 * shape.numel() * (len(data.images) * phase.settings.cached_views + len(data.val))
    if needed > MAX_BYTES:
        raise ConfigError(
            f"phases.{phase.index}.cached_views {phase.settings.cached_views} would keep {needed / 1e9:.1f} GB of features, "
            f"{shape.numel():,} numbers for each image; at most {MAX_BYTES / 1e9:.1f} GB: lower cached_views, resolution or "
            "train_limit, or drop it"
        )
    key = _key(net, batches, phase, precision)
    names = [f"{key}-view{view}.npy" for view in range(phase.settings.cached_views)]
    for other in folder.glob("*.npy"):
        if other.name not in [*names, f"{key}-val.npy"]:
            other.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    require_space(run, needed - sum(path.stat().st_size for path in folder.glob("*.npy")))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    val = _kept(folder / f"{key}-val.npy", dtype, lambda: _of_val(net, batches, precision, dtype))
    views = [
        _kept(folder / name, dtype, lambda view=view: _of_view(net, batches, phase, view, precision, dtype))
        for view, name in enumerate(names)
    ]
    return FeatureCache([view.to(data.device) for view in views], val.to(data.device), phase.start, precision)


def remove_cache(run: Run) -> None:
    """Remove the features, which no later phase needs."""
    shutil.rmtree(cache_folder(run), ignore_errors=True)


@torch.no_grad()
def compute_features(net: LibraryNet, pixels: Tensor, precision: str) -> Tensor:
    """What the backbone of a net in evaluation makes of pixels (B, 3, H, H): (B, ...)."""
    with autocast(pixels.device, precision):
        return net.features(pixels.contiguous(memory_format=torch.channels_last))


def _of_val(net: LibraryNet, batches: Batches, precision: str, dtype: torch.dtype) -> Tensor:
    pixels = (batches.preprocess(part) for part in torch.split(batches.data.val_images, SLICE))
    order = torch.arange(len(batches.data.val_images))
    return _collected(net, pixels, order, precision, dtype, "val")


def _of_view(net: LibraryNet, batches: Batches, phase: Phase, view: int, precision: str, dtype: torch.dtype) -> Tensor:
    """The pixels that epoch `view` of the phase would see, those of its remainder included."""
    settings, config, epoch = phase.settings, batches.config, phase.start + view
    order = epoch_order(len(batches.data.images), config.seed, epoch)
    places = [slice(start, min(start + SLICE, len(order))) for start in range(0, len(order), SLICE)]
    augmented = batches.augmenter.epoch(
        settings.augment, order, epoch, places, config.augmented_at(settings.resolution, batches.data.side)
    )
    pixels = (resize(part, settings.resolution, config.interpolation) for part in augmented)
    return _collected(net, pixels, order, precision, dtype, f"view {view + 1}")


def _collected(
    net: LibraryNet,
    pixels: Iterator[Tensor],
    order: Tensor,
    precision: str,
    dtype: torch.dtype,
    name: str,
) -> Tensor:
    """The features of images in some order, by their index in the dataset, on the CPU."""
    found: Tensor | None = None
    parts = zip(torch.split(order, SLICE), pixels, strict=True)
    for rows, part in tqdm(parts, desc=f"features of {name}", total=-(-len(order) // SLICE), disable=no_bar()):
        features = compute_features(net, part, precision).to("cpu", dtype)
        if found is None:  # a phase may see its images at another resolution than val
            found = torch.empty(len(order), *features.shape[1:], dtype=dtype)
        found[rows] = features
    assert found is not None
    if not found.isfinite().all():
        raise ConfigError(f"features of {name} are beyond what {dtype} holds; drop cached_views")
    return found


def _kept(path: Path, dtype: torch.dtype, compute: Any) -> Tensor:
    """A tensor of 16-bit numbers from its file, or computed and written."""
    if path.is_file():
        return torch.from_numpy(np.load(path, allow_pickle=False)).view(dtype)
    found: Tensor = compute()
    file = io.BytesIO()
    np.save(file, found.view(torch.int16).numpy(), allow_pickle=False)
    write_atomic(path, file.getvalue())
    return found


def _key(net: LibraryNet, batches: Batches, phase: Phase, precision: str) -> str:
    """A hash of all that the features depend on: weights, data, preprocessing, augmentation, precision, torch."""
    preprocess: Preprocess = batches.preprocess
    settings = [
        batches.data.facts.plain(),
        [*preprocess.mean, *preprocess.std, preprocess.side, preprocess.interpolation],
        [phase.settings.augment.model_dump(mode="json"), phase.settings.resolution, phase.start],
        [batches.config.seed, batches.config.input.augment, precision, torch.__version__],
    ]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in net.state_dict().items():
        if in_backbone(name):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
