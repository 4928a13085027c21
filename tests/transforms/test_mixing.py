"""Mixup and CutMix pixel by pixel, and which of them is drawn how often with which alpha."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from torch.nn import functional as F

from cifar_small.config.schema import Augment, MixProbs, PhaseSettings, Recipe
from cifar_small.config.schema.schedule import Cosine
from cifar_small.randomness import MIX, numpy_generator
from cifar_small.transforms.mixing import Mix, apply_mix, draw_mix


def test_a_kind_that_only_the_schema_knows_is_not_taken_for_another() -> None:
    with pytest.raises(AssertionError, match="puzzle"):
        apply_mix(Mix("puzzle", 0.5, torch.arange(4), (0, 8, 0, 8)), torch.zeros(4, 3, 32, 32), torch.zeros(4, 10))


def batch_of(count: int, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose pixels are all different numbers, and one-hot targets."""
    images = torch.randperm(count * 3 * 32 * 32, generator=torch.Generator().manual_seed(seed)).float()
    targets = F.one_hot(torch.arange(count) % classes, classes).float()
    return images.view(count, 3, 32, 32), targets


class Told:
    """A random generator that says what it is told, and remembers what it was asked."""

    def __init__(self, *, weight: float = 0.5, center: tuple[int, int] = (16, 16), kind: int = 0, chance: float = 0.0) -> None:
        self.weight, self.center, self.kind, self.chance = weight, center, kind, chance
        self.alphas: list[tuple[float, float]] = []

    def random(self) -> float:
        return self.chance

    def integers(self, high: int, size: int | None = None) -> Any:
        if size is None:
            return self.kind
        assert (high, size) == (32, 2)
        return np.array(self.center)

    def beta(self, a: float, b: float) -> float:
        self.alphas.append((a, b))
        return self.weight

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)[::-1].copy()


@pytest.mark.parametrize(
    ("weight", "center", "box", "kept"),
    [
        (0.75, (16, 16), (8, 24, 8, 24), 0.75),
        (0.75, (0, 0), (0, 8, 0, 8), 1 - 64 / 1024),
        (0.75, (31, 31), (23, 32, 23, 32), 1 - 81 / 1024),
        (0.75, (0, 16), (0, 8, 8, 24), 1 - 128 / 1024),
        (0.0, (16, 16), (0, 32, 0, 32), 0.0),
        (0.0, (0, 0), (0, 16, 0, 16), 0.75),
        (1.0, (5, 5), (5, 5, 5, 5), 1.0),
        (0.5, (16, 16), (5, 28, 5, 28), 1 - 23 * 23 / 1024),
    ],
)
def test_cutmix_boxes_by_hand(weight: float, center: tuple[int, int], box: tuple[int, ...], kept: float) -> None:
    mix = draw_mix(Recipe(cutmix_alpha=1.0), 4, Told(weight=weight, center=center))
    assert (mix.kind, mix.box, mix.weight) == ("cutmix", box, kept)
    assert mix.partner.tolist() == [3, 2, 1, 0]


def test_cutmix_takes_the_box_from_the_partner_and_weighs_by_counted_pixels() -> None:
    images, targets = batch_of(5)
    before = images.clone()
    shares = []
    for step in range(200):
        mix = draw_mix(Recipe(cutmix_alpha=1.0), 5, numpy_generator(0, MIX, 0, step))
        mixed, mixed_targets = apply_mix(mix, images, targets)
        top, bottom, left, right = mix.box
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        for row, partner in enumerate(mix.partner.tolist()):
            assert torch.equal(mixed[row], torch.where(inside, before[partner], before[row]))
            kept = (mixed[row, 0] == before[row, 0]).sum().item() / 1024
            if partner != row:
                assert kept == mix.weight
                assert mixed_targets[row, row].item() == pytest.approx(kept, abs=1e-6)
                assert mixed_targets[row, partner].item() == pytest.approx(1 - kept, abs=1e-6)
            else:
                assert mixed_targets[row].tolist() == pytest.approx(targets[row].tolist(), abs=1e-6)
        shares.append(1 - mix.weight)
    assert torch.equal(images, before)  # the input is not written to
    assert max(shares) > 0.7
    assert min(shares) < 0.05


def test_mixup_arithmetic() -> None:
    images, targets = batch_of(4)
    partner = torch.tensor([2, 0, 3, 1])
    mixed, mixed_targets = apply_mix(Mix("mixup", 0.25, partner, (0, 0, 0, 0)), images, targets)
    for row, other in enumerate(partner.tolist()):
        by_hand = 0.25 * images[row].double().numpy() + 0.75 * images[other].double().numpy()
        assert np.allclose(mixed[row].double().numpy(), by_hand, rtol=1e-6)
    assert mixed_targets.tolist() == [
        [0.25, 0, 0.75, 0, 0],
        [0.75, 0.25, 0, 0, 0],
        [0, 0, 0.25, 0.75, 0],
        [0, 0.75, 0, 0.25, 0],
    ]


@settings(deadline=None, max_examples=60)
@given(
    mixup=st.floats(0, 1),
    cutmix=st.floats(0, 1),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
)
def test_targets_sum_to_one(mixup: float, cutmix: float, batch: int, seed: int) -> None:
    mixup, cutmix = (0.0 if alpha < 1e-3 else alpha for alpha in (mixup, cutmix))
    mix = draw_mix(Recipe(mixup_alpha=mixup, cutmix_alpha=cutmix), batch, np.random.default_rng(seed))
    images, targets = batch_of(batch)
    mixed, mixed_targets = apply_mix(mix, images, targets)
    assert mixed.shape == images.shape
    assert (mix.kind == "none") == (not mixup and not cutmix)
    assert sorted(mix.partner.tolist()) == list(range(batch))
    assert mixed_targets.min() >= 0
    assert mixed_targets.sum(1).tolist() == pytest.approx([1.0] * batch, abs=1e-6)


def drawn(recipe: Recipe, count: int) -> list[Mix]:
    rng = np.random.default_rng(7)
    return [draw_mix(recipe, 3, rng) for _ in range(count)]


def test_mix_prob_is_the_share_of_mixed_batches() -> None:
    for share in (0.0, 0.3, 1.0):
        mixed = np.mean([mix.kind != "none" for mix in drawn(Recipe(mixup_alpha=0.2, cutmix_alpha=1.0, mix_prob=share), 4000)])
        assert mixed == pytest.approx(share, abs=0.03 if share == 0.3 else 0)


def test_both_kinds_are_drawn_about_half_each() -> None:
    kinds = [mix.kind for mix in drawn(Recipe(mixup_alpha=0.2, cutmix_alpha=1.0), 4000)]
    assert set(kinds) == {"mixup", "cutmix"}
    assert kinds.count("mixup") / 4000 == pytest.approx(0.5, abs=0.032)
    assert {mix.kind for mix in drawn(Recipe(mixup_alpha=0.2), 50)} == {"mixup"}
    assert {mix.kind for mix in drawn(Recipe(cutmix_alpha=0.2), 50)} == {"cutmix"}


def test_each_kind_has_its_own_share() -> None:
    recipe = Recipe(mixup_alpha=0.2, cutmix_alpha=1.0, mix_probs=MixProbs(mixup=0.5, cutmix=0.2))
    kinds = [mix.kind for mix in drawn(recipe, 4000)]
    for kind, share in {"mixup": 0.5, "cutmix": 0.2, "none": 0.3}.items():
        assert kinds.count(kind) / 4000 == pytest.approx(share, abs=0.032), kind
    whole = Recipe(mixup_alpha=0.2, ricap_beta=0.3, mix_probs=MixProbs(mixup=0.9, ricap=0.1))
    assert {mix.kind for mix in drawn(whole, 500)} == {"mixup", "ricap"}


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_mixup_weight_follows_its_beta_distribution(alpha: float) -> None:
    weights = [mix.weight for mix in drawn(Recipe(mixup_alpha=alpha, cutmix_alpha=1.2 - alpha), 6000) if mix.kind == "mixup"]
    assert len(weights) > 2800
    assert kstest(weights, beta(alpha, alpha).cdf).pvalue > 0.01
    assert kstest(weights, beta(1.2 - alpha, 1.2 - alpha).cdf).pvalue < 1e-9  # and not the other kind's
    if alpha == 1.0:
        assert kstest(weights, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("kind", "name", "alpha"), [(0, "mixup", 0.2), (1, "cutmix", 0.9)])
def test_each_kind_asks_for_its_own_alpha(kind: int, name: str, alpha: float) -> None:
    told = Told(kind=kind)
    assert draw_mix(Recipe(mixup_alpha=0.2, cutmix_alpha=0.9), 4, told).kind == name
    assert told.alphas == [(alpha, alpha)]


def test_none_returns_its_inputs() -> None:
    images, targets = batch_of(4)
    for recipe, rng in ((Recipe(), Told()), (Recipe(mixup_alpha=1.0, mix_prob=0.5), Told(chance=0.5))):
        mix = draw_mix(recipe, 4, rng)
        assert (mix.kind, mix.weight, mix.partner.tolist()) == ("none", 1.0, [0, 1, 2, 3])
        mixed, mixed_targets = apply_mix(mix, images, targets)
        assert mixed is images
        assert mixed_targets is targets
    assert draw_mix(Recipe(mixup_alpha=1.0, mix_prob=0.5), 4, Told(chance=0.4999)).kind == "mixup"


def test_phase_settings_are_a_recipe_to_mix_by() -> None:
    phase = PhaseSettings(epochs=1, cutmix_alpha=0.5, schedule=Cosine(), augment=Augment())
    assert draw_mix(phase, 4, Told()).kind == "cutmix"


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_every_image_may_be_mixed_with_every_other(kind: str) -> None:
    """Not only with its neighbor of the batch, as torchvision's MixUp has it, or its mirror image, as timm's."""
    rng = np.random.default_rng(0)
    partners = [draw_mix(Recipe(**{kind: 1.0}), 6, rng).partner.tolist() for _ in range(200)]
    assert {(image, other) for each in partners for image, other in enumerate(each)} == {
        (a, b) for a in range(6) for b in range(6)
    }


def test_memory_order_is_kept() -> None:
    images, targets = batch_of(4)
    images = images.contiguous(memory_format=torch.channels_last)
    mix = Mix("cutmix", 0.75, torch.tensor([3, 2, 1, 0]), (8, 24, 8, 24))
    assert apply_mix(mix, images, targets)[0].is_contiguous(memory_format=torch.channels_last)


# What was drawn before there was RICAP.
RECORDED = [
    ({"mixup_alpha": 0.2}, "a2fd54e9ddb3ec65"),
    ({"cutmix_alpha": 1.0}, "526a00df4d679a14"),
    ({"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "mix_prob": 0.7}, "5a6474a1e35085dd"),
]


@pytest.mark.parametrize(("changes", "digest"), RECORDED)
def test_older_configs_keep_their_very_draws(changes: dict[str, float], digest: str) -> None:
    mixes = [draw_mix(Recipe(**changes), 8, numpy_generator(3, MIX, 1, step)) for step in range(50)]
    text = repr([(mix.kind, mix.weight, mix.partner.tolist(), mix.box) for mix in mixes])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@settings(deadline=None, max_examples=15)
@given(beta=st.floats(0.01, 1), batch=st.integers(1, 6), seed=st.integers(0, 2**63 - 1))
def test_ricap_pixel_by_pixel(beta: float, batch: int, seed: int) -> None:
    mix = draw_mix(Recipe(ricap_beta=beta), batch, np.random.default_rng(seed))
    images, targets = batch_of(batch, classes=6)
    before = images.clone()
    mixed, mixed_targets = apply_mix(mix, images, targets)
    assert (mix.kind, len(mix.patches)) == ("ricap", 4)
    row, column = mix.patches[0].box[1], mix.patches[0].box[3]
    expected, shares = np.empty(images.shape, np.float32), np.zeros(targets.shape)
    for image in range(batch):
        for y in range(32):
            for x in range(32):
                patch = mix.patches[2 * (y >= row) + (x >= column)]
                top, _, left, _ = patch.box
                source = int(patch.partner[image])
                pixel = before[source, :, patch.corner[0] + y - top, patch.corner[1] + x - left]
                expected[image, :, y, x] = pixel.numpy()
                shares[image] += targets[source].numpy() / 1024
    assert np.array_equal(mixed.numpy(), expected)
    assert np.allclose(mixed_targets.numpy(), shares, atol=1e-6)
    assert mixed_targets.sum(1).tolist() == pytest.approx([1.0] * batch, abs=1e-6)
    assert torch.equal(images, before)
    assert mix.patches[0].partner.tolist() == list(range(batch))
    assert mix.weight == row * column / 1024
    assert all(sorted(patch.partner.tolist()) == list(range(batch)) for patch in mix.patches)


def test_ricap_meets_where_its_beta_says_and_crops_anywhere() -> None:
    drawn_mixes = drawn(Recipe(ricap_beta=0.3), 3000)
    for axis in (1, 3):
        places = np.array([mix.patches[0].box[axis] for mix in drawn_mixes])
        assert (places.min(), places.max()) == (0, 32)
        for limit in (4, 10, 16, 24):  # rounded to whole pixels: P(place <= limit) = P(Beta < (limit + 0.5) / 32)
            assert (places <= limit).mean() == pytest.approx(beta(0.3, 0.3).cdf((limit + 0.5) / 32), abs=0.04)
    for mix in drawn_mixes:
        for patch in mix.patches:
            top, bottom, left, right = patch.box
            assert 0 <= patch.corner[0] <= 32 - (bottom - top)
            assert 0 <= patch.corner[1] <= 32 - (right - left)
    free = [(patch.corner[0], 32 - patch.box[1] + patch.box[0]) for mix in drawn_mixes for patch in mix.patches]
    ends = [corner / room for corner, room in free if room > 10]
    assert np.mean(ends) == pytest.approx(0.5, abs=0.02)
    assert (min(ends), max(ends)) == (0, 1)
    assert len({tuple(mix.patches[1].partner.tolist()) for mix in drawn_mixes}) == 6  # every order of three


def test_three_kinds_are_drawn_a_third_each() -> None:
    kinds = [mix.kind for mix in drawn(Recipe(mixup_alpha=0.2, cutmix_alpha=1.0, ricap_beta=0.3), 3000)]
    for kind in ("mixup", "cutmix", "ricap"):
        assert kinds.count(kind) / 3000 == pytest.approx(1 / 3, abs=0.035)


def test_ricap_keeps_the_memory_order() -> None:
    images, targets = batch_of(4)
    images = images.contiguous(memory_format=torch.channels_last)
    mix = draw_mix(Recipe(ricap_beta=0.5), 4, np.random.default_rng(0))
    assert apply_mix(mix, images, targets)[0].is_contiguous(memory_format=torch.channels_last)
