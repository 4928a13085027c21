"""The data of a run on its device, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cifar_small.config.schema import Config, Data
from cifar_small.data.images import SIDE, Images
from cifar_small.data.orientation import PixelStatistics, pixel_statistics
from cifar_small.data.sources import load_train
from cifar_small.data.splits import index_hash, stratified_split, stratified_subset
from cifar_small.environment import resolve_device, resolve_precision
from cifar_small.errors import DataError
from cifar_small.runs.records import DataFacts


@dataclass(frozen=True)
class DataModule:
    """The data of a run on its device, and how it is computed."""

    images: Tensor  # uint8 (N, 3, side, side), channels-last
    labels: Tensor  # int64 (N,)
    ids: npt.NDArray[np.int64]  # (N,), ids of the images
    val: Images
    val_images: Tensor  # the same pixels as `val`, on the device
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # per channel in 0..1: of the training images, or what the initial weights expect
    std: tuple[float, ...]
    pixels: PixelStatistics  # how the training images lie
    facts: DataFacts
    device: torch.device
    precision: str

    @property
    def side(self) -> int:
        """Pixels a side of the images as they are stored: 32, or more where they were read from larger pictures."""
        return int(self.images.shape[-1])

    @property
    def fill(self) -> Tensor:
        """The mean color as uint8 (3,)."""
        return (255 * torch.tensor(self.mean, device=self.device)).round().byte()


def load_datamodule(config: Config) -> DataModule:
    """Read and split the data of a config onto its device. Raises DataError when no step could be made of it."""
    device = resolve_device(config.engine.device)
    precision = resolve_precision(config.engine.precision, device)
    images, val, facts = load_splits(config.data, config.read_at)
    if config.batch_size > len(images):
        raise DataError(
            f"batch_size {config.batch_size} is above the {len(images):,} training images, so no step would be made; lower it"
        )
    assert images.labels is not None
    given = config.input
    mean, std = (given.mean, given.std) if given.mean and given.std else channel_statistics(images)
    labels = torch.from_numpy(images.labels).to(device)
    return DataModule(
        to_tensor(images, device),
        labels,
        images.ids,
        val,
        to_tensor(val, device),
        images.classes,
        mean,
        std,
        pixel_statistics(images.at_32),
        facts,
        device,
        precision,
    )


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of the training pixels in 0..1. Raises DataError for a constant channel."""
    mean, std = channel_moments(images)
    if min(std) < 1e-6:
        raise DataError(
            f"{images.source}: a color channel is constant (means {np.round(mean, 3).tolist()}); expected photographs"
        )
    return mean, std


def channel_moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of any pixels in 0..1, from exact histograms."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), 1000):  # bincount makes int64 copies
        part = images.images[start : start + 1000]
        counts += np.stack([np.bincount(part[..., channel].ravel(), minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist())


def to_tensor(images: Images, device: torch.device) -> Tensor:
    """uint8 (N, 3, side, side) in channels-last memory order on the device; on a CPU a view of a writable array."""
    pixels = images.images if images.images.flags.writeable else images.images.copy()
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)


def load_splits(data: Data, side: int = SIDE) -> tuple[Images, Images, DataFacts]:
    """The training and validation images of a config, and the hashes that identify them. Never touches the test split.

    side: as in `load_train`.
    """
    everything = load_train(data, side)
    assert everything.labels is not None
    train, val = stratified_split(everything.labels, data.val_size, data.split_seed)
    if data.train_limit is not None:
        train = train[stratified_subset(everything.labels[train], data.train_limit, data.split_seed)]
    facts = DataFacts(source=data.source, sha256=everything.sha256, val_sha256=index_hash(val), train_sha256=index_hash(train))
    if data.train_limit is not None:
        facts = facts.updated(train_limit=data.train_limit)
    if everything.side != SIDE:
        facts = facts.updated(side=everything.side)
    return everything.take(train), everything.take(val), facts
