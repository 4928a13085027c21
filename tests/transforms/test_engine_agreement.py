"""What is certain gives the same images by every engine: exactly where only pixels move, to a level where they are computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw

from cifar_small._torchvision import import_torchvision
from cifar_small.config.loading import parse_config
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.transforms import augmenter
from cifar_small.transforms.augmenter import Augmenter, epoch_order
from cifar_small.transforms.batched import Draws
from cifar_small.transforms.preprocess import normalize

COUNT = 40
POLICY = {"engine": "torchvision", "policy": "randaugment", "num_ops": 1}
Force = Callable[..., None]
Space = Callable[[str, float | None], None]


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory: pytest.TempPathFactory) -> DataModule:
    """Photographs of nothing: smooth, colored, with another brightness in each channel."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT + 2, 3, 6, 6, generator=generator) * torch.tensor([0.9, 0.7, 0.5]).view(1, 3, 1, 1)
    large = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False)
    images = (255 * large).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    file = tmp_path_factory.mktemp("images") / "smooth.npz"
    np.savez(file, train_images=images, train_labels=np.arange(len(images)) % 2, classes=np.array(["a", "b"]))
    return load_datamodule(parse_config(tiny_raw(data={"source": "npz", "root": str(file), "val_size": 2}, batch_size=8)))


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """Let every image draw the values given: those of one image, or of each place in the order."""
    drawn = augmenter.draw

    def force(**values: torch.Tensor) -> None:
        def draw(*arguments: Any) -> Draws:
            draws = drawn(*arguments)
            used = {key: value for key, value in values.items() if getattr(draws, key).numel()}  # not what another engine draws
            return replace(draws, **{key: value.expand_as(getattr(draws, key)) for key, value in used.items()})

        monkeypatch.setattr(augmenter, "draw", draw)

    return force


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Space:
    """Let torchvision's RandAugment know one operation, with one strength."""
    kind = import_torchvision("transforms.v2").RandAugment

    def only(name: str, strength: float | None) -> None:
        strengths = None if strength is None else torch.full((31,), strength)
        monkeypatch.setattr(kind, "_AUGMENTATION_SPACE", {name: (lambda bins, height, width: strengths, False)})

    return only


def by_engine(datamodule: DataModule, **augment: Any) -> torch.Tensor:
    """The normalized images of an epoch in its order."""
    section = parse_config(tiny_raw(augment=augment)).augment
    with closing(Augmenter(datamodule, 0)) as one:
        parts = [slice(0, 24), slice(24, COUNT)]
        return torch.cat(list(one.epoch(section, epoch_order(COUNT, 0, 0), 0, parts)))


def by_albumentations(datamodule: DataModule, *pipeline: dict[str, Any]) -> torch.Tensor:
    return by_engine(datamodule, engine="albumentations", pipeline=list(pipeline))


def levels(pixels: torch.Tensor, datamodule: DataModule) -> torch.Tensor:
    """Normalized images in units of 0..255."""
    std, mean = (torch.tensor(values).view(1, 3, 1, 1) for values in (datamodule.std, datamodule.mean))
    return 255 * (pixels * std + mean)


def assert_statistics_agree(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Mean and standard deviation of each channel."""
    for statistic in (torch.mean, torch.std):
        difference = statistic(found, dim=(0, 2, 3)) - statistic(expected, dim=(0, 2, 3))
        assert difference.abs().max().item() <= tolerance, statistic.__name__


@pytest.mark.parametrize("pad", ["zero", "reflect"])
def test_one_crop_mirrored_is_the_same_pixels(datamodule: DataModule, force: Force, only: Space, pad: str) -> None:
    force(offset=torch.tensor([1, 6]), flip=torch.tensor(True))
    only("Identity", None)
    images = datamodule.images[epoch_order(COUNT, 0, 0)].numpy()
    width = ((0, 0), (0, 0), (4, 4), (4, 4))
    padded = np.pad(images, width, mode="reflect")
    if pad == "zero":
        padded = np.stack([np.pad(images[:, c], width[1:], constant_values=int(datamodule.fill[c])) for c in range(3)], axis=1)
    moved = torch.from_numpy(padded[:, :, 1:33, 6:38][..., ::-1].copy())
    expected = normalize(moved, datamodule.mean, datamodule.std)
    basic = {"crop": 4, "pad": pad, "flip": "random"}
    assert torch.equal(by_engine(datamodule, **basic), expected)
    assert torch.equal(by_engine(datamodule, **basic, **POLICY), expected)
    border = {"border_mode": 4} if pad == "reflect" else {"border_mode": 0, "fill": datamodule.fill.tolist()}
    found = by_albumentations(
        datamodule,
        {"name": "Pad", "padding": 4, **border},
        {"name": "Crop", "x_min": 6, "y_min": 1, "x_max": 38, "y_max": 33},
        {"name": "HorizontalFlip", "p": 1.0},
    )
    assert torch.equal(found, expected)


def test_the_same_holes_are_the_same_pixels(datamodule: DataModule, force: Force, only: Space) -> None:
    size = {"num_holes_range": [1, 1], "hole_height_range": [8, 8], "hole_width_range": [8, 8]}
    hole = {"name": "CoarseDropout", "p": 1.0, "fill": datamodule.fill.tolist(), **size}
    white = replace(datamodule, images=torch.full_like(datamodule.images, 255))
    found, on_white = by_albumentations(datamodule, hole), by_albumentations(white, hole)
    hidden = (on_white != on_white.amax((2, 3), keepdim=True)).any(1)  # where it put them, which depends on the seeds alone
    assert set(hidden.sum((1, 2)).tolist()) == {64}
    top, left = (hidden.any(axis).int().argmax(1) for axis in (2, 1))
    assert len({*zip(top.tolist(), left.tolist(), strict=True)}) > COUNT // 2
    force(cutout=torch.stack((top, left), 1) + 4, flip=torch.tensor(False))
    only("Identity", None)
    basic = {"crop": 0, "flip": "none", "cutout": 8}
    expected = by_engine(datamodule, **basic)
    assert torch.equal(by_engine(datamodule, **basic, **POLICY), expected)
    there = hidden[:, None].expand_as(found)
    assert torch.equal(found[~there], expected[~there])
    assert not expected[there].any()
    # Albumentations fills with the mean color in whole levels, we with the mean itself.
    assert (levels(found, datamodule) - levels(expected, datamodule)).abs().max().item() < 0.5 + 1e-3
    assert_statistics_agree(levels(found, datamodule), levels(expected, datamodule), 0.5 * 64 / 1024)


def test_one_brightness_agrees_to_a_level(datamodule: DataModule, force: Force, only: Space) -> None:
    force(color=torch.tensor([1.3, 1, 1, 0]), flip=torch.tensor(False))
    only("Brightness", 0.3)
    images = datamodule.images[epoch_order(COUNT, 0, 0)]
    expected = (1.3 * images.float()).clamp(0, 255)
    plain: dict[str, Any] = {"crop": 0, "flip": "none"}
    jitter = {"brightness": [1.3, 1.3], "contrast": [1.0, 1.0], "saturation": [1.0, 1.0], "hue": [0.0, 0.0]}
    tensor = levels(by_engine(datamodule, **plain, brightness=0.3), datamodule)
    assert (tensor - expected).abs().max().item() < 1e-2
    for found in (
        by_engine(datamodule, **plain, **POLICY),
        by_albumentations(datamodule, {"name": "ColorJitter", "p": 1.0, **jitter}),
    ):
        assert (levels(found, datamodule) - expected).abs().max().item() < 1.01  # whole levels, of which some are cut off
        assert_statistics_agree(levels(found, datamodule), expected, 0.6)
    assert (expected - images).abs().mean().item() > 10


def test_one_rotation_agrees_to_a_level(datamodule: DataModule, force: Force, only: Space) -> None:
    """15 degrees clockwise, within the circle that no engine has to invent pixels for."""
    force(affine=torch.tensor([15.0, 0, 0, 1, 0, 0]), flip=torch.tensor(False))
    only("Rotate", -15.0)
    plain: dict[str, Any] = {"crop": 0, "flip": "none"}
    tensor = by_engine(datamodule, **plain, rotation=15.0)
    policy = by_engine(datamodule, **plain, **POLICY, interpolation="bilinear")
    affine = by_albumentations(datamodule, {"name": "Affine", "p": 1.0, "rotate": [-15, -15]})
    inside = [levels(one, datamodule)[:, :, 6:26, 6:26] for one in (tensor, policy, affine)]
    still = datamodule.images[epoch_order(COUNT, 0, 0)].float()[:, :, 6:26, 6:26]
    assert (inside[0] - still).abs().mean().item() > 5
    for found in inside[1:]:
        assert (found - inside[0]).abs().mean().item() < 0.75
        assert_statistics_agree(found, inside[0], 0.6)


def test_one_shift_by_whole_pixels_is_the_same_pixels(datamodule: DataModule, force: Force) -> None:
    force(affine=torch.tensor([0.0, 3, -2, 1, 0, 0]), flip=torch.tensor(False))  # to the right, and up
    tensor = levels(by_engine(datamodule, crop=0, flip="none", translate=0.1), datamodule)
    shift = {"name": "Affine", "p": 1.0, "translate_px": {"x": [3, 3], "y": [-2, -2]}, "fill": datamodule.fill.tolist()}
    found = levels(by_albumentations(datamodule, shift), datamodule)
    expected = datamodule.fill.float().view(1, 3, 1, 1).repeat(COUNT, 1, 32, 32)
    expected[:, :, :30, 3:] = datamodule.images[epoch_order(COUNT, 0, 0)].float()[:, :, 2:, :29]
    assert (tensor - expected).abs().max().item() < 1e-2
    assert (found - expected).abs().max().item() < 1e-3
    assert_statistics_agree(found, tensor, 1e-2)
