"""The one schema of a run: rules + data + model + a list of phases.

Sections are strict and frozen: unknown keys are errors, numbers are not text, and a value that would have no effect beside
the others is refused. Comments give units and what None means. `config` reads, resolves and writes these sections.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=100_000)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # bounds that keep a slip of the finger from hanging the counting of a net
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Range = Annotated[tuple[Probability, Probability], Field(strict=False)]
Zoom = Annotated[float, Field(ge=0.1, le=10)]
Sigma = Annotated[float, Field(gt=0, le=5)]
Views = Literal["none", "flip", "shift", "flip_shift", "r3"]
Point = Annotated[tuple[Probability, Annotated[float, Field(ge=0, le=100)]], Field(strict=False)]
Ints = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
Widths = Annotated[tuple[Width, ...], Field(strict=False)]
Branch = Annotated[tuple[Depth, Width], Field(strict=False)]
Depths = Annotated[tuple[Depth, ...], Field(strict=False)]
Channels = Annotated[tuple[Probability, Probability, Probability], Field(strict=False)]  # red, green, blue
Side = Annotated[int, Field(ge=8, le=512)]  # pixels; the upper bound keeps a slip of the finger from filling the memory
LrFactor = Annotated[float, Field(gt=0, le=10)]


class Section(BaseModel):
    """A strict, frozen part of the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)
    # Settings younger than the first recorded runs. A dump leaves them out while they are at their default, so that the
    # hashes of recorded configs stand.
    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {key: plain[key] for key in plain if key not in self.LATER or getattr(self, key) != fields[key].default}


class Rules(Section):
    """What the competition allows; checked before data is read and again on the checkpoint that makes a submission."""

    max_params: PositiveInt = 5_000_000  # trainable parameters of the submitted net
    pretrained: bool = False  # may weights come from anywhere but this run?
    # May a teacher have started from other weights, or learned from other data? No question where `pretrained` is true.
    pretrained_teacher: Literal["allowed", "forbidden"] = "forbidden"
    rows: PositiveInt | None = 10_000  # images in the unlabelled file; None: any number
    submission: Literal["ID,Labels", "id,label"] = "ID,Labels"  # header; the second writes class names

    LATER = frozenset({"pretrained_teacher"})


class Data(Section):
    """Where images come from and how the training part is split."""

    source: Literal["cifar10", "cifar100", "cifar100_coarse", "digits", "npz", "folder"] = "cifar10"
    root: str | None = None  # folder (or .npz file); None: $CIFAR_SMALL_DATA
    val_size: PositiveInt = 5000  # images held out of the training part, stratified
    split_seed: Seed = 0  # independent of the run's seed: all runs share one validation set
    train_limit: PositiveInt | None = None  # use only this many of the remaining images, stratified


class ResNetModel(Section):
    """BasicBlock ResNet for 32x32 images."""

    family: Literal["resnet"]
    widths: Widths  # channels of each stage, 3 or 4 stages
    blocks: Depths  # BasicBlocks in each stage
    strides: Depths | None = None  # of each stage's first block; None: 1, 2, 2(, 2)
    stem_width: Width | None = None  # None: widths[0]
    shortcut: Literal["conv", "pad"] = "conv"  # option B (1x1 projection) or option A (zero padding)
    preact: bool = False
    activation: Literal["relu", "leaky_relu", "silu", "gelu"] = "relu"
    se_reduction: PositiveInt | None = None  # squeeze-and-excitation in every block
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.0  # drop probability of the last block, linear from 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # before the classifier

    @model_validator(mode="after")
    def _stages_agree(self) -> ResNetModel:
        stages = len(self.widths)
        if stages not in (3, 4):
            raise ValueError(f"widths has {stages} stages; expected 3 or 4")
        for key in ("blocks", "strides"):
            value = getattr(self, key)
            if value is not None and len(value) != stages:
                raise ValueError(f"{key} has {len(value)} entries but widths has {stages}; give one per stage")
        return self


class WideResNetModel(Section):
    """WideResNet (Zagoruyko & Komodakis, 2016)."""

    family: Literal["wideresnet"]
    depth: Depth  # 6n + 4
    widen_factor: Depth
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # between the two convolutions of a block

    @model_validator(mode="after")
    def _depth_fits(self) -> WideResNetModel:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth {self.depth} is not 6n+4; nearest: {max(10, 6 * round((self.depth - 4) / 6) + 4)}")
        return self


class WhitenedStage(Section):
    """One stage: convolution, max pooling by 2, BatchNorm, activation, then one residual block."""

    width: Width
    kernel: Literal[1, 2, 3] = 3  # of the convolution that is pooled; 2 has no padding
    branch: Annotated[
        tuple[Branch, ...], Field(strict=False, min_length=1)
    ]  # the residual: [kernel, channels] of each convolution

    @model_validator(mode="after")
    def _sum_is_possible(self) -> WhitenedStage:
        if any(kernel not in (1, 3) for kernel, _ in self.branch):
            raise ValueError(f"branch {[list(conv) for conv in self.branch]}: kernels must be 1 or 3, which keep the size")
        if self.branch[-1][1] != self.width:
            raise ValueError(f"branch ends with {self.branch[-1][1]} channels but is added to {self.width}, the stage's width")
        return self


class WhitenedResNetModel(Section):
    """A shallow ResNet for short runs: frozen whitening stem, then stages that pool before their BatchNorm."""

    family: Literal["whitened_resnet"]
    stages: Annotated[tuple[WhitenedStage, ...], Field(strict=False, min_length=1, max_length=4)]
    stem_bias: bool = False  # train a bias of the stem; phases may freeze it
    skip: bool = True  # false: the same net without its skip connections, which is no ResNet
    activation: Literal["relu", "leaky_relu", "silu", "gelu"] = "silu"
    head_pool: Literal["max", "max_mean"] = "max"  # of the last stage's map; max_mean: their sum
    logit_scale: Annotated[float, Field(gt=0)] = 1 / 9
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1  # weight of a (micro-)batch in the running statistics
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # before the classifier


class LibraryModel(Section):
    """A net of torchvision or timm with a head of its own; `weights` says what it starts from, `input` what it is given."""

    family: Literal[
        "torchvision/resnet18", "torchvision/resnet50", "torchvision/efficientnet_b0", "torchvision/efficientnet_b2",
        "torchvision/convnext_tiny", "torchvision/mobilenet_v3_small",
        "timm/resnet18", "timm/resnet50", "timm/efficientnet_b0", "timm/efficientnet_b2",
        "timm/convnext_tiny", "timm/mobilenet_v3_small",
    ]  # fmt: skip
    # A linear layer; dropout before it; or besides squeeze-and-excitation of the feature map, before it is pooled.
    head: Literal["plain", "dropout", "se"] = "plain"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # before the classifier; with head dropout and se 0.2 unless given
    stem: Literal["imagenet", "cifar"] = "imagenet"  # cifar: 3x3 at full size, no max-pool; torchvision's ResNets have it

    @model_validator(mode="before")
    @classmethod
    def _dropout_comes_with_the_head(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("head", "plain") != "plain":
            return {"dropout": 0.2, **value}
        return value

    @model_validator(mode="after")
    def _values_have_effect(self) -> LibraryModel:
        if self.head == "plain" and self.dropout:
            raise ValueError(f"dropout {self.dropout:g} has no effect with head plain: set head: dropout, or drop it")
        if self.stem == "cifar" and not self.family.startswith("torchvision/resnet"):
            raise ValueError(f"stem cifar is there for torchvision/resnet18 and torchvision/resnet50, not for {self.family}")
        return self


Model = Annotated[ResNetModel | WideResNetModel | WhitenedResNetModel | LibraryModel, Field(discriminator="family")]


class Input(Section):
    """What the net is given: the 32x32 images, enlarged on the device, and how they are normalised.

    None: as the weights that the run starts from have it; without such weights, what the comment says.
    """

    size: Annotated[Side, Field(ge=32)] | None = None  # pixels a side, in evaluation and where a phase names no other; 32
    interpolation: Literal["bilinear", "bicubic"] | None = None  # of resizing, always with antialiasing; bilinear
    mean: Channels | None = None  # in 0..1; of the training images
    std: Channels | None = None
    # Enlarging: training images are augmented and mixed at 32x32, which costs less, or at the size that the phase trains at.
    # Lengths in `augment` are of the 32x32 image in both cases: a crop of 4 at 224 pixels shifts by up to 28.
    augment: Literal["before", "after"] = "before"

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Input:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)} must be above 0 in every channel")
        return self


class BasicAugment(Section):
    """What the tensor and the torchvision engine share: the crop and flips before, the covered squares after."""

    crop: Annotated[int, Field(ge=0, le=16)] = 4  # pixels of padding before a random 32x32 crop
    pad: Literal["zero", "reflect"] = "zero"
    flip: Literal["none", "random", "alternating"] = "random"  # alternating: every image flips every other epoch
    vertical_flip: Probability = 0.0
    cutout: Annotated[int, Field(ge=0, le=32)] = 0  # side of a square set to the mean
    erasing: Probability = 0.0  # random erasing with the mean
    erasing_scale: Range = (0.02, 0.2)  # share of the image

    # What has an effect only while one of others is on, and what only with certain policies.
    NEEDS: ClassVar[Mapping[str, tuple[str, ...]]] = {"pad": ("crop",), "erasing_scale": ("erasing",)}
    ARGUMENTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def idle(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """The settings that have no effect beside `values` (those not given have their default), each with the reason."""

        def value(key: str) -> Any:
            return values.get(key, cls.model_fields[key].default)

        def off(key: str) -> bool:
            return value(key) in (0, None, (1.0, 1.0), [1.0, 1.0])

        reasons = {}
        for key, masters in cls.NEEDS.items():
            if all(off(master) for master in masters):
                one = masters[0] if len(masters) == 1 else "one"
                state = f"{one} is 0" if len(masters) == 1 else f"{', '.join(masters)} are off"
                reasons[key] = f"{key} has no effect while {state}: set {one} or drop {key}"
        for key, policies in cls.ARGUMENTS.items():
            if value("policy") not in policies:
                given = f"with policy {value('policy')}" if value("policy") else "without a policy"
                reasons[key] = f"{key} has no effect {given}: set policy to {' or '.join(policies)}, or drop {key}"
        return reasons

    @model_validator(mode="after")
    def _values_have_effect(self) -> BasicAugment:
        for key, reason in self.idle(dict(self)).items():
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(reason)
        for key in ("erasing_scale", "scale", "blur_sigma"):
            low, high = getattr(self, key, (1.0, 1.0))
            if not 0 < low <= high:
                raise ValueError(f"{key} {[low, high]} must be [low, high] with 0 < low <= high")
        return self


class Augment(BasicAugment):
    """Per-sample random augmentation of training images, batched on the device.

    In this order: crop, flips, one affine map, the policy, brightness, contrast, saturation, hue, blur, normalisation, cutout
    and erasing. Pixels are floats in 0..255 from the affine map on, clamped but not rounded.
    """

    engine: Literal["tensor"] = "tensor"
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees to either side
    translate: Probability = 0.0  # share of the side, up to which an image moves along each axis
    scale: Annotated[tuple[Zoom, Zoom], Field(strict=False)] = (1.0, 1.0)  # of the content; above 1 it grows
    shear: Annotated[float, Field(ge=0, le=80)] = 0.0  # degrees to either side, along each axis
    border: Literal["zero", "reflect"] = "zero"  # what lies beyond the edge of a moved image; zero: the mean colour
    policy: Literal["trivialaugment", "randaugment"] | None = None
    num_ops: Annotated[int, Field(ge=1, le=10)] = 2  # operations of randaugment on each image
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9  # their strength, of 30
    brightness: Probability = 0.0  # the factor is drawn from 1-x to 1+x, as for contrast and saturation
    contrast: Probability = 0.0
    saturation: Probability = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of the colour circle, to either side
    blur: Probability = 0.0  # share of the images that a Gaussian blurs
    blur_sigma: Annotated[tuple[Sigma, Sigma], Field(strict=False)] = (0.1, 2.0)  # pixels

    LATER = frozenset({
        "engine", "rotation", "translate", "scale", "shear", "border", "policy", "num_ops", "magnitude", "brightness",
        "contrast", "saturation", "hue", "blur", "blur_sigma",
    })  # fmt: skip
    NEEDS = {
        **BasicAugment.NEEDS,
        "border": ("rotation", "translate", "scale", "shear", "policy"),
        "blur_sigma": ("blur",),
    }
    ARGUMENTS = {"num_ops": ("randaugment",), "magnitude": ("randaugment",)}


class AlbumentationsAugment(Section):
    """A pipeline of Albumentations, image by image: nothing but what is written here happens to an image."""

    engine: Literal["albumentations"]
    # Each entry {name: HorizontalFlip, p: 0.5, ...} with the transform's own arguments; OneOf and the like take `transforms`.
    pipeline: Annotated[tuple[Any, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _entries_are_transforms(self) -> AlbumentationsAugment:
        _check_pipeline(self.pipeline, "pipeline")
        try:
            json.dumps(self.pipeline, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"pipeline must hold text, finite numbers, lists and mappings only: {error}") from None
        return self


def _check_pipeline(pipeline: Any, where: str) -> None:
    """What can be said without Albumentations, which takes seconds to import; `per_image` checks names and arguments."""
    if not isinstance(pipeline, list | tuple) or not pipeline:
        raise ValueError(f"{where} must be a list of transforms such as {{name: HorizontalFlip, p: 0.5}}, got {pipeline!r}")
    for index, entry in enumerate(pipeline):
        here = f"{where}.{index}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{here} must be a transform such as {{name: HorizontalFlip, p: 0.5}}, got {entry!r}")
        p = entry.get("p", 1)
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
            raise ValueError(f"{here}.p must be a probability from 0 to 1, got {p!r}")
        if "transforms" in entry:
            _check_pipeline(entry["transforms"], f"{here}.transforms")


class TorchvisionAugment(BasicAugment):
    """A policy of torchvision, image by image, between crop and flips (before it) and cutout and erasing (after it)."""

    engine: Literal["torchvision"]
    policy: Literal["autoaugment_cifar10", "randaugment", "trivialaugment_wide", "augmix"]
    interpolation: Literal["nearest", "bilinear"] | None = None  # None, here and below: as torchvision has it
    num_ops: Annotated[int, Field(ge=1, le=10)] | None = None
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = None
    severity: Annotated[int, Field(ge=1, le=10)] | None = None
    mixture_width: Annotated[int, Field(ge=1, le=10)] | None = None
    chain_depth: Annotated[int, Field(ge=1, le=10)] | None = None
    alpha: Annotated[float, Field(gt=0, le=100)] | None = None
    all_ops: bool | None = None

    ARGUMENTS = {
        "num_ops": ("randaugment",),
        "magnitude": ("randaugment",),
        "severity": ("augmix",),
        "mixture_width": ("augmix",),
        "chain_depth": ("augmix",),
        "alpha": ("augmix",),
        "all_ops": ("augmix",),
    }


def _with_engine(value: Any) -> Any:
    return {"engine": "tensor", **value} if isinstance(value, Mapping) else value


PerImageAugment = AlbumentationsAugment | TorchvisionAugment
AnyAugment = Annotated[
    Annotated[Augment | AlbumentationsAugment | TorchvisionAugment, Field(discriminator="engine")],
    BeforeValidator(_with_engine),
]
AUGMENTS: Mapping[str, type[Section]] = {
    "tensor": Augment,
    "albumentations": AlbumentationsAugment,
    "torchvision": TorchvisionAugment,
}


class SGD(Section):
    """SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    decay: Literal["weights", "all"] = "weights"  # weights: none on 1-d parameters (biases and BatchNorm)
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of the whole gradient
    backbone_lr_factor: LrFactor = 1.0  # of all but the head, relative to lr

    LATER = frozenset({"backbone_lr_factor"})

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0: set momentum, or nesterov: false")
        return self


class Adam(Section):
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or RAdam (Liu et al. 2020), as torch computes them."""

    name: Literal["adam", "adamw", "radam"]
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0  # added to the gradient; decoupled with adamw
    decay: Literal["weights", "all"] = "weights"  # weights: none on 1-d parameters (biases and BatchNorm)
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of the whole gradient
    backbone_lr_factor: LrFactor = 1.0  # of all but the head, relative to lr

    LATER = frozenset({"backbone_lr_factor"})


class Group(Section):
    """SGD with Nesterov momentum for one group of parameters beside Muon."""

    lr: Annotated[float, Field(gt=0, le=10_000)] = 0.1
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.85
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class HeadGroup(Group):
    """The same with weight decay."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4


class Muon(Section):
    """Muon for convolution filters: momentum, orthogonalised; SGD for the rest (Jordan 2024)."""

    name: Literal["muon"]
    lr: Annotated[float, Field(gt=0, le=100)] = 0.24  # of the filters; a schedule scales the groups' rates alike
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.6
    nesterov: bool = True
    iterations: Annotated[int, Field(ge=1, le=20)] = 3  # Newton-Schulz steps towards the nearest orthogonal matrix
    normalise: bool = True  # keep each filter bank at norm sqrt(channels out), so that lr is a relative step
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0  # decoupled, of the filters; only without normalise
    bias: Group = Group()  # 1-d parameters: biases and BatchNorm
    head: HeadGroup = HeadGroup()  # the classifier, and filters that see the image itself
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of the whole gradient

    @model_validator(mode="after")
    def _values_have_effect(self) -> Muon:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0: set momentum, or nesterov: false")
        if self.normalise and self.weight_decay:
            raise ValueError("weight_decay has no effect on filters of fixed norm: drop it, or set normalise: false")
        return self


def _sgd_by_default(value: Any) -> Any:
    return {"name": "sgd", **value} if isinstance(value, dict) else value


Optim = Annotated[SGD | Adam | Muon, Field(discriminator="name"), BeforeValidator(_sgd_by_default)]


class Lookahead(Section):
    """Slow weights that follow the optimiser's every few steps (Zhang et al. 2019, arXiv 1907.08610)."""

    steps: Annotated[int, Field(ge=2)] = 5
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5  # share of the way to the fast weights


class SAM(Section):
    """Sharpness-aware minimisation: the gradient is taken where the loss near the weights is highest; a step costs two."""

    rho: Annotated[float, Field(gt=0)] = 0.05  # radius (Foret et al. 2021, arXiv 2010.01412)
    adaptive: bool = False  # ASAM: relative to each weight's size (Kwon et al. 2021, arXiv 2102.11600); rho is then about 2


class Constant(Section):
    """The base learning rate throughout."""

    name: Literal["constant"]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0


class Cosine(Section):
    """From the base learning rate to `min_lr` along half a cosine."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    min_lr: Annotated[float, Field(ge=0)] = 0.0


class MultiStep(Section):
    """Multiply by `gamma` at each milestone, in epochs from the schedule's start."""

    name: Literal["multistep"]
    milestones: Ints
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0


class CosineRestarts(Section):
    """Half a cosine down to `min_lr`, again and again from the base learning rate (SGDR, Loshchilov & Hutter 2017)."""

    name: Literal["cosine_restarts"]
    period: Annotated[float, Field(gt=0)]  # epochs of the first descent, after the warm-up
    multiplier: Annotated[int, Field(ge=1, le=100)] = 1  # each descent is this many times as long as the one before
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    min_lr: Annotated[float, Field(ge=0)] = 0.0


class OneCycle(Section):
    """Up to the base learning rate and down to almost nothing, each along half a cosine (Smith & Topin 2018)."""

    name: Literal["one_cycle"]
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3  # share of the steps on which it rises
    start_divisor: Annotated[float, Field(gt=1)] = 25.0  # it starts at the base rate divided by this
    end_divisor: Annotated[float, Field(ge=1)] = 1e4  # and ends at the starting rate divided by this


class PiecewiseLinear(Section):
    """The base learning rate times a factor that is linear between points: [[0, 1], [1, 0]] falls linearly to 0."""

    name: Literal["piecewise"]
    points: Annotated[tuple[Point, ...], Field(strict=False, min_length=2)]  # [share of the schedule, factor]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _points_span(self) -> PiecewiseLinear:
        places = [place for place, _ in self.points]
        if places[0] != 0 or places[-1] != 1 or any(after <= before for before, after in pairwise(places)):
            raise ValueError(f"points lie at {places}; their shares must increase from 0 to 1")
        if not any(factor for _, factor in self.points[:-1]):
            raise ValueError("every factor before the last point is 0, so nothing would be learned")
        return self


Schedule = Annotated[Constant | Cosine | MultiStep | CosineRestarts | OneCycle | PiecewiseLinear, Field(discriminator="name")]


MIXINGS = ("mixup_alpha", "cutmix_alpha", "ricap_beta")  # each is 0 while off
IDLE_MIX_PROB = f"mix_prob has no effect while {', '.join(MIXINGS[:-1])} and {MIXINGS[-1]} are 0: set one or drop mix_prob"


def _names(value: Any) -> Any:
    """`freeze: backbone` and `freeze: none`, written without brackets."""
    if isinstance(value, str):
        return () if value == "none" else (value,)
    return value


class Recipe(Section):
    """The settings that a phase may change."""

    optim: Optim = SGD()
    schedule: Schedule = Cosine()
    augment: AnyAugment = Augment()
    mixup_alpha: Probability = 0.0  # of the Beta(alpha, alpha) distribution; 0: off
    cutmix_alpha: Probability = 0.0
    ricap_beta: Probability = 0.0  # of the Beta(beta, beta) distribution of the point where four images meet; 0: off
    mix_prob: Probability = 1.0  # share of the batches that are mixed; with several of the above on, equally many by each
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    resolution: Side | None = None  # pixels a side that the net is trained at, at most those of evaluation; None: these
    lookahead: Lookahead | None = None
    sam: SAM | None = None
    # What does not train: backbone (all but the head), none, or a list of beginnings of parameter names. A BatchNorm frozen
    # as a whole keeps its statistics too.
    freeze: Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_names)] = ()

    LATER = frozenset({"ricap_beta", "resolution", "freeze", "lookahead", "sam"})

    @property
    def mixes(self) -> bool:
        """Whether any mixing of images is on."""
        return any(getattr(self, key) for key in MIXINGS)


class PhaseSettings(Recipe):
    """A whole phase: its length and every setting in force during it."""

    epochs: PositiveInt
    resolution: Side = 32  # pixels a side, resolved
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of every dropout layer in the net

    @model_validator(mode="after")
    def _values_have_effect(self) -> PhaseSettings:
        if "mix_prob" in self.model_fields_set and not self.mixes:
            raise ValueError(IDLE_MIX_PROB)
        return self


class Engine(Section):
    """How the run is computed. Precision, layout and micro-batches are part of the recipe; the rest moves last bits."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast where the hardware has it
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    # torch.compile the training pass; reduce-overhead: with CUDA graphs. It did not pay for
    # the one net tried on a CPU (configs/speed/NOTES.md).
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    threads: PositiveInt | None = None  # CPU threads; None: torch's default
    micro_batch_size: Annotated[int, Field(ge=2)] | None = None  # gradients are accumulated over equal slices
    eval_batch_size: PositiveInt = 500
    sync_batchnorm: bool = False  # among several processes: BatchNorm statistics of all of them together
    checkpoint_steps: PositiveInt | None = None  # also save within an epoch, every so many steps
    workers: Annotated[int, Field(ge=0, le=256)] = 0  # processes that augment image by image; 0: this one; never moves a pixel

    LATER = frozenset({"workers", "sync_batchnorm"})


WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")


class Config(Recipe):
    """A run. Field comments give units; README and configs/ show complete examples."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    seed: Seed = 0
    rules: Rules = Rules()
    data: Data = Data()
    model: Model
    # Where the run starts from: imagenet (as the net's library publishes it), a file (.safetensors, .pth, .pt, .bin), a run
    # directory, or None: from scratch. The head starts anew, but for a run on the same classes.
    weights: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    input: Input = Input()
    batch_size: Annotated[int, Field(ge=2)] = 128  # BatchNorm has no statistics of a single image
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None  # per step; the averaged weights are then the ones used
    phases: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)]
    selection: Literal["best", "last"] = "best"  # which epoch's weights count: best on val, or the last
    patience: PositiveInt | None = None  # stop after this many epochs without a better val accuracy
    views: Views = "none"  # test-time augmentation of predictions; see predict.VIEWS
    engine: Engine = Engine()

    LATER = Recipe.LATER | {"weights", "input"}

    @property
    def side(self) -> int:
        """Pixels a side of the images that the net is evaluated on."""
        return self.input.size or 32

    @property
    def interpolation(self) -> str:
        """How images are resized."""
        return self.input.interpolation or "bilinear"

    @property
    def starts_from_run(self) -> bool:
        """Are the weights those of another run of this toolkit?"""
        return self.weights not in (None, "imagenet") and not str(self.weights).endswith(WEIGHT_FILES)

    def augmented_at(self, resolution: int) -> int:
        """Pixels a side that training images are augmented at, in a phase that trains at `resolution`."""
        return resolution if self.input.augment == "after" else 32

    @model_validator(mode="after")
    def _slices_are_equal(self) -> Config:
        size = self.engine.micro_batch_size
        if size is not None and self.batch_size % size:
            raise ValueError(
                f"engine.micro_batch_size {size} does not divide batch_size {self.batch_size}: BatchNorm would see slices of "
                "different sizes; use a divisor"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_allowed(self) -> Config:
        if self.weights is None:
            return self
        if not self.rules.pretrained:
            raise ValueError(
                f"weights {self.weights} are refused by rules.pretrained: false; train from scratch (weights: null), or set "
                "rules.pretrained: true where the competition allows it"
            )
        if self.weights != "imagenet":
            return self
        if not isinstance(self.model, LibraryModel):
            raise ValueError(
                f"weights imagenet are published for the nets of torchvision and timm, not for {self.model.family}; choose a "
                "family such as torchvision/resnet18, or name a file or a run"
            )
        if self.model.stem == "cifar":
            raise ValueError(
                "weights imagenet belong to a 7x7 stem, which model.stem cifar replaces by 3x3; use stem: imagenet and a "
                "larger input.size, or weights of a run with that stem"
            )
        return self
