"""The parameter budget: what is counted, what is refused, and the widest net that fits."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import LibraryModel, ResNetModel, Rules, WideResNetModel
from cifar_small.errors import ConfigError
from cifar_small.models import build_model
from cifar_small.models.counting import (
    check_budget,
    check_count,
    check_tensors,
    count_parameters,
    footprint,
    skeleton,
    widest,
)


def config(model, name="net", **sections):
    return parse_config({"name": name, "model": model, "phases": [{"epochs": 1}], **sections})


def wrn_dict(depth, widen_factor):
    return {"family": "wideresnet", "depth": depth, "widen_factor": widen_factor}


def resnet(blocks, widths, **options):
    return ResNetModel(family="resnet", blocks=blocks, widths=widths, **options)


def count(model, classes=10):
    return count_parameters(skeleton(model, classes))


def test_message_names_the_excess_and_the_widest_that_fits():
    with pytest.raises(ConfigError) as error:
        check_budget(config(wrn_dict(28, 4), "wrn_28_4"), 10)
    assert str(error.value) == (
        "wrn_28_4 has 5,849,050 trainable parameters, 849,050 over the budget of 5,000,000; "
        "widest that fits: widen_factor 3 (3,294,042)"
    )


def test_message_for_a_resnet_and_when_nothing_fits():
    model = {"family": "resnet", "widths": [64, 128, 256, 512], "blocks": [2, 2, 2, 2]}
    with pytest.raises(ConfigError, match=r"6,173,962 over .*; widest that fits: widths 43/86/171/342 \(4,9\d\d,\d{3}\)$"):
        check_budget(config(model), 10)
    with pytest.raises(ConfigError, match=r"over the budget of 233; no width of this shape fits$"):
        check_budget(config(model, rules={"max_params": 233}), 10)


def test_exactly_the_budget_passes_and_one_more_is_refused():
    exact = config(wrn_dict(16, 4), rules={"max_params": 2_748_890})
    assert check_budget(exact, 10) == 2_748_890
    with pytest.raises(ConfigError, match="2,748,890 trainable parameters, 1 over the budget of 2,748,889"):
        check_budget(config(wrn_dict(16, 4), rules={"max_params": 2_748_889}), 10)
    check_count("a.pt", 5_000_000, Rules())
    with pytest.raises(ConfigError, match=r"^a\.pt has 5,000,001 trainable parameters, 1 over the budget of 5,000,000$"):
        check_count("a.pt", 5_000_001, Rules())


def test_freezing_does_not_make_a_net_smaller_and_sharing_counts_once():
    net = build_model(resnet([1, 1, 1], [4, 6, 8]), 10)
    full = count_parameters(net)
    assert full == sum(p.numel() for p in net.parameters() if p.requires_grad)
    net.requires_grad_(False)
    assert count_parameters(net) == full
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert count_parameters(tied) == 9 + 3 + 3


def test_footprint_of_resnet18():
    size = footprint(resnet([2, 2, 2, 2], [64, 128, 256, 512]), 10)
    assert (size.trainable, size.total, size.buffers) == (11_173_962, 11_173_962, 9_600)
    assert size.macs == 555_422_720
    assert size.fp32_bytes == 4 * 11_173_962


def test_footprint_memory_line_of_a_published_report():
    assert round(footprint(resnet([4, 4, 4, 3], [32, 64, 128, 256]), 10).mebibytes, 2) == 18.14


@pytest.mark.parametrize(
    "model",
    [
        resnet([1, 2, 1], [4, 6, 8], strides=[2, 1, 3], se_reduction=2),
        resnet([1, 1, 1, 1], [4, 6, 8, 9], shortcut="pad", preact=True),
        WideResNetModel(family="wideresnet", depth=10, widen_factor=2),
    ],
)
def test_macs_agree_with_torchs_flop_counter(model):
    net = build_model(model, 7).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    assert footprint(model, 7).macs * 2 == counter.get_total_flops()


LITE0 = [  # blocks, kernel, stride, expansion, channels of each stage, as the paper's table and its Lite variant have them
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def lite0_macs(side, classes=10):
    """The closed form: each convolution's weights times the places of its output, which is side / stride, rounded up."""
    side, channels = -(-side // 2), 32
    macs = 9 * 3 * 32 * side**2
    for blocks, kernel, stride, expansion, width in LITE0:
        for block in range(blocks):
            hidden = channels * expansion
            macs += channels * hidden * side**2 * (expansion > 1)
            side = -(-side // (stride if block == 0 else 1))
            macs += (kernel**2 * hidden + hidden * width) * side**2
            channels = width
    return macs + 1280 * channels * side**2 + 1280 * classes


@pytest.mark.parametrize("side", [32, 64, 75, 96, 224])
def test_macs_of_a_net_that_pads_by_the_size_it_sees(side):
    model = LibraryModel(family="timm/tf_efficientnet_lite0")
    assert footprint(model, 10, side).macs == lite0_macs(side)


def test_macs_of_attention_are_counted(monkeypatch):
    """Of both forms: 4 projections of L x d, and 2 products of L x L x d; L = 64 places, d = 24 channels."""
    places, width = 64, 24

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, width, 4, 4)
            self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

        def forward(self, images):
            x = self.patches(images).flatten(2).transpose(1, 2)
            x = self.attention(x, x, x, need_weights=False)[0]
            return nn.functional.scaled_dot_product_attention(x, x, x).mean(1)

    monkeypatch.setattr("cifar_small.models.counting.build_model", lambda model, classes: Attention())
    monkeypatch.setattr("cifar_small.models.counting.LibraryNet", Attention)
    product = 2 * places**2 * width
    expected = 48 * width * places + 4 * places * width**2 + product + product
    assert footprint(LibraryModel(family="timm/resnet18", head="se"), 3, 32).macs == expected
    footprint.cache_clear()


class Unusual(nn.Module):
    """What other counters miss or count twice: a scale, a GroupNorm, attention, weight_norm, a convolution at two places."""

    def __init__(self):
        super().__init__()
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 4, 4))
        self.again = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm, self.scale = nn.GroupNorm(2, 8), nn.Parameter(torch.ones(8, 1, 1))
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, images):
        x = self.scale * self.norm(self.again(self.again(self.stem(images))))
        x = x.flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


def test_an_unusual_net_is_counted_in_full(monkeypatch):
    monkeypatch.setattr("cifar_small.models.counting.build_model", lambda model, classes: Unusual())
    places, stem, again, attention, head = 64, 3 * 8 * 16, 8 * 8 * 9, 4 * 8 * 8, 3 * 8
    size = footprint(LibraryModel(family="timm/resnet18"), 3, 32)
    # weight_norm keeps a length for each filter; the norm, the scale and the four projections have 16, 8 and 32 more
    assert size.trainable == (stem + 8 + 8) + again + 16 + 8 + (attention + 4 * 8) + (head + 3)
    assert size.macs == places * (stem + 2 * again + attention) + 2 * 8 * places**2 + head
    footprint.cache_clear()
    check_tensors(Unusual())


def test_counting_leaves_a_net_as_it_was():
    """Other counters train its frozen layers, pass a batch through its BatchNorm, or leave entries in its state dict."""
    net = build_model(resnet([1, 1, 1], [4, 6, 8]), 10)
    net.layer1.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    count_parameters(net)
    check_tensors(net)
    assert [module.training for module in net.modules()] == modes
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kept", [np.zeros(3), [np.zeros(3)], {"a": (np.float32(1), np.zeros(1))}, torch.zeros(3)])
def test_numbers_in_an_attribute_are_refused(kept):
    """As arrays as well as tensors, at any depth: a forward pass could use them, and no count would see them."""
    net = Unusual()
    check_tensors(net)
    net.kept = kept
    with pytest.raises(ConfigError, match=r"the parameter count would miss numbers of this net: .*kept"):
        check_tensors(net)


@pytest.mark.parametrize(
    ("source", "classes"),
    [("cifar10", 10), ("cifar100", 100), ("cifar100_coarse", 20), ("digits", 10), ("npz", None), ("folder", None)],
)
def test_num_classes_of_a_source(source, classes):
    assert config(wrn_dict(10, 1), data={"source": source}).data.num_classes == classes


def test_widest_widen_factor_is_maximal():
    model = WideResNetModel(family="wideresnet", depth=28, widen_factor=10)
    assert widest(model, 10, 5_000_000) == (model.model_copy(update={"widen_factor": 3}), 3_294_042)
    assert widest(model, 10, 36_479_194) == (model, 36_479_194)
    assert widest(model, 10, 36_479_193)[0].widen_factor == 9
    assert widest(model, 10, 1000) is None


def test_widest_scales_an_explicit_stem_too():
    found, parameters = widest(resnet([1, 1, 1], [16, 32, 64], stem_width=32), 10, 1_000_000)
    assert found.stem_width == found.widths[1]
    assert found.widths[0] * 2 == pytest.approx(found.widths[1], abs=1)
    assert found.widths[2] > 64
    assert parameters == count(found) <= 1_000_000


SHAPES = st.builds(
    lambda stages, preact, shortcut, se, stem: resnet(
        [blocks for blocks, _ in stages],
        sorted(width for _, width in stages),
        preact=preact,
        shortcut=shortcut,
        se_reduction=se,
        stem_width=stem,
    ),
    stages=st.lists(st.tuples(st.integers(1, 2), st.integers(2, 97)), min_size=3, max_size=4),
    preact=st.booleans(),
    shortcut=st.sampled_from(["conv", "pad"]),
    se=st.sampled_from([None, 4]),
    stem=st.sampled_from([None, 1]),
)
BUDGETS = st.integers(100, 2_000_000)


@settings(max_examples=25, deadline=None)
@given(SHAPES, BUDGETS, BUDGETS)
def test_widest_is_never_over_and_grows_with_the_budget(model, one, other):
    small, large = (widest(model, 10, budget) for budget in sorted((one, other)))
    if small is None:
        assert count(model.model_copy(update={"widths": tuple(1 for _ in model.widths)})) > min(one, other)
        return
    assert small[1] == count(small[0]) <= min(one, other)
    assert large[1] == count(large[0]) <= max(one, other)
    assert small[1] <= large[1]
    if count(model) <= min(one, other):
        assert small[1] >= count(model)


@pytest.mark.parametrize("budget", [3_000, 20_000, 77_777])
def test_widest_resnet_is_the_last_that_fits_by_brute_force(budget):
    """Every factor at which any width rounds differently, tried one by one."""
    model = resnet([1, 1, 1], [5, 7, 12])
    best = 0
    for step in range(1, 840 * 8):  # in units of 1 / (2 * 420), 420 the least common multiple of the widths
        widths = tuple(max(1, int(width * step / 840 + 0.5)) for width in model.widths)
        if (candidate := resnet_counts(widths)) <= budget:
            best = max(best, candidate)
    assert widest(model, 10, budget)[1] == best


_COUNTS: dict[tuple[int, ...], int] = {}


def resnet_counts(widths):
    if widths not in _COUNTS:
        _COUNTS[widths] = count(resnet([1, 1, 1], widths))
    return _COUNTS[widths]


def test_check_tensors_accepts_our_nets():
    check_tensors(build_model(resnet([1, 1, 1], [4, 6, 8], se_reduction=2, stochastic_depth=0.2), 10))
    check_tensors(skeleton(WideResNetModel(family="wideresnet", depth=10, widen_factor=1), 10))


def _with(**attributes):
    net = nn.Sequential(nn.Linear(2, 2))
    for name, value in attributes.items():
        setattr(net[0], name, value)
    return net


def _with_buffer(value, persistent=True):
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].register_buffer("extra", value, persistent=persistent)
    return net


def test_what_the_count_has_seen_may_be_held_in_a_container_too():
    net = _with(extra={"mean": 0.5, "names": ["a"]}, itself=[])
    net[0].itself += [net[0].itself, net[0], net[0].weight]
    check_tensors(net)


@dataclass
class Table:
    values: torch.Tensor


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"weights": [1.0] * 100}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (_with_buffer(torch.zeros(3)), r"0\.extra is a buffer"),
        (_with_buffer(torch.zeros(3), persistent=False), r"0\.extra is a buffer"),
        (_with_buffer(torch.zeros(3, dtype=torch.int8)), r"0\.extra is a buffer"),
        (_with(extra=torch.zeros(3)), r"0\.extra is a tensor that is not registered"),
        (_with(extra=[torch.zeros(3)]), r"0\.extra is a tensor that is not registered"),
        (_with(extra={"w": torch.zeros(3)}), r"0\.extra is a tensor that is not registered"),
        (_with(extra=[1, [2, (torch.zeros(3),)]]), r"0\.extra is a tensor that is not registered"),
        (_with(extra={"a": {3: {torch.zeros(3)}}}), r"0\.extra is a tensor that is not registered"),
        (_with(extra=Table(torch.zeros(3))), r"0\.extra is a tensor that is not registered"),
        (_with(extra=[nn.Linear(2, 2)]), r"0\.extra is a tensor that is not registered"),
        (_with(extra=nn.Parameter(torch.zeros(2, dtype=torch.complex64))), r"0\.extra is a Parameter of torch\.complex64"),
        (
            _with(extra=nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)),
            r"0\.extra is a Parameter of torch\.int8",
        ),
        (nn.Sequential(nn.LazyLinear(3)), r"0\.weight is not initialized yet \(lazy\)"),
        (nn.Sequential(nn.LazyBatchNorm1d()), r"0\.running_mean is not initialized yet \(lazy\)"),
        (nn.Sequential(ExtraState(2, 2)), r"0\._extra_state is a hidden entry"),
    ],
)
def test_check_tensors_names_what_is_hidden(net, named):
    with pytest.raises(ConfigError, match=named):
        check_tensors(net)
