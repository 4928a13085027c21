"""Augmentation against loops in plain numpy, and the distribution of what is drawn."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cifar_small.config.schema import Augment
from cifar_small.randomness import AUGMENT, ORDER, PARITY, torch_generator
from cifar_small.transforms.batched import Draws, cover, crop_and_flip, distort, draw, pad_images
from cifar_small.transforms.functional import OPERATIONS

FILL = torch.tensor([125, 123, 114], dtype=torch.uint8)
MANY = 20_000


def test_a_flip_that_only_the_schema_knows_is_not_taken_for_another() -> None:
    unknown = Augment.model_construct(**{**dict(Augment()), "flip": "diagonal"})
    with pytest.raises(AssertionError, match="diagonal"):
        draw(unknown, torch.arange(4), torch_generator(0, AUGMENT), torch.zeros(4, dtype=torch.bool), 0)


def pixels_of(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.int64).to(torch.uint8)


def draws_of(augment: Augment, count: int, seed: int = 0, epoch: int = 0) -> Draws:
    parity = torch.rand(count, generator=torch_generator(seed, PARITY)) < 0.5
    return draw(augment, torch.arange(count), torch_generator(seed, AUGMENT, epoch), parity, epoch)


def equal(first: Draws, second: Draws) -> bool:
    return all(torch.equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(Draws))


def padded_by_numpy(image: np.ndarray, crop: int, pad: str) -> np.ndarray:
    if pad == "reflect":
        return np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
    planes = [np.pad(plane, crop, constant_values=int(fill)) for plane, fill in zip(image, FILL, strict=True)]
    return np.stack(planes)


@settings(deadline=None, max_examples=25)
@given(
    crop=st.integers(0, 16),
    pad=st.sampled_from(["zero", "reflect"]),
    flip=st.sampled_from(["none", "random", "alternating"]),
    vertical=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 9),
)
def test_crop_and_flips_against_loops(crop: int, pad: str, flip: str, vertical: float, seed: int, epoch: int) -> None:
    augment = Augment(crop=crop, flip=flip, vertical_flip=vertical, **({"pad": pad} if crop else {}))
    images = pixels_of(5, seed % 1000)
    order = torch.tensor([3, 0, 4, 4, 1, 2, 0])
    parity = torch.tensor([True, False, True, True, False])
    draws = draw(augment, order, torch.Generator().manual_seed(seed), parity, epoch)
    found = crop_and_flip(pad_images(images, augment, FILL), order, draws).numpy()
    assert found.dtype == np.uint8
    assert found.shape == (7, 3, 32, 32)
    for place, image in enumerate(order.tolist()):
        large = padded_by_numpy(images[image].numpy(), crop, augment.pad)
        top, left = draws.offset[place].tolist()
        mirrored, upside_down = bool(draws.flip[place]), bool(draws.vertical_flip[place])
        if flip != "random":
            assert mirrored == (flip == "alternating" and bool(parity[image]) != (epoch % 2 == 1))
        if vertical in (0.0, 1.0):
            assert upside_down == bool(vertical)
        expected = np.empty((3, 32, 32), np.uint8)
        for row in range(32):
            for column in range(32):
                source_row = top + (31 - row if upside_down else row)
                source_column = left + (31 - column if mirrored else column)
                expected[:, row, column] = large[:, source_row, source_column]
        assert np.array_equal(found[place], expected)


def test_reflect_padding_of_more_than_one_part() -> None:
    images = pixels_of(5)[torch.arange(5002) % 5]
    augment = Augment(crop=2, pad="reflect")
    padded = pad_images(images, augment, FILL)
    assert padded.shape == (5002, 3, 36, 36)
    for row in (0, 4999, 5000, 5001):
        assert np.array_equal(padded[row].numpy(), padded_by_numpy(images[row].numpy(), 2, "reflect"))


def test_zero_padding_is_the_mean_color() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    padded = pad_images(images, Augment(crop=4), FILL)
    frame = torch.ones(40, 40, dtype=torch.bool)
    frame[4:36, 4:36] = False
    assert padded[:, :, frame].unique(dim=2).flatten(1).tolist() == [[125, 123, 114]] * 2
    assert padded[:, :, ~frame].max() == 0


def covered_by_loops(augment: Augment, draws: Draws, images: np.ndarray) -> np.ndarray:
    expected = images.copy()
    for index in range(len(images)):
        row, column = draws.cutout[index].tolist()
        top, left, height, width = draws.erase[index].tolist()
        for y in range(32):
            for x in range(32):
                low = augment.cutout // 2
                in_cutout = row - low <= y < row - low + augment.cutout and column - low <= x < column - low + augment.cutout
                in_erased = augment.erasing > 0 and top <= y < top + height and left <= x < left + width
                if in_cutout or in_erased:
                    expected[index, :, y, x] = 0
    return expected


@pytest.mark.parametrize(
    ("cutout", "erasing", "scale"),
    [
        (16, 0, None),
        (5, 0, None),
        (32, 0, None),
        (1, 0, None),
        (0, 0.5, (0.02, 0.2)),
        (0, 1.0, (0.9, 1.0)),
        (8, 0.5, (0.1, 0.1)),
    ],
)
def test_cutout_and_erasing_against_loops(cutout: int, erasing: float, scale: tuple[float, float] | None) -> None:
    augment = Augment(cutout=cutout, erasing=erasing, **({"erasing_scale": scale} if scale else {}))
    draws = draws_of(augment, 24)
    images = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 1
    before = images.clone()
    found = cover(images, augment, draws)
    assert np.array_equal(found.numpy(), covered_by_loops(augment, draws, before.numpy()))
    assert torch.equal(images, before)  # the input is not written to


def test_cutout_is_clipped_at_the_borders() -> None:
    draws = draws_of(Augment(), 5)
    centers = torch.tensor([[0, 0], [31, 31], [16, 16], [0, 31], [3, 16]])
    draws = replace(draws, cutout=centers)
    hidden = (cover(torch.ones(5, 3, 32, 32), Augment(cutout=8), draws)[:, 0] == 0).sum((1, 2))
    assert hidden.tolist() == [4 * 4, 5 * 5, 8 * 8, 4 * 5, 7 * 8]


def test_alternating_flip_flips_every_image_every_other_epoch() -> None:
    augment = Augment(flip="alternating")
    parity = torch.rand(MANY, generator=torch_generator(0, PARITY)) < 0.5
    by_image = []
    for epoch in range(4):
        order = torch.randperm(MANY, generator=torch_generator(0, ORDER, epoch))
        flip = draw(augment, order, torch_generator(0, AUGMENT, epoch), parity, epoch).flip
        by_image.append(torch.empty(MANY, dtype=torch.bool).scatter_(0, order, flip))
    assert torch.equal(by_image[0], by_image[2])
    assert torch.equal(by_image[0], ~by_image[1])
    assert torch.equal(by_image[1], by_image[3])
    assert by_image[0].float().mean().item() == pytest.approx(0.5, abs=0.015)  # 4 standard deviations


def test_random_flip_and_vertical_flip_shares() -> None:
    draws = draws_of(Augment(flip="random", vertical_flip=0.2), MANY)
    assert draws.flip.float().mean().item() == pytest.approx(0.5, abs=0.015)
    assert draws.vertical_flip.float().mean().item() == pytest.approx(0.2, abs=0.012)
    both = (draws.flip & draws.vertical_flip).float().mean().item()
    assert both == pytest.approx(0.1, abs=0.01)  # independent of each other


@pytest.mark.parametrize("crop", [1, 2, 4])
def test_offsets_are_uniform(crop: int) -> None:
    side = 2 * crop + 1
    offset = draws_of(Augment(crop=crop), MANY).offset
    assert (offset.min().item(), offset.max().item()) == (0, 2 * crop)
    counts = torch.bincount(offset[:, 0] * side + offset[:, 1], minlength=side**2).double()
    expected = MANY / side**2
    degrees = side**2 - 1
    assert ((counts - expected) ** 2 / expected).sum().item() < degrees + 5 * (2 * degrees) ** 0.5
    assert counts.min() > 0


def test_erased_boxes() -> None:
    draws = draws_of(Augment(erasing=0.25, erasing_scale=(0.1, 0.3)), MANY)
    top, left, height, width = draws.erase.double().unbind(1)
    erased = height > 0
    assert erased.double().mean().item() == pytest.approx(0.25, abs=0.0125)
    assert draws.erase[~erased].abs().max() == 0
    top, left, height, width = (part[erased] for part in (top, left, height, width))
    assert top.min() == 0
    assert left.min() == 0
    assert (top + height).max() == 32
    assert (left + width).max() == 32
    share = height * width / 1024
    assert share.mean().item() == pytest.approx(0.2, abs=0.005)
    assert 0.08 < share.min().item() < 0.11
    assert 0.29 < share.max().item() < 0.33
    ratio = height / width
    assert 0.25 < ratio.min().item() < 0.34
    assert 2.9 < ratio.max().item() < 4
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.05)  # tall as often as wide


EVERYTHING = Augment(crop=4, flip="random", vertical_flip=0.3, cutout=8, erasing=0.5, erasing_scale=(0.05, 0.2))


def augmented(augment: Augment, images: torch.Tensor, rows: torch.Tensor, draws: Draws) -> torch.Tensor:
    pixels = crop_and_flip(pad_images(images, augment, FILL), rows, draws)
    return cover(pixels.float() + 1, augment, draws)


def test_the_same_generator_state_gives_the_same_draws() -> None:
    assert equal(draws_of(EVERYTHING, 100), draws_of(EVERYTHING, 100))
    assert not equal(draws_of(EVERYTHING, 100), draws_of(EVERYTHING, 100, seed=1))
    assert not equal(draws_of(EVERYTHING, 100), draws_of(EVERYTHING, 100, epoch=1))
    torch.manual_seed(1)
    np.random.seed(1)
    assert equal(draws_of(EVERYTHING, 100), draws_of(EVERYTHING, 100))


def test_drawing_leaves_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    draws_of(EVERYTHING, 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_batches_of_any_size_see_the_same_images(size: int) -> None:
    images, order = pixels_of(20), torch.randperm(20, generator=torch.Generator().manual_seed(3))
    draws = draws_of(EVERYTHING, 20)
    whole = augmented(EVERYTHING, images, order, draws)
    parts = [
        augmented(EVERYTHING, images, order[start : start + size], draws[start : start + size]) for start in range(0, 20, size)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("changes", [{"flip": "random"}, {"vertical_flip": 0.5}, {"cutout": 8}, {"erasing": 0.5}])
def test_turning_one_augmentation_on_does_not_move_the_offsets(changes: dict[str, Any]) -> None:
    plain = draws_of(Augment(flip="none"), 50)
    other = draws_of(Augment(**{"flip": "none", **changes}), 50)
    assert torch.equal(plain.offset, other.offset)
    assert torch.equal(plain.cutout, other.cutout)


def test_no_augmentation_is_the_identity() -> None:
    augment = Augment(crop=0, flip="none")
    images = pixels_of(9)
    draws = draws_of(augment, 9, epoch=1)
    padded = pad_images(images, augment, FILL)
    assert padded is images
    assert torch.equal(crop_and_flip(padded, torch.arange(9), draws), images)
    normalized = images.float()
    assert cover(normalized, augment, draws) is normalized


def test_draws_move_together() -> None:
    draws = draws_of(EVERYTHING, 10)
    assert equal(draws.to(torch.device("cpu")), draws)
    assert [len(getattr(draws[2:5], field.name)) for field in fields(Draws)] == [3] * len(fields(Draws))


# SHA-256 (first half of the first 32 digits) of draws and pixels as they were before there was any setting but these.
RECORDED = {
    "default": ({}, "2739b77cca65c3bd", "3be329f95642177f"),
    "everything": (
        {"crop": 4, "flip": "random", "vertical_flip": 0.3, "cutout": 8, "erasing": 0.5, "erasing_scale": (0.05, 0.2)},
        "0d1d3f3fe67bcd76",
        "d235f53f5409c752",
    ),
    "resnet_hour": (
        {"crop": 4, "pad": "reflect", "flip": "alternating", "cutout": 8},
        "5dadd381f50bb1d7",
        "298fc8c339e274f8",
    ),
    "none": ({"crop": 0, "flip": "none"}, "e4c4791665b304af", "22f8025f9e1534e4"),
}
OLD_DRAWS = ("offset", "flip", "vertical_flip", "cutout", "erase")


def digest(*tensors: torch.Tensor) -> str:
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def recorded_draws(augment: Augment) -> tuple[torch.Tensor, Draws]:
    parity = torch.rand(64, generator=torch_generator(3, PARITY)) < 0.5
    order = torch.randperm(64, generator=torch_generator(3, ORDER, 5))
    return order, draw(augment, order, torch_generator(3, AUGMENT, 5), parity, 5)


@pytest.mark.parametrize("case", RECORDED)
def test_older_configs_keep_their_very_draws_and_pixels(case: str) -> None:
    changes, draws_digest, pixels_digest = RECORDED[case]
    augment = Augment(**changes)
    order, draws = recorded_draws(augment)
    assert digest(*(getattr(draws, name) for name in OLD_DRAWS)) == draws_digest
    pixels = distort(crop_and_flip(pad_images(pixels_of(64), augment, FILL), order, draws), augment, draws, FILL)
    assert pixels.dtype == torch.uint8  # nothing was done to them
    assert digest(cover(pixels.float() + 1, augment, draws)) == pixels_digest


DISTORTIONS: dict[str, Any] = {
    "rotation": 20, "translate": 0.2, "scale": (0.8, 1.3), "shear": 10, "border": "reflect", "policy": "randaugment",
    "num_ops": 3, "brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.1, "blur": 0.5, "blur_sigma": (0.5, 1.5),
}  # fmt: skip


def test_new_draws_come_after_the_old_ones() -> None:
    changes, draws_digest, _ = RECORDED["everything"]
    _, draws = recorded_draws(Augment(**changes, **DISTORTIONS))
    assert digest(*(getattr(draws, name) for name in OLD_DRAWS)) == draws_digest
    assert all(getattr(draws, field.name).shape[1] for field in fields(Draws) if field.name not in ("flip", "vertical_flip"))


def test_drawn_strengths_fill_their_ranges_and_differ_per_image() -> None:
    augment = Augment(**DISTORTIONS, magnitude=15)
    draws = draws_of(augment, MANY)
    ranges = [(-20, 20), (-6.4, 6.4), (-6.4, 6.4), (0.8, 1.3), (-10, 10), (-10, 10)]
    columns = [*draws.affine.unbind(1), *draws.color.unbind(1), draws.sigma[draws.sigma > 0]]
    ranges += [(0.7, 1.3), (0.6, 1.4), (0.5, 1.5), (-0.1, 0.1), (0.5, 1.5)]
    for column, (low, high) in zip(columns, ranges, strict=True):
        width = high - low
        assert low <= column.min().item() + 1e-6
        assert column.max().item() <= high + 1e-6
        assert column.min().item() < low + 0.01 * width
        assert column.max().item() > high - 0.01 * width
        assert column.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * width)
        assert len(column.unique()) > 0.9 * len(column)
    correlations = torch.corrcoef(torch.cat((draws.affine, draws.color), 1).T) - torch.eye(10)
    assert correlations.abs().max().item() < 0.04  # independent of each other
    assert (draws.sigma > 0).float().mean().item() == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize(("policy", "turns"), [("trivialaugment", 1), ("randaugment", 3)])
def test_operations_are_drawn_equally_often(policy: str, turns: int) -> None:
    extra = {"num_ops": 3, "magnitude": 10} if policy == "randaugment" else {}
    draws = draws_of(Augment(policy=policy, **extra), MANY)
    assert draws.operations.shape == draws.strengths.shape == (MANY, turns)
    counts = torch.bincount(draws.operations.flatten(), minlength=len(OPERATIONS)).double() / (MANY * turns)
    assert len(counts) == 14
    assert (counts - 1 / 14).abs().max().item() < 0.008
    for number, (_, wide, narrow, signed) in enumerate(OPERATIONS.values()):
        strengths = draws.strengths[draws.operations == number].double()
        if policy == "randaugment":
            assert strengths.abs().unique().tolist() == pytest.approx([narrow / 3])
        else:
            levels = torch.arange(31).double() * wide / 30
            assert strengths.abs().unique().tolist() == pytest.approx(levels.unique().tolist(), abs=1e-5)
        assert ((strengths < 0).any().item(), (strengths > 0).any().item()) == (signed, bool(wide))
        if signed:
            assert (strengths > 0).double().mean().item() == pytest.approx(0.5, abs=0.06)


def distorted(augment: Augment, images: torch.Tensor, draws: Draws) -> torch.Tensor:
    return distort(images, augment, draws, FILL)


TINY = {
    "affine": {"rotation": 1e-5, "translate": 1e-7, "scale": (1.0, 1.0000001), "shear": 1e-5, "border": "reflect"},
    "affine, zero": {"rotation": 1e-5},
    "color": {"brightness": 1e-6, "contrast": 1e-6, "saturation": 1e-6, "hue": 1e-7},
    "blur": {"blur": 1, "blur_sigma": (0.01, 0.02)},
    "blur of none": {"blur": 1e-9, "blur_sigma": (1, 3)},
    "policy": {"policy": "randaugment", "magnitude": 0},
}


@pytest.mark.parametrize("case", TINY)
def test_strength_zero_is_the_identity(case: str) -> None:
    augment = Augment(**TINY[case])
    images = pixels_of(200).clamp(0, 254)  # solarize inverts 255 at any strength, as torchvision's does
    draws = draws_of(augment, 200)
    if case == "policy":  # two of its operations have no strength
        kept = (draws.operations < list(OPERATIONS).index("autocontrast")).all(1)
        images, draws = images[kept], draws[kept]
        assert len(images) > 100
    found = distorted(augment, images, draws)
    assert found.dtype == torch.float32
    assert (found - images).abs().max().item() < 0.01
    if "blur" in case:
        assert torch.equal(found, images.float())


def test_contrast_is_taken_from_the_mean() -> None:
    """albumentations' RandomBrightnessContrast takes it from black, which makes images brighter."""
    images = torch.randint(80, 121, (50, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augment = Augment(contrast=0.5, flip="none")
    found = distorted(augment, images, draws_of(augment, 50))
    assert found.mean((1, 2, 3)).tolist() == pytest.approx(images.float().mean((1, 2, 3)).tolist(), abs=0.6)
    ratios = found.std((1, 2, 3)) / images.float().std((1, 2, 3))
    assert ratios.min() < 0.6 < 1.4 < ratios.max()


def test_strengths_differ_per_image() -> None:
    images = pixels_of(1).expand(12, 3, 32, 32)
    single: list[dict[str, Any]] = [
        {"rotation": 20}, {"translate": 0.2}, {"scale": (0.7, 1.4)}, {"shear": 20}, {"brightness": 0.5}, {"contrast": 0.5},
        {"saturation": 0.5}, {"hue": 0.3}, {"blur": 1}, {"policy": "trivialaugment"},
    ]  # fmt: skip
    for changes in single:
        augment = Augment(**changes)
        found = distorted(augment, images, draws_of(augment, 12)).flatten(1)
        assert len({tuple(row) for row in found.tolist()}) > 10, changes


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_pixels_do_not_depend_on_the_rest_of_the_batch(border: str) -> None:
    changes = {**DISTORTIONS, "border": border}
    images = pixels_of(24)
    for augment in (Augment(**changes), Augment(policy="trivialaugment", border=border, hue=0.2)):
        draws = draws_of(augment, 24)
        whole = distorted(augment, images, draws)
        assert 0 <= whole.min().item() <= whole.max().item() <= 255 + 1e-3
        for size in (1, 5, 7):
            parts = [distorted(augment, images[s : s + size], draws[s : s + size]) for s in range(0, 24, size)]
            assert torch.equal(torch.cat(parts), whole)
        rows = torch.tensor([5, 3, 17])
        assert torch.equal(distorted(augment, images[rows], draws[rows]), whole[rows])


def test_beyond_the_edge_lies_the_mean_color() -> None:
    augment = Augment(translate=1.0)
    draws = draws_of(augment, 1)
    draws = replace(draws, affine=torch.tensor([[0.0, 8.0, -3.0, 1.0, 0.0, 0.0]]))
    images = pixels_of(1)
    found = distorted(augment, images, draws)[0]
    assert found[:, :29, 8:].sub(images[0, :, 3:, :24]).abs().max().item() == 0  # 8 to the right, 3 up
    assert found[:, :, :8].flatten(1).unique(dim=1).flatten().tolist() == FILL.tolist()
    assert found[:, 29:].flatten(1).unique(dim=1).flatten().tolist() == FILL.tolist()
    reflected = distorted(Augment(translate=1.0, border="reflect"), images, draws)[0]
    assert torch.equal(reflected[:, :29, :8], images[0, :, 3:, :8].flip(2).float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"border": "zero"}, "border has no effect while rotation, translate, scale, shear, policy are off"),
        ({"blur_sigma": (1, 2)}, "blur_sigma has no effect while blur is 0: set blur or drop blur_sigma"),
        ({"num_ops": 2}, "num_ops has no effect without a policy: set policy to randaugment"),
        ({"policy": "trivialaugment", "magnitude": 9}, "magnitude has no effect with policy trivialaugment"),
        ({"scale": (1.2, 0.8)}, "scale .* must be .low, high. with 0 < low <= high"),
        ({"blur": 0.5, "blur_sigma": (2, 1)}, "blur_sigma .* must be .low, high."),
    ],
)
def test_values_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Augment(**changes)
