"""The one schema of a run: rules + data + model + a list of phases.

Sections are strict and frozen: unknown keys are errors, numbers are not text, and a value that would have no effect beside
the others is refused. Comments give units and what None means. `config` reads, resolves and writes these sections.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=100_000)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # bounds that keep a slip of the finger from hanging the counting of a net
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Views = Literal["none", "flip", "shift", "flip_shift", "r3"]
Point = Annotated[tuple[Probability, Annotated[float, Field(ge=0, le=100)]], Field(strict=False)]
Ints = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
Widths = Annotated[tuple[Width, ...], Field(strict=False)]
Branch = Annotated[tuple[Depth, Width], Field(strict=False)]
Depths = Annotated[tuple[Depth, ...], Field(strict=False)]


class Section(BaseModel):
    """A strict, frozen part of the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


class Rules(Section):
    """What the competition allows; checked before data is read and again on the checkpoint that makes a submission."""

    max_params: PositiveInt = 5_000_000  # trainable parameters of the submitted net
    pretrained: bool = False  # may weights come from anywhere but this run?
    rows: PositiveInt | None = 10_000  # images in the unlabelled file; None: any number
    submission: Literal["ID,Labels", "id,label"] = "ID,Labels"  # header; the second writes class names


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


Model = Annotated[ResNetModel | WideResNetModel | WhitenedResNetModel, Field(discriminator="family")]


class Augment(Section):
    """Per-sample random augmentation of training images, batched on the device."""

    crop: Annotated[int, Field(ge=0, le=16)] = 4  # pixels of padding before a random 32x32 crop
    pad: Literal["zero", "reflect"] = "zero"
    flip: Literal["none", "random", "alternating"] = "random"  # alternating: every image flips every other epoch
    vertical_flip: Probability = 0.0
    cutout: Annotated[int, Field(ge=0, le=32)] = 0  # side of a square set to the mean
    erasing: Probability = 0.0  # random erasing with the mean
    erasing_scale: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.02, 0.2)  # share of the image

    @model_validator(mode="after")
    def _values_have_effect(self) -> Augment:
        if "pad" in self.model_fields_set and not self.crop:
            raise ValueError("pad has no effect while crop is 0: set crop or drop pad")
        if "erasing_scale" in self.model_fields_set and not self.erasing:
            raise ValueError("erasing_scale has no effect while erasing is 0: set erasing or drop erasing_scale")
        if not 0 < self.erasing_scale[0] <= self.erasing_scale[1]:
            raise ValueError(f"erasing_scale {list(self.erasing_scale)} must be [low, high] with 0 < low <= high")
        return self


class SGD(Section):
    """SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    decay: Literal["weights", "all"] = "weights"  # weights: none on 1-d parameters (biases and BatchNorm)
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of the whole gradient

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


class Group(Section):
    """SGD with Nesterov momentum for one group of parameters beside Muon."""

    lr: Annotated[float, Field(gt=0, le=10_000)]
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.85
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Muon(Section):
    """Muon for convolution filters: momentum, orthogonalised; SGD for the rest (Jordan 2024)."""

    name: Literal["muon"]
    lr: Annotated[float, Field(gt=0, le=100)] = 0.24  # of the filters; a schedule scales the groups' rates alike
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.6
    nesterov: bool = True
    iterations: Annotated[int, Field(ge=1, le=20)] = 3  # Newton-Schulz steps towards the nearest orthogonal matrix
    normalise: bool = True  # keep each filter bank at norm sqrt(channels out), so that lr is a relative step
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0  # decoupled, of the filters; only without normalise
    bias: Group = Group(lr=0.1)  # 1-d parameters: biases and BatchNorm
    head: Group = Group(lr=0.1, weight_decay=5e-4)  # the classifier, and filters that see the image itself
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


IDLE_MIX_PROB = "mix_prob has no effect while mixup_alpha and cutmix_alpha are 0: set one or drop mix_prob"


class Recipe(Section):
    """The settings that a phase may change."""

    optim: Optim = SGD()
    schedule: Schedule = Cosine()
    augment: Augment = Augment()
    mixup_alpha: Probability = 0.0  # of the Beta(alpha, alpha) distribution; 0: off
    cutmix_alpha: Probability = 0.0
    mix_prob: Probability = 1.0  # share of the batches that are mixed; with both alphas on, half of them by each
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    resolution: Annotated[int, Field(ge=8, le=32)] = 32  # pixels a side that the net is trained at
    lookahead: Lookahead | None = None
    sam: SAM | None = None
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = ()  # parameters whose names start so do not train


class PhaseSettings(Recipe):
    """A whole phase: its length and every setting in force during it."""

    epochs: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of every dropout layer in the net

    @model_validator(mode="after")
    def _values_have_effect(self) -> PhaseSettings:
        if "mix_prob" in self.model_fields_set and not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError(IDLE_MIX_PROB)
        return self


class Engine(Section):
    """How the run is computed. Precision, layout and micro-batches are part of the recipe; the rest moves last bits."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast where the hardware has it
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    # torch.compile the training pass; reduce-overhead: with CUDA graphs. On a CPU it has not paid within an hour's run.
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    threads: PositiveInt | None = None  # CPU threads; None: torch's default
    micro_batch_size: Annotated[int, Field(ge=2)] | None = None  # gradients are accumulated over equal slices
    eval_batch_size: PositiveInt = 500
    sync_batchnorm: bool = False  # among several processes: BatchNorm statistics of all of them together
    checkpoint_steps: PositiveInt | None = None  # also save within an epoch, every so many steps


class Config(Recipe):
    """A run. Field comments give units; README and configs/ show complete examples."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    seed: Seed = 0
    rules: Rules = Rules()
    data: Data = Data()
    model: Model
    batch_size: Annotated[int, Field(ge=2)] = 128  # BatchNorm has no statistics of a single image
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None  # per step; the averaged weights are then the ones used
    phases: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)]
    selection: Literal["best", "last"] = "best"  # which epoch's weights count: best on val, or the last
    patience: PositiveInt | None = None  # stop after this many epochs without a better val accuracy
    views: Views = "none"  # test-time augmentation of predictions; see predict.VIEWS
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _slices_are_equal(self) -> Config:
        size = self.engine.micro_batch_size
        if size is not None and self.batch_size % size:
            raise ValueError(
                f"engine.micro_batch_size {size} does not divide batch_size {self.batch_size}: BatchNorm would see slices of "
                "different sizes; use a divisor"
            )
        return self
