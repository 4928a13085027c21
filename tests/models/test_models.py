"""The nets: golden parameter counts, one contract over every option, and blocks against hand computations."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifar_small._torchvision import import_torchvision
from cifar_small.config.schema import ResNetModel, WideResNetModel
from cifar_small.errors import ConfigError
from cifar_small.models import activate_dropout, build_model, set_dropout
from cifar_small.models.blocks import (
    ACTIVATIONS,
    BasicBlock,
    BlockOptions,
    Dropout,
    PadShortcut,
    PreactBlock,
    SqueezeExcitation,
    StochasticDepth,
)
from cifar_small.models.counting import count_parameters, skeleton


def resnet(blocks, widths, **options):
    return ResNetModel(family="resnet", blocks=blocks, widths=widths, **options)


def wrn(depth, widen_factor, **options):
    return WideResNetModel(family="wideresnet", depth=depth, widen_factor=widen_factor, **options)


GOLDEN = [
    (resnet([4, 4, 4, 3], [32, 64, 128, 256]), 10, 4_754_218),
    (resnet([7, 7, 7], [32, 64, 190]), 10, 4_985_390),
    (resnet([7, 7, 7], [32, 64, 128]), 10, 2_636_458),
    (resnet([4, 4, 3], [64, 128, 256]), 10, 4_697_162),
    (resnet([4, 4, 3], [64, 128, 256], se_reduction=16), 10, 4_733_610),
    (resnet([4, 5, 3], [64, 128, 256]), 10, 4_992_586),
    (resnet([2, 2, 2, 2], [64, 128, 256, 512]), 10, 11_173_962),
    (resnet([2, 2, 2, 2], [64, 128, 256, 512]), 100, 11_220_132),
    (resnet([3, 3, 3], [16, 32, 64], shortcut="pad"), 10, 269_722),
    (resnet([3, 3, 3], [16, 32, 64]), 10, 272_474),
    (wrn(16, 4), 10, 2_748_890),
    (wrn(28, 2), 10, 1_467_610),
    (wrn(28, 3), 10, 3_294_042),
    (wrn(28, 4), 10, 5_849_050),
    (wrn(28, 10), 10, 36_479_194),
    (wrn(28, 10), 100, 36_536_884),
]

CONTRACT = {
    "three_stages": resnet([1, 2, 1], [4, 6, 8]),
    "four_stages": resnet([1, 1, 1, 2], [4, 6, 8, 10]),
    "strides": resnet([1, 1, 1], [4, 4, 8], strides=[2, 1, 3]),
    "stem_wider": resnet([1, 1, 1], [4, 6, 8], stem_width=7),
    "pad": resnet([2, 1, 1], [4, 6, 8], shortcut="pad", stem_width=3),
    "pad_preact": resnet([2, 1, 1], [4, 6, 8], shortcut="pad", preact=True),
    "preact": resnet([2, 1, 1], [4, 6, 8], preact=True),
    "preact_se_silu": resnet([2, 1, 1], [8, 8, 16], preact=True, se_reduction=2, activation="silu"),
    "leaky_relu": resnet([1, 1, 1], [4, 6, 8], activation="leaky_relu"),
    "silu": resnet([1, 1, 1], [4, 6, 8], activation="silu"),
    "gelu": resnet([1, 1, 1], [4, 6, 8], activation="gelu"),
    "se": resnet([1, 1, 1], [8, 8, 16], se_reduction=2),
    "stochastic_depth": resnet([2, 2, 2], [4, 6, 8], stochastic_depth=0.4, dropout=0.2),
    "wrn": wrn(10, 1),
    "wrn_dropout": wrn(16, 2, dropout=0.3),
}


@pytest.fixture(params=CONTRACT.values(), ids=CONTRACT.keys())
def model(request):
    return request.param


@pytest.fixture(autouse=True)
def one_thread():
    """Nets this small lose far more to waiting threads than they win; on a busy machine a test then takes seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(model, classes=5, seed=0):
    torch.manual_seed(seed)
    return build_model(model, classes)


def images(n=6):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def warm(net):
    """Move BatchNorm's statistics off their initial values, so that evaluation tests mean something."""
    with torch.no_grad():
        net(images(16) * 2 + 1)
    return net.eval()


@pytest.mark.parametrize(("model", "classes", "count"), GOLDEN)
def test_golden_parameter_counts(model, classes, count):
    assert count_parameters(skeleton(model, classes)) == count


def test_meta_and_real_nets_agree(model):
    real, meta = build(model), skeleton(model, 5)
    assert {k: v.shape for k, v in real.state_dict().items()} == {k: v.shape for k, v in meta.state_dict().items()}


def test_output_and_evaluation_contract(model):
    net = warm(build(model))
    before = copy.deepcopy(net.state_dict())
    x = images()
    kept = x.clone()
    with torch.no_grad():
        logits = net(x)
        one_by_one = torch.cat([net(image[None]) for image in x])
        channels_last = copy.deepcopy(net).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert logits.shape == (6, 5)
    assert logits.dtype == torch.float32
    assert logits.std() > 1e-3
    torch.testing.assert_close(one_by_one, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(channels_last, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, kept), "the net changed its input in place"
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_training_contract(model):
    net = build(model).train()
    before = copy.deepcopy(dict(net.named_buffers()))
    F.cross_entropy(net(images(16)), torch.arange(16) % 5).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    changed = [name for name, value in net.named_buffers() if not torch.equal(value, before[name])]
    assert len(changed) == len(before) > 0


def test_save_and_load_give_identical_logits(model):
    net, file = warm(build(model)), io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = build(model, seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(images()), net(images()))


def test_the_seed_decides_the_weights(model):
    first, second, third = (build(model, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


def test_one_dimensional_parameters_are_biases_and_batchnorm(model):
    net = build(model)
    one_d = {name for name, p in net.named_parameters() if p.ndim <= 1}
    norms = {name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert one_d == {n for n, _ in net.named_parameters() if n.endswith(".bias") or n.rpartition(".")[0] in norms}
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv2d))


def test_initialization():
    net = build(resnet([2, 2, 2], [32, 64, 128]))
    weight = net.layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)
    first = net.layer2[0].conv1.weight  # 32 -> 64 channels: fan_out is 64 * 9, fan_in would be 32 * 9
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


def test_resnet18_matches_torchvision_by_name_and_number():
    """With torchvision's weights and torchvision's net given our stem, the logits agree as well as the names."""
    theirs = import_torchvision("models").resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = build_model(resnet([2, 2, 2, 2], [64, 128, 256, 512]), 10)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = images(2)
    torch.testing.assert_close(warm(ours)(x), warm(theirs)(x), rtol=1e-4, atol=1e-5)


def test_pad_shortcut_by_hand():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = PadShortcut(extra_channels=1, stride=2)(x)
    expected = [[[0.0, 2.0], [8.0, 10.0]], [[16.0, 18.0], [24.0, 26.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert out[0].tolist() == expected


def test_pad_refuses_to_shrink():
    with pytest.raises(ConfigError, match="pad cannot shrink channels, got 16/16/8/32"):
        build_model(resnet([1, 1, 1], [16, 8, 32], shortcut="pad"), 10)
    with pytest.raises(ConfigError, match="got 20/16/16/32"):
        build_model(resnet([1, 1, 1], [16, 16, 32], shortcut="pad", stem_width=20), 10)


def test_basic_block_by_hand():
    torch.manual_seed(0)
    block = BasicBlock(4, 6, 2, BlockOptions(activation=ACTIVATIONS["gelu"])).eval()
    x = torch.randn(2, 4, 8, 8)
    scale = (1 + 1e-5) ** -0.5  # BatchNorm with its initial statistics
    inner = F.gelu(F.conv2d(x, block.conv1.weight, stride=2, padding=1) * scale)
    residual = F.conv2d(inner, block.conv2.weight, padding=1) * scale
    shortcut = F.conv2d(x, block.downsample[0].weight, stride=2) * scale
    torch.testing.assert_close(block(x), F.gelu(residual + shortcut))


def test_preact_block_by_hand():
    torch.manual_seed(0)
    block = PreactBlock(4, 6, 2, BlockOptions()).eval()
    x = torch.randn(2, 4, 8, 8)
    scale = (1 + 1e-5) ** -0.5
    activated = F.relu(x * scale)
    inner = F.relu(F.conv2d(activated, block.conv1.weight, stride=2, padding=1) * scale)
    residual = F.conv2d(inner, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), residual + F.conv2d(activated, block.downsample.weight, stride=2))
    same = PreactBlock(4, 4, 1, BlockOptions()).eval()
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x), x), "an unchanged shape keeps a clean identity path"


def test_squeeze_excitation_by_hand():
    se = SqueezeExcitation(2, 1)
    with torch.no_grad():
        se.fc1.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        se.fc1.bias.zero_()
        se.fc2.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        se.fc2.bias.copy_(torch.tensor([0.0, 1.0]))
    x = torch.tensor([[[[1.0, 3.0]], [[4.0, 6.0]]]])  # channel means 2 and 5; the second is cut off by relu(-5)
    gate = torch.sigmoid(torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(se(x), x * gate.reshape(1, 2, 1, 1))
    assert SqueezeExcitation(8, 16).fc1.out_features == 1


def test_stochastic_depth_keeps_the_expectation_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = StochasticDepth(0.3)
    x = torch.ones(20_000, 2, 1, 1)
    out = layer(x)
    assert torch.equal(out[:, 0], out[:, 1])
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert layer.eval()(x) is x
    assert layer.train()(x.bfloat16()).dtype == torch.bfloat16


def test_stochastic_depth_grows_linearly_from_nothing():
    net = build_model(resnet([2, 2, 1], [4, 4, 4], stochastic_depth=0.4), 10)
    rates = [m.p for m in net.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert not any(isinstance(m, StochasticDepth) for m in net.layer1[0].modules())


@pytest.mark.parametrize("model", [resnet([1, 1, 1], [4, 6, 8]), wrn(10, 1)])
def test_set_dropout_reaches_every_layer_of_a_net_built_without(model):
    net = build(model).train()
    x = images()
    set_dropout(net, 0.5)
    layers = [m for m in net.modules() if isinstance(m, nn.Dropout)]
    assert len(layers) == (1 if model.family == "resnet" else 3)
    assert all(layer.p == 0.5 for layer in layers)
    assert not torch.equal(net(x), net(x))
    set_dropout(net, 0.0)
    assert torch.equal(net(x), net(x))
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("model", [resnet([1, 1, 1], [4, 6, 8], stochastic_depth=0.9), wrn(10, 1)])
def test_activate_dropout_wakes_dropout_and_nothing_else(model):
    net = build(model).train()
    set_dropout(net, 0.5)
    net(images())  # so that running statistics are no longer the initial ones
    net.eval()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    plain = net(images())
    activate_dropout(net)
    awake = {type(module) for module in net.modules() if module.training}
    assert awake == {Dropout}
    assert not torch.equal(net(images()), plain)
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    set_dropout(net, 0.0)
    assert torch.equal(net(images()), plain)  # neither BatchNorm nor stochastic depth is in training mode


def test_unused_options_share_no_modules_between_calls():
    """Quantisers refuse a net that calls one activation module twice: activations here are functions."""
    net = build(resnet([1, 1, 1], [4, 6, 8]))
    assert not any(isinstance(m, nn.ReLU | nn.SiLU | nn.GELU | nn.LeakyReLU) for m in net.modules())
