"""Images in a wrong order of memory, or turned round, are told by their pixels; right ones, mirrored or brighter, are not."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from cifar_small.config.schema import Data
from cifar_small.data import load_test, load_train
from cifar_small.data import orientation as module
from cifar_small.data.orientation import (
    Pixels,
    PixelStatistics,
    memory_order,
    misread_memory,
    pixel_statistics,
    require_in_order,
    turned,
)

MISREAD: dict[str, Callable[[Pixels], Pixels]] = {
    "planes (3, 32, 32) reshaped": lambda images: images.transpose(0, 3, 1, 2).reshape(-1, 32, 32, 3),
    "pixels (32, 32, 3) reshaped to (3, 32, 32)": lambda images: images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
    "lines of planes (32, 3, 32) reshaped": lambda images: images.transpose(0, 1, 3, 2).reshape(-1, 32, 32, 3),
    "pixels (32, 32, 3) reshaped to lines": lambda images: images.reshape(-1, 32, 3, 32).transpose(0, 1, 3, 2),
}
TURNED: dict[str, Callable[[Pixels], Pixels]] = {
    "rows and columns exchanged": lambda images: images.transpose(0, 2, 1, 3),
    "a turn by 90 degrees": lambda images: np.rot90(images, 1, axes=(1, 2)),
    "or a turn": lambda images: np.rot90(images, 3, axes=(1, 2)),
    "upside down": lambda images: images[:, ::-1],
}
HARMLESS: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda images: images,
    "mirrored": lambda images: images[:, :, ::-1],
    "brighter": lambda images: np.clip(images.astype(float) * 1.3, 0, 255).astype(np.uint8),
    "less contrast": lambda images: (images // 2 + 60).astype(np.uint8),
}


def scenes(count: int, seed: int) -> Pixels:
    """Smooth pictures with a bright top and edges that run along lines more than along columns, as photographs have them."""
    rng = np.random.default_rng(seed)
    total = np.zeros((count, 32, 32, 3))
    for cells, weight in ((2, 0.7), (4, 0.7), (8, 0.5), (16, 0.3)):
        grid = rng.standard_normal((count, 2 * cells if cells < 16 else 16, cells, 1)) + 0.3 * rng.standard_normal(
            (count, 1, 1, 3)
        )
        total += weight * grid.repeat(32 // grid.shape[1], axis=1).repeat(32 // cells, axis=2)
    sky = np.linspace(0.5, -0.5, 32)[:, None, None]
    return np.clip(125 + 40 * (total + sky), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def trained() -> PixelStatistics:
    return pixel_statistics(scenes(1000, 0))


@pytest.mark.parametrize("count", [40, 400])
@pytest.mark.parametrize("what", MISREAD)
def test_a_wrong_order_of_memory_shows_without_other_images(what: str, count: int, trained: PixelStatistics) -> None:
    images = MISREAD[what](scenes(count, 1))
    assert (misread_memory(images) or "").startswith(what)
    assert (turned(images, trained) or "").startswith(what)


@pytest.mark.parametrize("what", TURNED)
def test_turned_images_show_beside_the_training_images(what: str, trained: PixelStatistics) -> None:
    images = TURNED[what](scenes(400, 1))
    assert misread_memory(images) is None
    assert what in (turned(images, trained) or "")


@pytest.mark.parametrize("count", [1, 40, 400])
@pytest.mark.parametrize("what", HARMLESS)
def test_right_images_pass(what: str, count: int, trained: PixelStatistics) -> None:
    images = HARMLESS[what](scenes(count, 2))
    assert misread_memory(images) is None
    assert turned(images, trained) is None


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_images_and_noise_cannot_be_told(value: int, trained: PixelStatistics) -> None:
    constant = np.full((30, 32, 32, 3), value, np.uint8)
    assert misread_memory(constant) is None
    constant[:, :, :, 2] = 200
    assert misread_memory(constant) is None
    assert misread_memory(np.random.default_rng(value).integers(0, 256, (300, 32, 32, 3), np.uint8)) is None


@pytest.mark.parametrize("kind", ["noise", "strokes", "some of them"])
def test_gray_pictures_are_never_misread_however_rough(kind: str) -> None:
    """Their three values are equal, which no wrong order of memory would leave so."""
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (200, 32, 32, 1)) if kind != "strokes" else 255 * (rng.random((200, 32, 32, 1)) < 0.1)
    images = np.repeat(gray, 3, axis=3).astype(np.uint8)
    if kind == "some of them":
        images[::3] = scenes(200, 1)[::3]
    found = memory_order(images)
    assert (found.layout, found.misread) == ("HWC", None)
    require_in_order(images, "x")


def test_digits_are_judged_by_digits() -> None:
    """Gray strokes on black lie otherwise than photographs do, so a fixed limit would not serve both."""
    data = Data(source="digits")
    trained, test = pixel_statistics(load_train(data).images), load_test(data).images
    assert turned(test, trained) is None
    assert "rows and columns exchanged" in (turned(TURNED["rows and columns exchanged"](test), trained) or "")
    assert all((misread_memory(undo(test)) or "").startswith(what) for what, undo in MISREAD.items())


@pytest.mark.parametrize("count", [1, 1999, 2000, 2001, 3999, 4000, 50_000])
def test_statistics_are_of_images_from_end_to_end(count: int) -> None:
    """Of a folder that is sorted by class, no class is left out."""
    numbers = np.arange(count)
    chosen = module._some(numbers)
    assert len(chosen) <= 2000
    assert chosen[0] == 0
    assert count - chosen[-1] <= -(-count // 2000)


def test_statistics_go_into_a_checkpoint_and_back(trained: PixelStatistics) -> None:
    assert PixelStatistics.from_plain(trained.plain()) == trained


@pytest.mark.real_data
@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_on_cifar_each_mistake_is_told_and_nothing_else(source: str) -> None:
    data = Data(source=source, root=os.environ["CIFAR_SMALL_DATA"])  # type: ignore[arg-type]
    trained, test = pixel_statistics(load_train(data).images), load_test(data).images
    for count in (300, 10_000):
        some = test[np.random.default_rng(0).choice(len(test), count, replace=False)]
        assert all((misread_memory(wrong(some)) or "").startswith(what) for what, wrong in MISREAD.items())
        assert all(what in (turned(wrong(some), trained) or "") for what, wrong in TURNED.items())
        assert all(misread_memory(right(some)) is None and turned(right(some), trained) is None for right in HARMLESS.values())
