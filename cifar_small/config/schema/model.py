"""The nets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from cifar_small.config.own_code import OWN
from cifar_small.config.published import PUBLISHED
from cifar_small.config.schema.base import Branch, Depth, Depths, PositiveInt, Section, Width, Widths
from cifar_small.config.schema.patterns import LIBRARY, SHA256
from cifar_small.wording import plural

Shortcut = Literal["conv", "pad"]


class ResNetModel(Section):
    """BasicBlock ResNet for 32x32 images."""

    family: Literal["resnet"]
    """A ResNet of BasicBlocks for 32x32 images."""
    widths: Widths
    """Channels of each of 3 or 4 stages."""
    blocks: Depths
    """BasicBlocks in each stage."""
    strides: Depths | None = None
    """Stride of each stage's first block; null: 1, then 2."""
    stem_width: Width | None = None
    """Channels of the first convolution; null: as the first stage."""
    shortcut: Shortcut = "conv"
    """Where a block changes the shape: conv, a 1x1 projection (option B), or pad, zeros (option A)."""
    preact: bool = False
    """BatchNorm and activation before each convolution (He et al. 2016, v2)?"""
    activation: Literal["relu", "leaky_relu", "silu", "gelu"] = "relu"
    """The nonlinearity."""
    se_reduction: PositiveInt | None = None
    """Squeeze-and-excitation in every block, by this factor of reduction; null: none."""
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of skipping the last block in training; earlier blocks less, linearly from 0."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropout before the classifier."""

    @model_validator(mode="after")
    def _stages_agree(self) -> ResNetModel:
        stages = len(self.widths)
        if stages not in (3, 4):
            raise ValueError(f"widths has {plural(stages, 'stage')}; expected 3 or 4")
        for key in ("blocks", "strides"):
            value = getattr(self, key)
            if value is not None and len(value) != stages:
                raise ValueError(
                    f"{key} has {plural(len(value), 'entry', 'entries')} but widths has {stages}; give one per stage"
                )
        return self


class WideResNetModel(Section):
    """WideResNet (Zagoruyko & Komodakis, 2016)."""

    family: Literal["wideresnet"]
    """A WideResNet (Zagoruyko & Komodakis 2016)."""
    depth: Depth
    """Layers: 6n + 4, such as 16, 22, 28."""
    widen_factor: Depth
    """Channels of the stages: 16, 32 and 64 times this."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropout between the two convolutions of a block."""

    @model_validator(mode="after")
    def _depth_fits(self) -> WideResNetModel:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth {self.depth} is not 6n+4; nearest: {max(10, 6 * round((self.depth - 4) / 6) + 4)}")
        return self


class WhitenedStage(Section):
    """One stage: convolution, max pooling by 2, BatchNorm, activation, then one residual block."""

    width: Width
    """Channels of the stage."""
    kernel: Literal[1, 2, 3] = 3
    """Side of the convolution that is pooled; 2 has no padding."""
    branch: Annotated[tuple[Branch, ...], Field(strict=False, min_length=1)]
    """The residual branch: [kernel, channels] of each of its convolutions."""

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
    """A shallow ResNet for short runs, behind a stem that whitens patches."""
    stages: Annotated[tuple[WhitenedStage, ...], Field(strict=False, min_length=1, max_length=4)]
    """Its stages, each {width: 64, kernel: 3, branch: [[3, 64]]}."""
    whiten: bool = True
    """Is the stem computed from training images and frozen? false: it trains like any, from a random draw."""
    stem_bias: bool = False
    """Train a bias of the stem; phases may freeze it."""
    dirac: bool = True
    """Do padded convolutions begin by passing their input through? false: they begin as drawn."""
    skip: bool = True
    """Does it have skip connections? false: the same net without them, which is no ResNet."""
    activation: Literal["relu", "leaky_relu", "silu", "gelu"] = "silu"
    """The nonlinearity."""
    head_pool: Literal["max", "max_mean"] = "max"
    """Pooling of the last stage's map: its maximum, or max_mean: the sum of maximum and mean."""
    logit_scale: Annotated[float, Field(gt=0)] = 1 / 9
    """Factor on the logits."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of each (micro-)batch in BatchNorm's running statistics."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropout before the classifier."""

    OMIT_DEFAULT = frozenset({"whiten", "dirac"})


class LibraryModel(Section):
    """A net of torchvision or timm with a head of its own; `weights` says what it starts from, `input` what it is given."""

    TAG = "library"

    family: Annotated[str, Field(pattern=LIBRARY)]
    """A net by its library's name: torchvision/NAME or timm/NAME; docs/transfer.md says which were tried."""
    head: Literal["plain", "dropout", "se"] = "plain"
    """The classifier: a linear layer, dropout before it, or besides squeeze-and-excitation before the pooling."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropout before the classifier; 0.2 with head dropout and se, which it needs."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """cifar: a 3x3 convolution at full size and no max-pooling, for torchvision's ResNets; imagenet: as published."""

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
        if self.stem == "cifar" and not re.fullmatch(r"torchvision/resnet\d+", self.family):
            raise ValueError(f"stem cifar is there for torchvision/resnet18, resnet34 and larger ones, not for {self.family}")
        return self


class OwnModel(Section):
    """A net of the user's own: a class of a Python file or an installed module, called with num_classes and the arguments."""

    family: str = ""
    """A class of the user's own: my_nets.py:Net, by its path from the current folder, or package.module:Net."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the class is called with, beside num_classes."""
    sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """SHA-256 of the file, which is found when a config is read."""

    TAG = "own"
    dropout: ClassVar[float] = 0.0  # which phases cannot change

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # arguments may be lists and mappings

    @field_validator("family")
    @classmethod
    def _names_a_class(cls, family: str) -> str:
        if not OWN.fullmatch(family):
            known = ", ".join([*FAMILIES, "torchvision/NAME", "timm/NAME", "my_nets.py:Net", "package.module:Net"])
            raise ValueError(f"expected one of {known}{_meant_by(family)}")
        return family


FAMILIES = ("resnet", "wideresnet", "whitened_resnet")


def _meant_by(family: str) -> str:
    """What was given in place of a family, and which family is like it, in words; empty where nothing was given."""
    if not family:
        return ""
    word = family.lower().replace("-", "_")
    published = next((name for name in PUBLISHED if name.endswith(f"/{word}")), "")
    own = difflib.get_close_matches(word, FAMILIES, 1)
    names = [f'"{name}"' for name in (published, *own) if name]
    meant = " or ".join(names) + (", described by its sizes" if published and own else "")
    return f", got {family!r}" + (f"; did you mean {meant}?" if meant else "")


def _kind(value: Any) -> str:
    """Which section a mapping of `model` is of; what no other claims is a net of the user's own, or a mistake it names."""
    family = value.get("family") if isinstance(value, Mapping) else getattr(value, "family", None)
    if family in FAMILIES:
        return str(family)
    return "library" if isinstance(family, str) and re.match(LIBRARY, family) else "own"


Model = Annotated[
    Annotated[ResNetModel, Tag("resnet")]
    | Annotated[WideResNetModel, Tag("wideresnet")]
    | Annotated[WhitenedResNetModel, Tag("whitened_resnet")]
    | Annotated[LibraryModel, Tag("library")]
    | Annotated[OwnModel, Tag("own")],
    Discriminator(_kind),
]
