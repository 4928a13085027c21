"""Nets of torchvision and timm: the libraries' own forward passes and key layouts, with heads of our own."""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifar_small._torchvision import import_torchvision
from cifar_small.config.loading import parse_config
from cifar_small.config.published import PUBLISHED
from cifar_small.config.schema import LibraryModel
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.models import LibraryNet, build_model, in_backbone, set_dropout, set_frozen
from cifar_small.models.blocks import SqueezeExcitation
from cifar_small.models.counting import check_budget, check_tensors, count_parameters, footprint, skeleton, widest
from cifar_small.models.pretrained import read_state
from cifar_small.training.initial_weights import PretrainedInit, load_pretrained

# Trainable parameters as the libraries publish them, with 1000 classes, and the features of the last layer.
PUBLISHED_COUNTS = {
    "resnet18": (11_689_512, 512),
    "resnet50": (25_557_032, 2048),
    "efficientnet_b0": (5_288_548, 1280),
    "efficientnet_b2": (9_109_994, 1408),
    "convnext_tiny": (28_589_128, 768),
    "mobilenet_v3_small": (2_542_856, 1024),
    "tf_efficientnet_lite0": (4_652_008, 1280),
    "tf_efficientnet_lite1": (5_416_680, 1280),
    "tf_efficientnet_lite2": (6_092_072, 1280),
}
TIMM_NAMES = {"mobilenet_v3_small": "mobilenetv3_small_100"}
FAMILIES = sorted(PUBLISHED)
SMALL = ["torchvision/mobilenet_v3_small", "timm/mobilenet_v3_small"]


def library(family: str, **settings: Any) -> LibraryModel:
    return LibraryModel.model_validate({"family": family, **settings})


def original(family: str, classes: int = 1000) -> nn.Module:
    """The library's own net, without memory."""
    source, _, name = family.partition("/")
    models = import_torchvision("models")
    with torch.device("meta"):
        if source == "torchvision":
            net: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        else:
            import timm

            net = timm.create_model(TIMM_NAMES.get(name, name), pretrained=False, num_classes=classes)
    return net


def random_state(net: nn.Module) -> dict[str, Tensor]:
    """Numbers for every entry of a net's state dict, no two alike, small enough to pass through it."""
    numbers = torch.rand(100_003, generator=torch.Generator().manual_seed(0))  # a prime, repeated from other places: quick
    state = {}
    for index, (name, value) in enumerate(net.state_dict().items()):
        start, count = 997 * index % len(numbers), value.numel()
        drawn = numbers.repeat(-(-(start + count) // len(numbers)))[start : start + count].reshape(value.shape)
        if not value.is_floating_point():
            state[name] = torch.full_like(value, index, device="cpu")
        else:
            state[name] = 0.5 + drawn if name.endswith("running_var") or value.ndim <= 1 else 0.2 * (drawn - 0.5)
    return state


def empty(net: nn.Module) -> nn.Module:
    """The same net with memory that nobody has written to yet: faster than filling it with numbers that are replaced."""
    return net.to_empty(device="cpu").eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_librarys_own_weights_fit_bit_for_bit_and_mean_the_same(family: str, tmp_path: Path) -> None:
    """A file in its layout: everything but the classifier is taken, and with that classifier our net is the library's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a small batch of numbers through a net on the meta device
        theirs = original(family)
    state = random_state(theirs)
    path = tmp_path / ("weights.safetensors" if family.startswith("timm") else "weights.pth")
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        import safetensors.torch

        safetensors.torch.save_file(state, path)
    net = empty(skeleton(library(family), 10))
    assert isinstance(net, LibraryNet)
    for parameter in net.fc.parameters():
        nn.init.ones_(parameter)
    said = load_pretrained(net, PretrainedInit("weights", read_state(path), (), []), tuple("0123456789"))
    classifier = {f"{net.classifiers[0]}.weight", f"{net.classifiers[0]}.bias"}
    own = net.backbone.state_dict()
    assert own.keys() == state.keys() - classifier
    assert all(torch.equal(own[name], state[name]) for name in own)
    assert torch.equal(net.fc.weight, torch.ones(10, PUBLISHED_COUNTS[family.partition("/")[2]][1]))
    count = sum(parameter.numel() for parameter in net.backbone.parameters())
    assert f"{count:,} parameters loaded, classifier re-initialized" in said

    theirs = empty(theirs)
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(images)
        features = net.pool(net.backbone, net.feature_map(net.backbone, images))
        logits = F.linear(features, state[f"{net.classifiers[0]}.weight"], state[f"{net.classifiers[0]}.bias"])
    assert expected.isfinite().all()
    assert expected.std(0).max() > 0
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_the_published_ones_with_another_head(family: str) -> None:
    count, features = PUBLISHED_COUNTS[family.partition("/")[2]]
    net = skeleton(library(family), 10)
    assert count_parameters(net) == count - 1000 * (features + 1) + 10 * (features + 1)
    check_tensors(net)
    net.requires_grad_(False)
    assert count_parameters(net) == count - 990 * (features + 1)  # freezing makes no net smaller


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_published_weights_agrees_with_the_libraries(family: str) -> None:
    one = PUBLISHED[family]
    source, _, name = family.partition("/")
    if source == "torchvision":
        weights = import_torchvision("models").get_model_weights(name).DEFAULT
        seen = weights.transforms()
        assert weights.url == f"https://download.pytorch.org/models/{one.source}"
        assert (seen.crop_size, seen.interpolation.value) == ([one.size], one.interpolation)
        assert (tuple(seen.mean), tuple(seen.std)) == (one.mean, one.std)
        return
    import_torchvision()
    import timm

    tag = one.source.removeprefix("timm/") if one.package is None else name
    found = timm.models.get_pretrained_cfg(tag)
    assert found.hf_hub_id == one.source or one.package is not None
    assert (found.input_size, found.interpolation) == ((3, one.size, one.size), one.interpolation)
    assert (found.mean, found.std, found.license) == (one.mean, one.std, one.license)


@pytest.mark.parametrize("family", ["torchvision/convnext_tiny", "timm/efficientnet_b0", "timm/tf_efficientnet_lite0"])
def test_multiply_adds_are_those_torch_counts(family: str) -> None:
    net = empty(skeleton(library(family, head="se"), 10))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 64, 64))
    assert 2 * footprint(library(family, head="se"), 10, side=64).macs == counter.get_total_flops()


# ------------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("family", SMALL)
def test_attention_weighs_the_channels_of_the_feature_map(family: str) -> None:
    """Squeeze-and-excitation of the map, before it is pooled; nothing else of the net changes."""
    torch.manual_seed(0)
    plain, net = (build_model(library(family, head=head), 7).eval() for head in ("plain", "se"))
    assert isinstance(plain, LibraryNet)
    assert isinstance(net, LibraryNet)
    assert isinstance(net.attention, SqueezeExcitation)
    hidden, channels = net.attention.fc1.weight.shape
    assert (hidden, channels) == (36, 576)
    assert count_parameters(net) - count_parameters(plain) == 2 * hidden * channels + hidden + channels
    images = torch.randn(3, 3, 64, 64)
    for one in (plain, net):  # fresh weights would give maps of next to nothing
        one.backbone.load_state_dict(random_state(plain.backbone))
    net.fc.load_state_dict(plain.fc.state_dict())
    with torch.no_grad():
        net.attention.fc2.weight.zero_()
        net.attention.fc2.bias.fill_(100.0)  # every gate is 1
        torch.testing.assert_close(net(images), plain(images))
        net.attention.fc2.bias[:300] = -100.0  # the first 300 channels are shut off
        muted = net(images)
        x = net.feature_map(net.backbone, images)
        x[:, :300] = 0
        torch.testing.assert_close(muted, net.fc(net.pool(net.backbone, x)))
    assert not torch.allclose(muted, plain(images))


def test_a_frozen_backbone_leaves_attention_and_classifier_to_train() -> None:
    net = build_model(library("torchvision/mobilenet_v3_small", head="se"), 7)
    set_frozen(net, ("backbone",))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in net.named_parameters() if not in_backbone(name)}
    assert trained == {f"{layer}.{kind}" for layer in ("attention.fc1", "attention.fc2", "fc") for kind in ("weight", "bias")}
    F.cross_entropy(net(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    assert {name for name, parameter in net.named_parameters() if parameter.grad is not None} == trained


@pytest.mark.parametrize("family", [*SMALL, "timm/ghostnet_100", "timm/rexnet_100", "timm/fasternet_t2"])
def test_dropout_is_the_heads_alone(family: str) -> None:
    torch.manual_seed(0)
    net = build_model(library(family, head="dropout"), 7)
    assert net.dropout.p == 0.2
    images = torch.randn(4, 3, 64, 64)
    for module in net.modules():  # statistics of batches aside, training must be as evaluation without dropout
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(net(images), net(images))
    set_dropout(net, 0.0)
    assert torch.equal(net(images), net(images))
    assert torch.equal(net(images), copy.deepcopy(net).eval()(images))
    set_dropout(net, 0.5)
    assert net.dropout.p == 0.5
    assert {m.p for m in net.backbone.modules() if isinstance(m, nn.Dropout)} <= {0.0}


def test_the_cifar_stem_is_the_usual_one() -> None:
    """A 3x3 convolution at full size without pooling: torchvision's ResNet18 is then the one of the CIFAR papers."""
    net = build_model(library("torchvision/resnet18", stem="cifar"), 10).eval()
    assert isinstance(net, LibraryNet)
    assert count_parameters(net) == 11_173_962
    with torch.no_grad():
        assert net.feature_map(net.backbone, torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
        imagenet = build_model(library("torchvision/resnet18"), 10).eval()
        assert imagenet.feature_map(imagenet.backbone, torch.zeros(1, 3, 32, 32)).shape == (1, 512, 1, 1)
    assert net.backbone.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "keras/resnet34"}, r"model\.family: expected one of .*torchvision/NAME, timm/NAME.*got 'keras/resnet34'"),
        ({"family": "timm/resnet18", "stem": "cifar"}, "stem cifar is there for torchvision/resnet18"),
        ({"family": "torchvision/convnext_tiny", "stem": "cifar"}, "stem cifar is there for torchvision/resnet18"),
        ({"family": "torchvision/resnet18", "dropout": 0.3}, r"dropout 0\.3 has no effect with head plain"),
        ({"family": "torchvision/resnet18", "head": "mlp"}, r"model\.head: .*'plain', 'dropout' or 'se'"),
        ({"family": "torchvision/resnet18", "widths": [1]}, r"model\.widths: unknown key"),
    ],
)
def test_what_no_net_has_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"name": "x", "model": settings, "phases": [{"epochs": 1}]})


@pytest.mark.parametrize(
    ("family", "side"),
    [
        ("torchvision/resnet34", 32),
        ("torchvision/vgg11_bn", 32),
        ("torchvision/densenet121", 32),
        ("torchvision/googlenet", 64),
        ("torchvision/vit_b_32", 224),
        ("timm/resnet10t", 32),
        ("timm/mobilenetv2_050", 32),
        ("timm/vit_tiny_patch16_224", 224),
        ("timm/ghostnet_100", 64),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")  # of the original
def test_any_net_of_the_libraries_is_counted_as_the_library_builds_it(family: str, side: int) -> None:
    """Its parameters but for the classifier, and ours: of as many features."""
    whole = original(family, 7)
    body = [value for key, value in whole.named_parameters() if not key.startswith(("aux1", "aux2"))]
    assert footprint(library(family), 7, side).trainable == sum(value.numel() for value in body)


@pytest.mark.parametrize("family", ["timm/vit_tiny_patch16_224", "torchvision/vit_b_32", "torchvision/alexnet"])
def test_a_net_that_takes_no_images_of_this_size_names_its_own(family: str) -> None:
    """The libraries assert, or fail within torch."""
    message = rf"^{family} cannot compute an image of 3x32x32: .+; set input\.size: 224 "
    with pytest.raises(ConfigError, match=message) as caught:
        footprint(library(family), 10)
    assert "\n" not in str(caught.value)


def test_the_table_of_sizes_goes_on_past_a_net_that_takes_no_images_of_its_size(said: Any, tmp_path: Path) -> None:
    for name, family in (("alexnet", "torchvision/alexnet"), ("resnet", "torchvision/resnet18")):
        raw = {"name": name, "model": {"family": family}, "phases": [{"epochs": 1}], "rules": {"max_params": 10**8}}
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(raw))
    code, out, err = said("param_count", tmp_path)
    assert (code, "resnet.yaml  11,181,642" in out, err.count("\n")) == (2, True, 1)
    assert "alexnet.yaml: torchvision/alexnet cannot compute" in err


def test_a_library_without_the_net_says_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no classifier resnet33; near: .*resnet34"):
        check_budget(parse_config({"name": "x", "model": {"family": "torchvision/resnet33"}, "phases": [{"epochs": 1}]}), 10)
    with pytest.raises(ConfigError, match=r"torchvision/squeezenet1_1 ends in a convolution"):
        footprint(library("torchvision/squeezenet1_1"), 10)
    with pytest.raises(ConfigError, match=r"timm .* has no net resnet33; near: "):
        check_budget(parse_config({"name": "x", "model": {"family": "timm/resnet33"}, "phases": [{"epochs": 1}]}), 10)
    with pytest.raises(ConfigError, match=r"model\.head se is there for resnet18, .* of timm, not for vit_tiny"):
        footprint(library("timm/vit_tiny_patch16_224", head="se"), 10)


def test_published_weights_are_asked_of_the_nets_that_have_them() -> None:
    raw = {"name": "x", "model": {"family": "torchvision/resnet34"}, "phases": [{"epochs": 1}], "rules": {"pretrained": True}}
    with pytest.raises(
        ConfigError, match=r"weights imagenet are known here for torchvision/resnet18, .* not for torchvision/resnet34"
    ):
        parse_config({**raw, "weights": "imagenet"})
    assert parse_config({**raw, "weights": "resnet34.pth"}).side == 32


def test_a_phase_may_not_drop_out_what_a_plain_head_does_not_have() -> None:
    raw = {"name": "x", "model": {"family": "torchvision/resnet18"}, "phases": [{"epochs": 1}, {"epochs": 1, "dropout": 0.1}]}
    with pytest.raises(ConfigError, match=r"phases\.1\.dropout 0\.1 has no effect with model\.head plain; use head: dropout"):
        parse_config(raw)
    parse_config({**raw, "model": {"family": "torchvision/resnet18", "head": "se"}})


def test_the_budget_knows_that_a_librarys_net_has_one_width() -> None:
    model = library("torchvision/resnet18")
    config = parse_config({"name": "big", "model": model.model_dump(), "phases": [{"epochs": 1}]})
    with pytest.raises(
        ConfigError, match=r"big has 11,181,642 trainable.*6,181,642 over.*it has one width: choose a smaller net"
    ):
        check_budget(config, 10)
    assert widest(model, 10, 11_181_642) == (model, 11_181_642)
    assert widest(model, 10, 11_181_641) is None


def test_without_timm_its_nets_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm/resnet18 needs timm.*cifar_small\[pretrained\].*or use torchvision/resnet18"):
        skeleton(library("timm/resnet18"), 10)


# ----------------------------------------------------------------------------------------------------------- wrong weights


def names_only(family: str) -> dict[str, Tensor]:
    """A state dict of the right names whose tensors share one number: shapes without memory."""
    return {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in original(family).state_dict().items()
    }


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        (
            "torchvision/resnet18",
            "torchvision/resnet50",
            r"of 120 tensors \d+ unknown \(first backbone.layer1.0.conv3.weight\)",
        ),
        (
            "torchvision/resnet50",
            "torchvision/resnet18",
            r"of 318 tensors \d+ missing \(first backbone.layer1.0.conv3.weight\)",
        ),
        ("torchvision/efficientnet_b0", "torchvision/efficientnet_b2", r"\d+ unknown .* of another shape"),
        ("torchvision/mobilenet_v3_small", "timm/mobilenet_v3_small", r"\d+ missing .*\d+ unknown"),
        ("timm/convnext_tiny", "torchvision/convnext_tiny", r"\d+ missing .*\d+ unknown"),
    ],
)
def test_weights_of_another_architecture_are_one_clear_line(family: str, given: str, message: str) -> None:
    net = skeleton(library(family), 10)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained(net, PretrainedInit("FILE", names_only(given), (), []), ("a", "b"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("weights FILE belong to another architecture than model: ")


def test_old_files_without_counters_of_batches_fit(tmp_path: Path) -> None:
    """torchvision's resnet18-f37072fd.pth is one."""
    theirs = original("torchvision/mobilenet_v3_small")
    state = {name: value for name, value in random_state(theirs).items() if not name.endswith("num_batches_tracked")}
    net = build_model(library("torchvision/mobilenet_v3_small"), 10)
    load_pretrained(net, PretrainedInit("old", state, (), []), ("a",))
    assert torch.equal(net.backbone.features[0][1].running_var, state["features.0.1.running_var"])
    assert net.backbone.features[0][1].num_batches_tracked == 0


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_resnet_of_torchvision_gets_the_stem_for_small_pictures(name: str) -> None:
    net = skeleton(library(f"torchvision/{name}", stem="cifar"), 10)
    assert isinstance(net, LibraryNet)
    stem = net.backbone.conv1
    assert (stem.kernel_size, stem.stride, type(net.backbone.maxpool)) == ((3, 3), (1, 1), nn.Identity)
    plain, small = (footprint(library(f"torchvision/{name}", stem=stem), 10) for stem in ("imagenet", "cifar"))
    assert plain.trainable - small.trainable == 64 * 3 * (49 - 9)
    assert small.macs > 14 * plain.macs
    with pytest.raises(ValueError, match=r"stem cifar is there for torchvision/resnet18, .*, not for torchvision/resnext50"):
        library("torchvision/resnext50_32x4d", stem="cifar")


@pytest.mark.parametrize(
    ("family", "side"),
    [
        ("timm/swin_tiny_patch4_window7_224", 224),  # a mask of attention
        ("timm/eva02_tiny_patch14_224", 224),  # tables of positions
        ("torchvision/swin_v2_t", 64),
    ],
)
def test_tables_that_no_training_changes_are_no_hidden_numbers(family: str, side: int) -> None:
    net = skeleton(library(family), 10)
    tables = [name for name, one in net.named_buffers() if one.is_floating_point()]
    assert tables
    assert footprint(library(family), 10, side).trainable == count_parameters(net)
    net.register_buffer("extra", torch.zeros(3))
    with pytest.raises(ConfigError, match="extra is a buffer"):
        check_tensors(net)


def test_a_net_with_two_classifiers_takes_weights_without_both() -> None:
    """timm's distilled nets, whose published weights have one for the labels and one for the teacher."""
    theirs = original("timm/deit_tiny_distilled_patch16_224")
    state = random_state(theirs)
    net = empty(skeleton(library("timm/deit_tiny_distilled_patch16_224"), 10))
    assert isinstance(net, LibraryNet)
    assert net.classifiers == ("head", "head_dist")
    load_pretrained(net, PretrainedInit("weights", state, (), []), tuple("0123456789"))
    own = net.backbone.state_dict()
    assert own.keys() == state.keys() - {f"{head}.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")}
    assert all(torch.equal(own[name], state[name]) for name in own)
