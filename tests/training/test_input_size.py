"""What the net is given: images enlarged on the device, augmented before or after that, and the same size in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import cifar_small.models.resnet as resnet_module
import cifar_small.training.batches as batches_module
from cifar_small.config.hashing import config_dict, config_hash, dump_config
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.published import MEAN, STD
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Augment, Config, Recipe, TorchvisionAugment
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.errors import ConfigError
from cifar_small.inference.predict import load_net, predict_images
from cifar_small.reporting.preview import preview_blocks
from cifar_small.runs.directory import Run
from cifar_small.training.train import train
from cifar_small.transforms.augmenter import Augmenter, epoch_order
from cifar_small.transforms.batched import crop_and_flip, draw, enlarge, pad_images, resize, scaled
from cifar_small.transforms.functional import OPERATIONS
from cifar_small.transforms.mixing import apply_mix, draw_mix
from cifar_small.transforms.preprocess import normalize

RULES = {"max_params": 30_000_000, "rows": None, "pretrained": True}
IMAGENET = {"rules": RULES, "model": {"family": "torchvision/resnet18"}, "weights": "imagenet"}


@pytest.fixture(scope="module")
def datamodule() -> DataModule:
    return load_datamodule(parse_config(tiny_raw(input={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]})))


def pixels(datamodule: DataModule, augment: Any, side: int, workers: int = 0, interpolation: str = "bilinear") -> Tensor:
    """Sixteen training images of an epoch as a phase that augments at `side` gets them."""
    order = epoch_order(len(datamodule.images), 3, 0)
    with closing(Augmenter(datamodule, 3, workers, interpolation)) as augmenter:
        return torch.cat(list(augmenter.epoch(augment, order, 0, [slice(0, 9), slice(9, 16)], side)))


# ------------------------------------------------------------------------------------------------------------------ config


def test_weights_bring_their_preprocessing_into_the_resolved_config(tmp_path: Path) -> None:
    config = parse_config(tiny_raw(**IMAGENET))
    assert (config.side, config.interpolation) == (224, "bilinear")
    assert (config.input.mean, config.input.std) == (MEAN, STD)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert "size: 224" in (tmp_path / "config.yaml").read_text()
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert config_hash(again) == config_hash(config)
    assert [phase.settings.resolution for phase in resolve_phases(config)] == [224]


def test_what_the_config_says_itself_stands() -> None:
    config = parse_config(tiny_raw(**IMAGENET, input={"size": 96, "interpolation": "bicubic"}))
    assert (config.side, config.interpolation, config.input.mean) == (96, "bicubic", MEAN)
    own = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    assert parse_config(tiny_raw(**IMAGENET, input=own)).input.std == (0.25, 0.25, 0.25)
    timm = parse_config(tiny_raw(**{**IMAGENET, "model": {"family": "timm/efficientnet_b2"}}))
    assert (timm.side, timm.interpolation) == (256, "bicubic")
    file = parse_config(tiny_raw(**{**IMAGENET, "weights": "somewhere/weights.safetensors"}))
    assert file.side == 224


def test_from_scratch_nothing_is_brought() -> None:
    config = parse_config(tiny_raw(model={"family": "torchvision/resnet18"}, rules=RULES))
    assert (config.side, config.input.mean) == (32, None)
    assert "input" not in config_dict(config)
    assert "weights" not in config_dict(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "imagenet"}, "weights imagenet are refused by rules.pretrained: false; train from scratch"),
        ({"weights": "x.pth"}, "weights x.pth are refused by rules.pretrained: false"),
        (
            {"weights": "imagenet", "rules": RULES},
            "weights imagenet are published for the nets of torchvision and timm, not for r",
        ),
        ({**IMAGENET, "model": {"family": "torchvision/resnet18", "stem": "cifar"}}, "belong to a 7x7 stem"),
        ({"input": {"size": 16}}, r"input\.size: .*greater than or equal to 32"),
        ({"input": {"mean": [0.5, 0.5, 0.5]}}, "mean and std belong together"),
        ({"input": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.0, 0.2]}}, "std .* must be above 0 in every channel"),
        ({"input": {"augment": "after"}}, "input.augment after has no effect while images are not enlarged"),
        ({"input": {"augmnt": "after"}}, "input.augmnt: unknown key; did you mean 'augment'"),
        ({"resolution": 40}, r"phases\.0\.resolution 40 is above the 32 pixels of evaluation; lower it, or raise input.size"),
        (
            {"input": {"size": 64}, "phases": [{"epochs": 1}, {"epochs": 1, "resolution": 65}]},
            r"phases\.1\.resolution 65 is above the 64",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(tiny_raw(**changes))


def test_phases_train_at_the_size_of_evaluation_unless_they_say_otherwise() -> None:
    phases = [{"epochs": 1, "resolution": 48}, {"epochs": 1}, {"epochs": 1, "resolution": 96}]
    config = parse_config(tiny_raw(input={"size": 96}, phases=phases))
    assert [phase.settings.resolution for phase in resolve_phases(config)] == [48, 48, 96]
    assert [phase.settings.resolution for phase in resolve_phases(parse_config(tiny_raw(input={"size": 96})))] == [96]


# ---------------------------------------------------------------------------------------------------------------- enlarging


@pytest.mark.parametrize(("name", "filter_"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)])
@pytest.mark.parametrize("side", [64, 100, 224])
def test_enlarging_is_what_pil_does(name: str, filter_: Image.Resampling, side: int) -> None:
    """Published weights were trained on images that PIL, or torchvision in its manner, has resized."""
    # Far from black and white, where PIL also cuts off what overshoots in the first of its two passes.
    images = torch.randint(80, 176, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = enlarge(images, side, name)
    for image, ours in zip(images, found, strict=True):
        theirs = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), filter_), np.int64)
        difference = np.abs(ours.permute(1, 2, 0).numpy().astype(np.int64) - theirs)
        assert difference.max() <= 1  # PIL rounds between its two passes
    assert enlarge(images, 32, name) is images


def test_the_net_sees_the_same_size_in_training_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[tuple[bool, int]] = []
    forward = resnet_module.ResNet.forward

    def recorded(self: resnet_module.ResNet, images: Tensor) -> Tensor:
        if len(images) > 1:
            sides.append((self.training, images.shape[-1]))
        return forward(self, images)

    monkeypatch.setattr(resnet_module.ResNet, "forward", recorded)
    phases = [{"epochs": 1, "resolution": 36}, {"epochs": 1, "resolution": 44}]
    data = {"source": "digits", "val_size": 200, "train_limit": 128}
    config = parse_config(tiny_raw(data=data, input={"size": 44, "interpolation": "bicubic"}, phases=phases))
    summary = train(config, tmp_path / "run", quiet=True)
    assert {side for training, side in sides if training} == {36, 44}
    assert {side for training, side in sides if not training} == {44}
    sides.clear()
    net = load_net(Run(tmp_path / "run"))
    val = load_datamodule(config).val
    assert predict_images(net, val, "none").accuracy == pytest.approx(summary.val_accuracy_plain)
    assert set(sides) == {(False, 44)}


def test_normalization_given_by_the_config_is_the_checkpoints(tmp_path: Path) -> None:
    given_input = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    data = {"source": "digits", "val_size": 200, "train_limit": 64}
    train(parse_config(tiny_raw(data=data, input=given_input, phases=[{"epochs": 1}])), tmp_path / "run", quiet=True)
    net = load_net(Run(tmp_path / "run"))
    assert (list(net.mean), list(net.std)) == (given_input["mean"], given_input["std"])


# ------------------------------------------------------------------------------------------------- augmentation at that size


def test_settings_grow_with_the_image() -> None:
    grown = scaled(Augment(crop=4, cutout=8, blur=0.5, blur_sigma=(0.5, 1.0), translate=0.1), 112)
    assert (grown.crop, grown.cutout, grown.blur_sigma, grown.translate) == (14, 28, (1.75, 3.5), 0.1)
    same = Augment(crop=3)
    assert scaled(same, 32) is same
    assert scaled(TorchvisionAugment(engine="torchvision", policy="augmix", crop=4, cutout=8), 64).crop == 8


def test_without_augmentation_before_and_after_differ_by_rounding_alone(datamodule: DataModule) -> None:
    nothing = Augment(crop=0, flip="none")
    before = resize(pixels(datamodule, nothing, 32), 96)
    after = pixels(datamodule, nothing, 96)
    assert after.shape == (16, 3, 96, 96)
    assert (before - after).abs().max() <= 0.5 / 255 / 0.2 + 1e-5


@pytest.mark.parametrize("pad", ["zero", "reflect"])
def test_crops_move_the_enlarged_image_by_its_own_pixels(datamodule: DataModule, pad: Any) -> None:
    augment = scaled(Augment(crop=4, flip="none", pad=pad), 64)
    images = enlarge(datamodule.images[:40], 64, "bilinear")
    draws = draw(augment, torch.arange(40), torch.Generator().manual_seed(0), torch.zeros(40, dtype=torch.bool), 0, side=64)
    assert (draws.offset.min(), draws.offset.max()) == (0, 16)
    found = crop_and_flip(pad_images(images, augment, datamodule.fill), torch.arange(40), draws, 64)
    for image, crop, (row, column) in zip(images, found, draws.offset.tolist(), strict=True):
        down, right = 8 - row, 8 - column
        kept = image[:, max(0, -down) : 64 - max(0, down), max(0, -right) : 64 - max(0, right)]
        assert torch.equal(crop[:, max(0, down) : 64 + min(0, down), max(0, right) : 64 + min(0, right)], kept)


def test_covered_squares_and_boxes_have_the_share_of_the_image_they_had(datamodule: DataModule) -> None:
    for settings_ in (
        Augment(crop=0, flip="none", cutout=8),
        Augment(crop=0, flip="none", erasing=1.0, erasing_scale=(0.1, 0.2)),
    ):
        shares = [(pixels(datamodule, settings_, side) == 0).all(1).float().mean().item() for side in (32, 128)]
        assert shares[0] == pytest.approx(shares[1], rel=0.35)
        assert 0.02 < shares[1] < 0.2


def test_policies_translate_by_shares_of_the_image() -> None:
    augment = Augment(policy="randaugment", num_ops=3, magnitude=30)
    parity, names = torch.zeros(500, dtype=torch.bool), list(OPERATIONS)
    small, large = (
        draw(augment, torch.arange(500), torch.Generator().manual_seed(1), parity, 0, side=side) for side in (32, 64)
    )
    moved = (small.operations == names.index("translate_x")) | (small.operations == names.index("translate_y"))
    assert torch.equal(small.operations, large.operations)
    assert torch.equal(torch.where(moved, 2 * small.strengths, small.strengths), large.strengths)
    translated = Augment(translate=0.25)
    low, high = (draw(translated, torch.arange(99), torch.Generator().manual_seed(1), parity, 0, side=s) for s in (32, 64))
    torch.testing.assert_close(high.affine[:, 1:3], 2 * low.affine[:, 1:3])


ENGINES: list[Any] = [
    Augment(crop=4, cutout=8, rotation=15.0, policy="trivialaugment", brightness=0.2, blur=0.5),
    TorchvisionAugment(engine="torchvision", policy="randaugment", crop=4, cutout=8),
    parse_config(tiny_raw(augment={"engine": "albumentations", "pipeline": [{"name": "HorizontalFlip", "p": 0.5}]})).augment,
]


@pytest.mark.parametrize("augment", ENGINES, ids=lambda one: one.engine)
def test_every_engine_augments_at_the_enlarged_size_and_cuts_do_not_matter(datamodule: DataModule, augment: Any) -> None:
    found = pixels(datamodule, augment, 48, interpolation="bicubic")
    assert found.shape == (16, 3, 48, 48)
    assert found.isfinite().all()
    order = epoch_order(len(datamodule.images), 3, 0)
    with closing(Augmenter(datamodule, 3, 0, "bicubic")) as augmenter:
        one_by_one = torch.cat(list(augmenter.epoch(augment, order, 0, [slice(at, at + 1) for at in range(16)], 48)))
    assert torch.equal(one_by_one, found)
    plain = normalize(enlarge(datamodule.images[order[:16]], 48, "bicubic"), datamodule.mean, datamodule.std)
    assert 0.1 < (found - plain).abs().mean((1, 2, 3)).gt(0).float().mean() <= 1


def test_a_pipeline_that_keeps_no_size_names_the_one_it_should_keep() -> None:
    pipeline = {"engine": "albumentations", "pipeline": [{"name": "RandomCrop", "height": 32, "width": 32}]}
    config = parse_config(tiny_raw(input={"size": 64, "augment": "after"}, augment=pipeline))
    with pytest.raises(ConfigError, match=r"shape \(64, 64, 3\) into uint8 of shape \(32, 32, 3\).*resize to 64"):
        train(config, Path("nowhere"), quiet=True)


@settings(max_examples=60, deadline=None)
@given(
    side=st.integers(33, 96),
    seed=st.integers(0, 2**31),
    changes=st.sampled_from([{"cutmix_alpha": 1.0}, {"ricap_beta": 0.3}]),
)
def test_mixed_labels_have_the_share_of_the_pixels(side: int, seed: int, changes: dict[str, float]) -> None:
    batch = 5
    mix = draw_mix(Recipe(**changes), batch, np.random.default_rng(seed), side)
    images = torch.arange(batch).float().view(-1, 1, 1, 1).expand(batch, 3, side, side).contiguous()
    mixed, targets = apply_mix(mix, images, torch.eye(batch))
    shares = torch.stack([(mixed[:, 0] == label).float().mean((1, 2)) for label in range(batch)], 1)
    torch.testing.assert_close(shares, targets, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("augment", "side"), [("after", 48), ("before", 32)])
def test_boxes_are_drawn_at_the_size_of_the_pixels_that_are_mixed(
    augment: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Config]
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(batches_module, "draw_mix", lambda *given: (drawn.append(given[3]), draw_mix(*given))[1])
    data = {"source": "digits", "val_size": 200, "train_limit": 128}
    phases = [{"epochs": 1, "resolution": 48}]
    config = tiny(data=data, input={"size": 64, "augment": augment}, cutmix_alpha=1.0, phases=phases)
    train(config, tmp_path / "run", quiet=True)
    assert drawn == [side] * 2


def test_a_run_may_augment_after_enlarging_and_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Config]
) -> None:
    from benchmarks.kill_resume import fingerprint
    from conftest import train_until_save

    config = tiny(
        input={"size": 40, "augment": "after"},
        augment={"crop": 2, "flip": "random", "cutout": 6, "policy": "randaugment"},
        cutmix_alpha=1.0,
        data={"source": "digits", "val_size": 200, "train_limit": 128},
    )
    train(config, tmp_path / "whole", quiet=True)
    train_until_save(config, tmp_path / "killed", 1, monkeypatch)
    train(config, tmp_path / "killed", resume=True, quiet=True)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    before = config.model_copy(update={"input": config.input.model_copy(update={"augment": "before"})})
    train(before, tmp_path / "before", quiet=True)
    assert fingerprint(tmp_path / "before") != fingerprint(tmp_path / "whole")


def test_the_preview_shows_the_enlarged_images(tiny: Callable[..., Config]) -> None:
    config = tiny(input={"size": 64, "augment": "after"}, phases=[{"epochs": 1}, {"epochs": 1, "resolution": 48}])
    blocks = preview_blocks(resolve_config(config), load_datamodule(config), [0, 1, 2])
    shapes = [{cell.pixels.shape for row in block.cells for cell in row if cell is not None} for block in blocks]
    assert shapes == [{(64, 64, 3)}, {(48, 48, 3)}]
