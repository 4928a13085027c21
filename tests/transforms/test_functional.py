"""Batched operations against torchvision's and PIL's own, one image at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter, map_coordinates

from cifar_small._torchvision import import_torchvision
from cifar_small.transforms import functional as image_ops
from cifar_small.transforms.functional import OPERATIONS, affine_matrices, apply_operations, blur, blur_radius, warp

BLACK = torch.zeros(3)
FILL = torch.tensor([125.0, 123.0, 114.0])


def smooth(count: int, seed: int = 0) -> torch.Tensor:
    """uint8 (N, 3, 32, 32) with shapes in it, so that a wrong angle shows and rounding does not."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    large = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False)
    return (255 * large).clamp(0, 255).round().to(torch.uint8)


def test_matrices_against_torchvision() -> None:
    functional = import_torchvision("transforms.v2.functional")
    parameters = torch.tensor(
        [
            [0, 0, 0, 1, 0, 0],
            [30, 0, 0, 1, 0, 0],
            [0, 5, -3, 1, 0, 0],
            [0, 0, 0, 1.4, 0, 0],
            [0, 0, 0, 1, 20, 0],
            [0, 0, 0, 1, 0, -15],
            [-47, 2, 3, 0.8, 11, 7],
        ]
    )
    images = smooth(len(parameters))
    found = warp(images.float(), affine_matrices(parameters), "zero", BLACK)
    for row, (angle, right, down, scale, shear_x, shear_y) in enumerate(parameters.tolist()):
        reference = functional.affine(
            images[row].float(), angle=angle, translate=[right, down], scale=scale, shear=[shear_x, shear_y],
            interpolation=functional.InterpolationMode.BILINEAR, fill=None,
        )  # fmt: skip
        difference = (found[row] - reference).abs()
        inner = difference[:, 1:-1, 1:-1]  # torchvision fades the outermost pixels in another way
        assert inner.mean().item() < 0.02, row
        assert (inner > 1).float().mean().item() < 0.02, row
    assert (found[0] - images[0]).abs().max().item() < 1e-3
    rotated = functional.rotate(images[1].float(), -30, interpolation=functional.InterpolationMode.BILINEAR)
    assert (found[1] - rotated)[:, 8:24, 8:24].abs().max().item() < 0.05


@settings(deadline=None, max_examples=15)
@given(
    angle=st.floats(-180, 180),
    right=st.floats(-16, 16),
    down=st.floats(-16, 16),
    scale=st.floats(0.5, 2),
    shear=st.floats(-30, 30),
)
def test_reflecting_warp_against_scipy(angle: float, right: float, down: float, scale: float, shear: float) -> None:
    images = smooth(2)
    parameters = torch.tensor([[angle, right, down, scale, shear, -shear / 2], [0, 0, 0, 1, 0, 0]])
    matrices = affine_matrices(parameters)
    found = warp(images.float(), matrices, "reflect", FILL)
    y, x = np.mgrid[0:32, 0:32] - 15.5
    matrix = matrices[0].double().numpy()
    columns = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + 15.5
    rows = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + 15.5
    for channel in range(3):
        # scipy's "reflect" mirrors about the pixels' outer edge, as grid_sample does with align_corners=False.
        expected = map_coordinates(images[0, channel].double().numpy(), [rows, columns], order=1, mode="reflect")
        assert np.abs(found[0, channel].numpy() - expected).max() < 0.05
    assert (found[1] - images[1]).abs().max().item() < 1e-3


FACTORS = [0.0, 0.25, 0.9, 1.0, 1.5, 1.99]


@pytest.mark.parametrize("name", ["brightness", "saturation", "contrast", "sharpness"])
def test_blends_against_torchvision(name: str) -> None:
    functional = import_torchvision("transforms.v2.functional")
    reference = getattr(functional, f"adjust_{name}")
    images = smooth(len(FACTORS))
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = getattr(image_ops, name)
    found = operation(images.float(), torch.tensor(FACTORS))
    for image, factor, one in zip(images, FACTORS, found, strict=True):
        expected = 255 * reference(image.float() / 255, factor)
        assert (one - expected).abs().max().item() < (0.1 if name == "contrast" else 1e-3)  # its mean gray is of whole levels
    assert (found[3] - images[3]).abs().max().item() < 1e-3
    assert (found[0] - images[0]).abs().mean().item() > 1


def test_hue_against_torchvision() -> None:
    functional = import_torchvision("transforms.v2.functional")
    shifts = [-0.5, -0.2, 0.0, 0.1, 0.37, 0.5]
    images = smooth(len(shifts))
    images[2, :, :4] = 77  # gray has no hue
    found = image_ops.hue(images.float(), torch.tensor(shifts))
    for image, shift, one in zip(images, shifts, found, strict=True):
        assert (one - 255 * functional.adjust_hue(image.float() / 255, shift)).abs().max().item() < 0.01
    assert (found[2] - images[2]).abs().max().item() < 1e-3
    assert (found[1] - images[1]).abs().mean().item() > 5


def test_blur_against_scipy() -> None:
    images, sigmas = smooth(4), [0.0, 0.4, 1.0, 1.5]
    radius = blur_radius(1.5)
    assert radius == 5
    found = blur(images.float(), torch.tensor(sigmas), radius)
    assert torch.equal(found[0], images[0].float())
    for row in (1, 2, 3):
        # scipy's "mirror" is torch's "reflect": the edge pixel itself stands once.
        expected = np.stack(
            [gaussian_filter(plane.double().numpy(), sigmas[row], mode="mirror", radius=radius) for plane in images[row]]
        )
        assert np.abs(found[row].numpy() - expected).max() < 1e-3
    assert (found[3] - images[3]).abs().mean().item() > 1


def test_levels_against_torchvision() -> None:
    functional = import_torchvision("transforms.v2.functional")
    images = torch.cat((smooth(6), torch.full((1, 3, 32, 32), 9, dtype=torch.uint8)))
    images[2, 0] = images[2, 0] // 4 + 60  # a channel of few levels
    equalized, stretched = image_ops.equalize(images.float()), image_ops.autocontrast(images.float())
    for row, image in enumerate(images):
        assert torch.equal(equalized[row], functional.equalize(image).float())
        by_pil = np.asarray(ImageOps.equalize(Image.fromarray(image.permute(1, 2, 0).numpy()))).transpose(2, 0, 1)
        assert np.array_equal(equalized[row].numpy(), by_pil)
        assert (stretched[row] - 255 * functional.autocontrast(image.float() / 255)).abs().max().item() < 1e-2
        for bits in range(1, 9):
            kept = image_ops.posterize(images[row : row + 1].float(), torch.tensor([8.0 - bits]))
            assert torch.equal(kept[0], functional.posterize(image, bits).float())
        for threshold in (0, 60, 128, 255):
            turned = image_ops.solarize(images[row : row + 1].float(), torch.tensor([255.0 - threshold]))
            assert torch.equal(turned[0], functional.solarize(image, threshold).float())


# What torchvision calls each operation; geometric ones are compared elsewhere, since it shears about a corner.
NAMES = {
    "identity": "Identity", "brightness": "Brightness", "saturation": "Color", "contrast": "Contrast", "sharpness": "Sharpness",
    "posterize": "Posterize", "solarize": "Solarize", "autocontrast": "AutoContrast", "equalize": "Equalize",
    "rotate": "Rotate", "translate_x": "TranslateX", "translate_y": "TranslateY", "shear_x": "ShearX", "shear_y": "ShearY",
}  # fmt: skip


@pytest.mark.parametrize(("policy", "column"), [("TrivialAugmentWide", 1), ("RandAugment", 2)])
def test_the_list_is_torchvisions_with_its_strengths(policy: str, column: int) -> None:
    space = getattr(import_torchvision("transforms.v2"), policy)._AUGMENTATION_SPACE
    assert sorted(space) == sorted(NAMES.values())
    assert set(NAMES) == set(OPERATIONS)
    for name, entry in OPERATIONS.items():
        levels, signed = space[NAMES[name]]
        assert signed == entry[3], name
        values = levels(31, 32, 32)
        strengths = torch.arange(31) * entry[column] / 30
        if name == "posterize":
            assert (8 - strengths.round()).tolist() == values.tolist()
        elif name == "solarize":
            assert (1 - strengths / 255).tolist() == pytest.approx(values.tolist(), abs=1e-6)
        elif values is not None:
            assert strengths.tolist() == pytest.approx(values.tolist(), abs=1e-4)


def test_each_operation_changes_its_own_images_in_its_own_way() -> None:
    functional = import_torchvision("transforms.v2.functional")
    count = len(OPERATIONS)
    images = smooth(1).expand(count, 3, 32, 32).contiguous()
    strengths = torch.tensor([0, 0.3, -0.3, 7, -5, 33, 0.5, -0.5, 0.5, 0.9, 3, 100, 0, 0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    found = apply_operations(images.float(), order[:, None], strengths[order][:, None], "zero", FILL)
    by_name = {list(OPERATIONS)[number]: found[row] for row, number in enumerate(order.tolist())}
    image = images[0].float()
    assert torch.equal(by_name["identity"], image)
    assert torch.equal(by_name["translate_x"][:, :, 7:], image[:, :, :-7])
    assert torch.equal(by_name["translate_y"][:, :-5], image[:, 5:])
    assert by_name["translate_x"][:, :, :7].flatten(1).unique(dim=1).flatten().tolist() == FILL.tolist()
    linear = functional.InterpolationMode.BILINEAR
    for name, shear in (("shear_x", [16.699244, 0.0]), ("shear_y", [0.0, -16.699244])):
        expected = functional.affine(image, angle=0, translate=[0, 0], scale=1, shear=shear, interpolation=linear)
        assert (by_name[name] - expected)[:, 8:24, 8:24].abs().max().item() < 0.05
    expected = functional.affine(image, angle=33, translate=[0, 0], scale=1, shear=[0, 0], interpolation=linear)
    assert (by_name["rotate"] - expected)[:, 8:24, 8:24].abs().max().item() < 0.05
    assert torch.equal(by_name["posterize"], functional.posterize(images[0], 5).float())
    assert torch.equal(by_name["solarize"], functional.solarize(images[0], 155).float())
    assert torch.equal(by_name["equalize"], functional.equalize(images[0]).float())
    for name, factor in (("brightness", 1.5), ("saturation", 0.5), ("contrast", 1.5), ("sharpness", 1.9)):
        expected = 255 * getattr(functional, f"adjust_{name}")(image / 255, factor)
        assert (by_name[name] - expected).abs().max().item() < 0.1
    assert len({tuple(one.flatten().tolist()) for one in by_name.values()}) == count


def test_operations_are_applied_in_turn() -> None:
    images = smooth(2).float()
    posterize, solarize = (list(OPERATIONS).index(name) for name in ("posterize", "solarize"))
    operations = torch.tensor([[posterize, solarize], [solarize, posterize]])
    strengths = torch.tensor([[5.0, 200.0], [200.0, 5.0]])
    found = apply_operations(images, operations, strengths, "zero", FILL)
    first = image_ops.solarize(image_ops.posterize(images[:1], torch.tensor([5.0])), torch.tensor([200.0]))
    second = image_ops.posterize(image_ops.solarize(images[1:], torch.tensor([200.0])), torch.tensor([5.0]))
    assert torch.equal(found, torch.cat((first, second)))
