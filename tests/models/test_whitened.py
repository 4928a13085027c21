"""The whitened ResNet: its stem, its identity start, its shapes and counts, its skips, and freezing by phase."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks.kill_resume import fingerprint
from conftest import train_until_save
from torch import Tensor, nn

from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config, WhitenedResNetModel
from cifar_small.data.datamodule import load_datamodule
from cifar_small.errors import ConfigError
from cifar_small.models import build_model, fit_stem, set_frozen
from cifar_small.models.counting import check_budget, count_parameters, footprint, skeleton, widest
from cifar_small.models.whitened import Stem
from cifar_small.optim.optimizers import build_optimizer
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training import build
from cifar_small.training.train import train
from cifar_small.transforms.batched import resize


def whitened(*stages: dict[str, Any], **options: Any) -> WhitenedResNetModel:
    return WhitenedResNetModel(family="whitened_resnet", stages=stages, **options)


SMALL = whitened({"width": 8, "branch": [[3, 8]]}, {"width": 12, "kernel": 2, "branch": [[1, 6], [3, 12]]})
AIRBENCH = [{"width": width, "branch": [[3, width]]} for width in (64, 256, 256)]


def config(**changes: Any) -> Config:
    raw = {
        "name": "whitened",
        "rules": {"max_params": 5_000_000},
        "data": {"source": "digits", "val_size": 200, "train_limit": 512},
        "model": SMALL.model_dump(mode="json"),
        "batch_size": 64,
        "optim": {"name": "muon", "bias": {"lr": 10.0}, "head": {"lr": 0.8}},
        "schedule": {"name": "piecewise", "points": [[0, 1], [1, 0]]},
        "augment": {"crop": 2, "flip": "none"},
        "phases": [{"epochs": 1, "resolution": 24}, {"epochs": 2, "resolution": 32, "freeze": ["layer1.conv"]}],
        "engine": {"threads": 1, "device": "cpu", "micro_batch_size": 32},
    }
    return parse_config({**raw, **changes})


def test_parameters_and_macs_of_airbench94() -> None:
    """The published 64/256/256 net: 24 whitening filters of 12 weights, convolutions, BatchNorm of 2 numbers, 10 classes."""
    convs = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 + 256 * 256 + 256 * 256)
    norms = 2 * 2 * (64 + 256 + 256)
    found = footprint(whitened(*AIRBENCH), 10)
    assert found.trainable == 24 * 12 + convs + norms + 2560 == 1_972_768
    # 31x31 after the stem; the maps of each pair of convolutions: 31 and 15, 15 and 7, 7 and 3
    maps = 9 * (24 * 64 * 961 + 64 * 64 * 225 + 64 * 256 * 225 + 256 * 256 * 49 + 256 * 256 * 49 + 256 * 256 * 9)
    assert found.macs == 24 * 12 * 961 + maps + 2560


def test_the_stem_whitens_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 3, generator=generator)
    images = F.avg_pool2d(torch.einsum("dc,nchw->ndhw", mixing, torch.randn(64, 3, 17, 17, generator=generator)), 2, 1)
    stem = Stem(whiten=True, bias=False)
    stem.fit(images, eps=0.0)
    with torch.no_grad():
        output = stem(images)
    assert output.shape == (64, 24, 15, 15)
    torch.testing.assert_close(output[:, :12], -output[:, 12:])
    values = output[:, :12].permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(values @ values.T / values.shape[1], torch.eye(12), atol=1e-3, rtol=0)
    assert not stem.weight.requires_grad


def test_a_direction_without_signal_is_not_blown_up() -> None:
    images = torch.randn(8, 1, 9, 9, generator=torch.Generator().manual_seed(1)).expand(8, 3, 9, 9)  # three equal channels
    stem = Stem(whiten=True, bias=False)
    stem.fit(images)
    assert stem.weight.abs().max() < 1 / 5e-4**0.5 + 1e-3
    assert torch.isfinite(stem.weight).all()


def test_padded_filters_start_as_identity() -> None:
    net = build_model(SMALL, 10)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(net.layer1.branch_convs[0](x), x)
    assert torch.equal(net.layer2.branch_convs[1](torch.ones(1, 6, 4, 4))[:, :6], torch.ones(1, 6, 4, 4))
    assert net.layer2.conv.weight.std() > 0.05  # 2x2 has no center: torch's own draw


def test_without_dirac_no_filter_starts_as_identity() -> None:
    net = build_model(SMALL.model_copy(update={"dirac": False}), 10)
    x = torch.randn(2, 8, 5, 5)
    assert (net.layer1.branch_convs[0](x) - x).std() > 0.1
    assert "dirac" not in config_dict(config())["model"]  # so that configs from before it keep their hash
    assert config_dict(config(model={**SMALL.model_dump(mode="json"), "dirac": False}))["model"]["dirac"] is False


def test_a_stem_that_does_not_whiten_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its filters are in the head's group, as those that see the image, and the convolution after it passes a gradient back."""
    learned = config(model={**SMALL.model_dump(mode="json"), "whiten": False}, phases=[{"epochs": 2, "resolution": 24}])
    net = build_model(learned.model, 10)
    before = net.stem.weight.clone()
    fit_stem(net, torch.randn(8, 3, 16, 16), lambda images: images)
    assert torch.equal(net.stem.weight, before)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert net.stem.weight.grad is not None
    assert net.stem.weight.grad.abs().max() > 0
    groups = build_optimizer(net, learned.optim).param_groups
    (group,) = (group for group in groups if any(parameter is net.stem.weight for parameter in group["params"]))
    assert (group["rule"], group["lr_factor"]) == ("sgd", pytest.approx(0.8 / 0.24))  # the head's, not the biases' 10
    train_until_save(learned, tmp_path, 1, monkeypatch)
    begun = load_checkpoint(tmp_path / "last.pt")["model"]["stem.weight"]
    train(learned, tmp_path, resume=True, quiet=True)
    assert (load_checkpoint(tmp_path / "last.pt")["model"]["stem.weight"] - begun).norm() > 1e-3


def test_a_stem_sees_all_classes_of_images_that_come_sorted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As those of a folder for each class do; of 512 images the first 100 would be of two digits."""
    monkeypatch.setattr(build, "STEM_IMAGES", 100)
    fitted: list[Tensor] = []
    monkeypatch.setattr(build, "fit_stem", lambda net, images, prepare: fitted.append(images))

    def in_order(config: Config) -> Any:
        datamodule = load_datamodule(config)
        order = datamodule.labels.argsort(stable=True)
        return replace(datamodule, images=datamodule.images[order], labels=datamodule.labels[order])

    trainers = []
    for load in (load_datamodule, in_order):
        monkeypatch.setattr(build, "load_datamodule", load)
        trainers.append(build.build_trainer(resolve_config(config()), Run(tmp_path), quiet=True))
    mixed, in_turn = (trainer.data.images for trainer in trainers)
    assert torch.equal(fitted[0], mixed[:100])  # as records of earlier runs have it
    assert torch.equal(fitted[1], in_turn[::6])


def by_hand(net: Any, images: Tensor) -> Tensor:
    x = F.silu(F.conv2d(images, net.stem.weight))

    def norm(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (variance + bn.eps).sqrt() + bn.bias.view(1, -1, 1, 1)

    for layer, padding in ((net.layer1, 1), (net.layer2, 0)):
        x = F.silu(norm(layer.bn, F.max_pool2d(F.conv2d(x, layer.conv.weight, padding=padding), 2)))
        residual = x
        for index, (conv, bn) in enumerate(zip(layer.branch_convs, layer.branch_bns, strict=True)):
            residual = F.silu(residual) if index else residual
            residual = norm(bn, F.conv2d(residual, conv.weight, padding=conv.weight.shape[-1] // 2))
        x = F.silu(x + residual)
    return x.amax((2, 3)) @ net.fc.weight.T / 9


def test_forward_by_hand() -> None:
    torch.manual_seed(0)
    net = build_model(SMALL, 10)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1.0)
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(net(images), by_hand(net, images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [20, 24, 28, 32])
def test_any_resolution(side: int) -> None:
    net = build_model(whitened(*AIRBENCH[:1], *({"width": 8, "branch": [[3, 8]]},) * 2, head_pool="max_mean"), 7).eval()
    assert net(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_without_skips_the_input_of_a_branch_is_dropped() -> None:
    with_skip, without = build_model(SMALL, 10), build_model(SMALL.model_copy(update={"skip": False}), 10)
    for net in (with_skip, without):
        for conv in [*net.layer1.branch_convs, *net.layer2.branch_convs]:
            nn.init.zeros_(conv.weight)
    images = torch.randn(4, 3, 32, 32)
    assert without(images).std(0).max() < 1e-6  # nothing of the images comes through
    assert with_skip(images).std(0).max() > 1e-3


def test_what_never_trains_and_what_a_phase_freezes() -> None:
    net = build_model(SMALL.model_copy(update={"stem_bias": True}), 10)
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert "stem.weight" in frozen
    assert "layer1.bn.weight" in frozen
    assert "stem.bias" not in frozen
    set_frozen(net, ("stem.bias", "layer2"))
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == {
        "layer1.conv.weight", "layer1.bn.bias", "layer1.branch_convs.0.weight", "layer1.branch_bns.0.bias", "fc.weight",
    }  # fmt: skip
    set_frozen(net, ())
    assert {name for name, parameter in net.named_parameters() if not parameter.requires_grad} == frozen
    with pytest.raises(ConfigError, match="freeze 'laier' matches no parameter of this net; its parameters start with stem, "):
        set_frozen(net, ("laier",))


def test_the_first_convolution_needs_no_input_gradient_while_the_stem_is_fixed() -> None:
    net = build_model(SMALL.model_copy(update={"stem_bias": True}), 10)
    for frozen, expected in ((("stem.bias",), False), ((), True)):
        set_frozen(net, frozen)
        seen: list[bool] = []
        handle = net.layer1.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].requires_grad))
        net(torch.randn(2, 3, 32, 32))
        handle.remove()
        assert seen == [expected]


def test_the_advice_over_budget_fits() -> None:
    big = config(
        model={
            "family": "whitened_resnet",
            "stages": [{"width": 2 * s["width"], "branch": [[3, 2 * s["width"]]]} for s in AIRBENCH],
        }
    )
    with pytest.raises(ConfigError, match=r"widest that fits: widths 102-102/408-408/408-408 \(4,992,780\)") as caught:
        check_budget(big, 10)
    found = widest(big.model, 10, 5_000_000)
    assert found is not None
    assert f"{found[1]:,}" in str(caught.value)
    assert count_parameters(skeleton(found[0], 10)) == found[1] <= 5_000_000


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"width": 8, "branch": [[3, 9]]}, "branch ends with 9 channels but is added to 8"),
        ({"width": 8, "branch": [[2, 8]]}, "kernels must be 1 or 3"),
        ({"width": 8, "branch": []}, "branch: tuple should have at least 1 item"),
    ],
)
def test_stages_that_cannot_be_added_are_refused(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(model={"family": "whitened_resnet", "stages": [stage]})


def test_fit_stem_leaves_other_nets_alone() -> None:
    net = build_model(config(model={"family": "wideresnet", "depth": 10, "widen_factor": 1}).model, 10)
    before = [parameter.clone() for parameter in net.parameters()]
    fit_stem(net, torch.randn(4, 3, 32, 32), lambda images: images)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_resize_keeps_means_and_leaves_full_size_alone() -> None:
    pixels = torch.rand(3, 3, 32, 32)
    assert resize(pixels, 32) is pixels
    small = resize(pixels, 16)
    assert small.shape == (3, 3, 16, 16)
    torch.testing.assert_close(small.mean((2, 3)), pixels.mean((2, 3)), atol=0.02, rtol=0)
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 32, 32)  # would alias to a constant without antialiasing
    torch.testing.assert_close(resize(stripes, 16)[..., 2:-2], torch.full((1, 3, 16, 12), 0.5), atol=0.02, rtol=0)


def test_a_phase_trains_at_its_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cifar_small.models.whitened as module

    sides: list[tuple[bool, int]] = []
    forward = module.WhitenedResNet.forward

    def recorded(self: module.WhitenedResNet, images: Tensor) -> Tensor:
        if len(images) > 1:  # the check of all phases takes one image of each size
            sides.append((self.training, images.shape[-1]))
        return forward(self, images)

    monkeypatch.setattr(module.WhitenedResNet, "forward", recorded)
    train(config(phases=config().phases[:1]), tmp_path / "one", quiet=True)
    assert {side for training, side in sides if training} == {24}
    assert {side for training, side in sides if not training} == {32}
    sides.clear()
    train(config(), tmp_path / "both", quiet=True)
    assert [side for training, side in sides if training] == [24] * 16 + [32] * 32


def test_frozen_filters_stay(tmp_path: Path) -> None:
    frozen = config(phases=[{"epochs": 1}, {"epochs": 1, "freeze": ["layer1.conv", "fc"]}])
    train(frozen, tmp_path / "run", quiet=True)
    before = load_checkpoint(tmp_path / "run" / "previous.pt")["model"]  # of the frozen epoch's start
    after = load_checkpoint(tmp_path / "run" / "last.pt")["model"]
    assert torch.equal(before["layer1.conv.weight"], after["layer1.conv.weight"])
    assert torch.equal(before["fc.weight"], after["fc.weight"])
    assert not torch.equal(before["layer2.conv.weight"], after["layer2.conv.weight"])


def test_defaults_of_later_settings_are_left_out_of_a_dumped_config() -> None:
    """So that the hashes in records made before these settings existed stay what they were."""
    plain = config_dict(config(phases=[{"epochs": 1}]))
    assert "resolution" not in plain
    assert "freeze" not in plain
    assert "sync_batchnorm" not in plain["engine"]
    changed = config_dict(config(resolution=24, freeze=["fc"], engine={"sync_batchnorm": True}))
    assert (changed["resolution"], changed["freeze"], changed["engine"]["sync_batchnorm"]) == (24, ["fc"], True)
    assert parse_config(changed) == config(resolution=24, freeze=["fc"], engine={"sync_batchnorm": True})


@pytest.mark.parametrize("saves", [1, 4, 6, 9])
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first save, in the middle of a phase, at the boundary of phases, and in the last epoch."""
    settings = config(ema_decay=0.9, engine={"threads": 1, "device": "cpu", "micro_batch_size": 32, "checkpoint_steps": 3})
    train(settings, tmp_path / "whole", quiet=True)
    train_until_save(settings, tmp_path / "killed", saves, monkeypatch)
    train(settings, tmp_path / "killed", resume=True, quiet=True)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"resolution": 8}, r"phases.1.resolution 8 is too small for this net \(.*\); use more pixels"),
        ({"freeze": ["layer", "fc"]}, "phases.1.freeze freezes every parameter; leave some to train"),
    ],
)
def test_a_phase_that_could_not_train_is_refused_before_the_first(phase: dict[str, Any], message: str, tmp_path: Path) -> None:
    deep = whitened(*({"width": 4, "branch": [[3, 4]]},) * 3).model_dump(mode="json")
    with pytest.raises(ConfigError, match=message):
        train(config(model=deep, phases=[{"epochs": 1}, {"epochs": 1, **phase}]), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_muon_without_a_filter_to_step_is_refused(tmp_path: Path) -> None:
    head_first = [{"epochs": 1, "freeze": "backbone"}, {"epochs": 1, "freeze": "none"}]
    with pytest.raises(ConfigError, match=r"optim\.name muon is for convolutions of more than 3 channels in, and none"):
        train(config(optim={"name": "muon"}, phases=head_first[:1]), tmp_path / "run", quiet=True)
    assert train(config(optim={"name": "muon"}, phases=head_first), tmp_path / "run", quiet=True).epochs == 2
