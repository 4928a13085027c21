"""Shifts: closed forms, brute force pixel by pixel, and the libraries they stand for."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from cifar_small.errors import UserError
from cifar_small.transforms import corruptions
from cifar_small.transforms.corruptions import COMMON, EXTRA, to_float, to_uint8
from cifar_small.transforms.shifts import CHUNK, KINDS, MCE_KINDS, shifted

RNG = np.random.default_rng


def pictures(count: int = 6, seed: int = 0) -> np.ndarray:
    """Smooth colored images, uint8 (N, 32, 32, 3)."""
    small = RNG(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_images_alike_for_a_seed(kind: str) -> None:
    images = pictures()
    before = images.copy()
    found = [shifted(kind, severity, images, 0) for severity in range(1, KINDS[kind].severities + 1)]
    assert np.array_equal(images, before)
    assert all(one.dtype == np.uint8 and one.shape == images.shape for one in found)
    assert all((one != images).any() for one in found)
    assert len({one.tobytes() for one in found}) == len(found)
    assert np.array_equal(shifted(kind, 1, images, 0), found[0])
    assert KINDS[kind].family.isalpha()


def test_there_are_fifteen_and_four_corruptions() -> None:
    assert len(MCE_KINDS) == 15
    assert len(EXTRA) == 4
    assert set(MCE_KINDS) | set(EXTRA) <= set(KINDS)


def test_the_seed_and_the_chunk_make_the_noise() -> None:
    flat = np.full((CHUNK + 2, 32, 32, 3), 100, np.uint8)
    one = shifted("gaussian_noise", 1, flat, 0)
    assert not np.array_equal(one, shifted("gaussian_noise", 1, flat, 1))
    assert not np.array_equal(one[0], one[CHUNK])
    assert np.array_equal(one[:CHUNK], shifted("gaussian_noise", 1, flat[:CHUNK], 0))


def test_an_unknown_kind_or_severity_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"no kind of shift 'fogg'; did you mean fog\?"):
        shifted("fogg", 1, pictures(), 0)
    with pytest.raises(UserError, match="pil_bicubic has no severity 4; expected 1 to 3"):
        shifted("pil_bicubic", 4, pictures(), 0)


def test_noise_has_the_moments_of_its_source() -> None:
    gray = np.full((40, 32, 32, 3), 0.5, np.float32)
    for name, sd in (("gaussian_noise", 0.1), ("shot_noise", (0.5 / 50) ** 0.5), ("speckle_noise", 0.5 * 0.2)):
        found = {**COMMON, **EXTRA}[name](gray, 5, RNG(0))
        assert found.mean() == pytest.approx(0.5, abs=0.002)
        assert found.std() == pytest.approx(sd, rel=0.02), name
    salted = corruptions.impulse_noise(gray, 5, RNG(0))
    assert [(salted == value).mean() for value in (0, 1)] == pytest.approx([0.035, 0.035], abs=0.003)


def test_value_and_saturation_are_those_of_hsv() -> None:
    images = to_float(pictures())
    images[0, :4] = images[0, :4, :, :1]  # gray, which counts as red
    images[0, 4] = 0
    brighter, colored = corruptions.brightness(images, 3, RNG(0)), corruptions.saturate(images, 4, RNG(0))
    for place in np.ndindex(2, 8, 32):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[place].astype(float))
        assert brighter[place] == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1)), abs=1e-5)
        assert colored[place] == pytest.approx(colorsys.hsv_to_rgb(hue, min(2 * saturation + 0.1, 1), value), abs=1e-5)


def test_contrast_keeps_the_mean_and_scales_the_rest() -> None:
    images = to_float(pictures())
    found = corruptions.contrast(images, 5, RNG(0))
    assert found.mean((1, 2)) == pytest.approx(images.mean((1, 2)), abs=1e-5)
    assert found.std((1, 2)) == pytest.approx(0.15 * images.std((1, 2)), rel=1e-3)


def test_a_point_is_blurred_into_the_kernel_of_each_blur() -> None:
    point = np.zeros((3, 32, 32, 3), np.float32)
    point[:, 16, 16] = 1
    for name in ("gaussian_blur", "defocus_blur"):
        found = {**COMMON, **EXTRA}[name](point, 5, RNG(0))
        assert found.sum((1, 2)) == pytest.approx(1, abs=1e-4)
        assert np.allclose(found, found[:, ::-1, ::-1][:, [31, *range(31)]][:, :, [31, *range(31)]], atol=1e-6)
    disk = corruptions.defocus_blur(point, 4, RNG(0))[0, :, :, 0]  # a cross of five, hardly blurred
    assert disk[16, 14:19] == pytest.approx([0, 0.2, 0.2, 0.2, 0], abs=1e-4)
    # Steps to the right read further right, so a point leaves a trace to its left, of half a Gaussian.
    trace = corruptions.dragged(point, 6, 2.0, np.array([0.0, 90.0, 180.0]))[..., 0]
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    assert trace[0, 16, 4:17] == pytest.approx((weights / weights.sum())[::-1], abs=1e-6)
    assert np.allclose(trace[1, 4:17, 16], trace[0, 16, 4:17])
    assert np.allclose(trace[2, 16, 16:29], trace[0, 16, 16:3:-1])


def test_glass_replaces_pixels_by_neighbors_in_the_order_of_the_published_loop() -> None:
    images = to_float(pictures(2))
    expected, rng = to_float(to_uint8(corruptions.smoothed(images, 0.05))), RNG(5)
    for row in range(31, 1, -1):
        for column in range(31, 1, -1):
            down, right = rng.integers(-1, 1, (2, 2))
            for n in range(2):
                # as there: x[h, w], x[h_prime, w_prime] = x[h_prime, w_prime], x[h, w]
                here, there = expected[n, row, column], expected[n, row + down[n], column + right[n]]
                here[:], there[:] = there, here
    found = corruptions.glass_blur(images, 1, RNG(5))
    assert found == pytest.approx(corruptions.smoothed(expected, 0.05), abs=1e-6)


def test_enlarging_is_scipys_zoom() -> None:
    from scipy.ndimage import zoom

    images = to_float(pictures(1))
    assert np.allclose(corruptions.enlarged(images, 1.0), images)
    side, top = 27, 2  # ceil(32 / 1.2)
    large = zoom(images[0, top : top + side, top : top + side], (1.2, 1.2, 1), order=1)
    trim = (len(large) - 32) // 2
    assert np.allclose(corruptions.enlarged(images, 1.2)[0], large[trim : trim + 32, trim : trim + 32], atol=1e-5)


def test_haze_is_a_map_of_heights_in_0_to_1() -> None:
    heights = corruptions.plasma(5, 2.0, RNG(0))
    assert heights.min((1, 2)).tolist() == [0] * 5
    assert heights.max((1, 2)).tolist() == [1] * 5
    rough, smooth = (np.abs(np.diff(corruptions.plasma(20, decay, RNG(0)), axis=1)).mean() for decay in (1.5, 3.0))
    assert rough > 1.5 * smooth


def test_elastic_severity_1_only_moves_corners_and_keeps_a_flat_image() -> None:
    flat = np.full((3, 32, 32, 3), 0.25, np.float32)
    assert corruptions.elastic_transform(flat, 5, RNG(0)) == pytest.approx(0.25, abs=1e-5)


def test_webp_is_pils_at_falling_quality() -> None:
    images = pictures(2)
    buffer = io.BytesIO()
    Image.fromarray(images[1]).save(buffer, "WEBP", quality=30)
    assert np.array_equal(shifted("webp", 3, images, 0)[1], np.asarray(Image.open(buffer).convert("RGB")))
    away = [np.abs(shifted("webp", severity, images, 0).astype(int) - images).mean() for severity in range(1, 6)]
    assert away == sorted(away)


def test_a_palette_leaves_so_many_colors_and_spreads_its_errors() -> None:
    images = pictures(4)
    for severity, most in enumerate((64, 32, 16, 12, 8), 1):
        few = shifted("palette", severity, images, 0)
        assert all(len(np.unique(one.reshape(-1, 3), axis=0)) <= most for one in few)
    ramp = np.repeat(np.linspace(0, 255, 32)[:, None], 32, 1).round().astype(np.uint8)
    images = np.repeat(ramp[None, ..., None], 3, 3)
    found = shifted("palette", 5, images, 0)
    nearest = np.stack([np.asarray(Image.fromarray(one).quantize(8).convert("RGB")) for one in images])

    def off(other: np.ndarray) -> float:
        """How far the means of squares of 8x8 pixels are off."""
        return float(np.abs((other.astype(float) - images).reshape(1, 4, 8, 4, 8, 3).mean((2, 4))).mean())

    assert off(found) < 0.7 * off(nearest)


def test_a_letterbox_is_the_whole_image_between_bars() -> None:
    images = np.full((40, 32, 32, 3), 200, np.uint8)
    found = shifted("letterbox", 5, images, 0)
    black = (found == 0).all(3)
    flat, narrow = black.all(2).sum(1), black.all(1).sum(1)  # rows and columns that are bars
    assert {*zip(flat.tolist(), narrow.tolist(), strict=True)} == {(12, 0), (0, 12)}
    assert black.sum() == 40 * 12 * 32
    assert (found[~black] == 200).all()
    assert black[flat == 12][0].all(1).nonzero()[0].tolist() == [*range(6), *range(26, 32)]


@pytest.mark.parametrize(("kind", "chroma"), [("jpeg_420", 2), ("jpeg_444", 0)])
def test_jpeg_is_pils(kind: str, chroma: int) -> None:
    images = pictures(2)
    buffer = io.BytesIO()
    Image.fromarray(images[1]).save(buffer, "JPEG", quality=50, subsampling=chroma)
    assert np.array_equal(shifted(kind, 3, images, 0)[1], np.asarray(Image.open(buffer)))


def test_a_cast_multiplies_channels_and_a_crop_moves_by_whole_pixels() -> None:
    images = pictures(3) // 2
    warm = shifted("warm", 5, images, 0)
    assert np.abs(warm - images * np.array([1.25, 1.0, 0.6])).max() <= 1
    moved = shifted("moved", 1, images, 3)
    for one, original in zip(moved, images, strict=True):
        places = [(down, right) for down in (-2, 2) for right in (-2, 2)]
        same = [
            np.array_equal(one[4:28, 4:28], original[4 + down : 28 + down, 4 + right : 28 + right]) for down, right in places
        ]
        assert sum(same) == 1


def test_a_turn_moves_a_point_along_a_circle() -> None:
    point = np.zeros((20, 32, 32, 3), np.uint8)
    point[:, 15:17, 25:27] = 255
    found = shifted("rotated", 5, point, 0).astype(float).mean(3)
    rows = (found * np.arange(32)[:, None]).sum((1, 2)) / found.sum((1, 2)) - 15.5
    assert np.abs(np.abs(rows) - 10 * np.sin(np.deg2rad(25))).max() < 0.3
    assert {-1.0, 1.0} == set(np.sign(rows))


def test_whole_values_survive_the_way_to_floats_and_back() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(to_uint8(to_float(values)), values)
    assert to_uint8(np.array([-0.1, 0.5, 1.2], np.float32)).tolist() == [0, 127, 255]
