"""The three augmentation engines: batched tensors, Albumentations, torchvision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from cifar_small.config.own_code import OWN
from cifar_small.config.schema.base import Probability, Range, Section, Sigma, Zoom
from cifar_small.config.schema.patterns import SHA256

Border = Literal["zero", "reflect"]


class BasicAugment(Section):
    """What the tensor and the torchvision engine share: the crop and flips before, the covered squares after."""

    crop: Annotated[int, Field(ge=0, le=16)] = 4
    """Pixels of padding before a random 32x32 crop; 0: no crop."""
    pad: Border = "zero"
    """What the padding of the crop holds: zero (the mean color) or the image mirrored at its edge."""
    flip: Literal["none", "random", "alternating"] = "random"
    """Mirror left to right: never, with probability 1/2, or alternating: every image in every other epoch."""
    vertical_flip: Probability = 0.0
    """Probability of turning an image upside down."""
    cutout: Annotated[int, Field(ge=0, le=32)] = 0
    """Side in pixels of a square set to the mean color, at a random place; 0: none."""
    erasing: Probability = 0.0
    """Probability of setting a random rectangle to the mean color (random erasing)."""
    erasing_scale: Range = (0.02, 0.2)
    """Smallest and largest area of the erased rectangle, as shares of the image."""

    # What has an effect only while one of others is on, and what only with certain policies.
    REQUIRES: ClassVar[Mapping[str, tuple[str, ...]]] = {"pad": ("crop",), "erasing_scale": ("erasing",)}
    ARGUMENTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def ineffective(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """The settings that have no effect beside `values` (those not given have their default), each with the reason."""

        def value(key: str) -> Any:
            return values.get(key, cls.model_fields[key].default)

        def off(key: str) -> bool:
            return value(key) in (0, None, (1.0, 1.0), [1.0, 1.0])

        reasons = {}
        for key, masters in cls.REQUIRES.items():
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
        for key, reason in self.ineffective(dict(self)).items():
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(reason)
        for key in ("erasing_scale", "scale", "blur_sigma"):
            low, high = getattr(self, key, (1.0, 1.0))
            if not 0 < low <= high:
                raise ValueError(f"{key} {[low, high]} must be [low, high] with 0 < low <= high")
        return self


class Augment(BasicAugment):
    """Per-sample random augmentation of training images, batched on the device.

    In this order: crop, flips, one affine map, the policy, brightness, contrast, saturation, hue, blur, normalization, cutout
    and erasing. Pixels are floats in 0..255 from the affine map on, clamped but not rounded.
    """

    engine: Literal["tensor"] = "tensor"
    """Batched operations on tensors, on the device of the run; the default."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation in degrees, to either side."""
    translate: Probability = 0.0
    """Largest shift along each axis, as a share of the side."""
    scale: Annotated[tuple[Zoom, Zoom], Field(strict=False)] = (1.0, 1.0)
    """Smallest and largest factor by which the content is resized; above 1 it grows."""
    shear: Annotated[float, Field(ge=0, le=80)] = 0.0
    """Largest shear in degrees to either side, along each axis."""
    border: Border = "zero"
    """What fills pixels beyond the edge of a moved image: zero (the mean color) or the image mirrored."""
    policy: Literal["trivialaugment", "randaugment"] | None = None
    """A published policy with random operations: trivialaugment or randaugment."""
    num_ops: Annotated[int, Field(ge=1, le=10)] = 2
    """Operations of randaugment on each image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of randaugment's operations, of 30."""
    brightness: Probability = 0.0
    """The factor of brightness is drawn from 1-x to 1+x."""
    contrast: Probability = 0.0
    """The factor of contrast is drawn from 1-x to 1+x."""
    saturation: Probability = 0.0
    """The factor of saturation is drawn from 1-x to 1+x."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of hue to either side, as a share of the color circle."""
    blur: Probability = 0.0
    """Share of the images that a Gaussian blurs."""
    blur_sigma: Annotated[tuple[Sigma, Sigma], Field(strict=False)] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels."""

    OMIT_DEFAULT = frozenset({
        "engine", "rotation", "translate", "scale", "shear", "border", "policy", "num_ops", "magnitude", "brightness",
        "contrast", "saturation", "hue", "blur", "blur_sigma",
    })  # fmt: skip
    REQUIRES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **BasicAugment.REQUIRES,
        "border": ("rotation", "translate", "scale", "shear", "policy"),
        "blur_sigma": ("blur",),
    }
    ARGUMENTS: ClassVar[Mapping[str, tuple[str, ...]]] = {"num_ops": ("randaugment",), "magnitude": ("randaugment",)}


class AlbumentationsAugment(Section):
    """A pipeline of Albumentations, image by image: nothing but what is written here happens to an image."""

    engine: Literal["albumentations"]
    """A pipeline of Albumentations, image by image."""
    pipeline: Annotated[tuple[Any, ...], Field(strict=False)]
    """Transforms, each {name: HorizontalFlip, p: 0.5, ...} with its own arguments; OneOf and the like take `transforms`."""

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
    """A policy of torchvision, image by image."""
    policy: Literal["autoaugment_cifar10", "randaugment", "trivialaugment_wide", "augmix"]
    """The policy, by torchvision's name."""
    interpolation: Literal["nearest", "bilinear"] | None = None
    """How pixels of moved images are found; null: as torchvision has it."""
    num_ops: Annotated[int, Field(ge=1, le=10)] | None = None
    """Operations of randaugment on each image; null: as torchvision has it."""
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = None
    """Strength of randaugment's operations, of 30; null: as torchvision has it."""
    severity: Annotated[int, Field(ge=1, le=10)] | None = None
    """Strength below which those of augmix's operations are drawn, of 10: 1 moves no pixel; null: as torchvision has it."""
    mixture_width: Annotated[int, Field(ge=1, le=10)] | None = None
    """Chains of operations that augmix mixes; null: as torchvision has it."""
    chain_depth: Annotated[int, Field(ge=1, le=10)] | None = None
    """Operations in each chain of augmix; null: as torchvision has it."""
    alpha: Annotated[float, Field(gt=0, le=100)] | None = None
    """Parameter of the distributions that draw augmix's weights; null: as torchvision has it."""
    all_ops: bool | None = None
    """Does augmix also use brightness, contrast, color and sharpness? null: as torchvision has it."""

    ARGUMENTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "num_ops": ("randaugment",),
        "magnitude": ("randaugment",),
        "severity": ("augmix",),
        "mixture_width": ("augmix",),
        "chain_depth": ("augmix",),
        "alpha": ("augmix",),
        "all_ops": ("augmix",),
    }


class OwnAugment(Section):
    """A function of the user's own on whole batches: nothing but what it does happens to an image.

    Called as f(images, generator, **arguments) with uint8 (B, 3, H, W) on the run's device and a torch.Generator of the CPU,
    from which all its random numbers must come; returns uint8 of the same shape.
    """

    engine: str
    """A function of the user's own: my_ops.py:function, by its path from the current folder, or package.module:function."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the function is called with, beside images and generator."""
    sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """SHA-256 of the file, which is found when a config is read."""

    TAG = "own"

    @field_validator("engine")
    @classmethod
    def _names_a_function(cls, engine: str) -> str:
        if not OWN.fullmatch(engine):
            known = ", ".join([*AUGMENTS, "my_ops.py:function", "package.module:function"])
            raise ValueError(f"expected one of {known}, got {engine!r}")
        return engine


def _with_engine(value: Any) -> Any:
    return {"engine": "tensor", **value} if isinstance(value, Mapping) else value


def _kind(value: Any) -> str:
    """Which section a mapping of `augment` is of; what no other claims is the user's own, or a mistake it names."""
    engine = value.get("engine") if isinstance(value, Mapping) else getattr(value, "engine", None)
    return engine if isinstance(engine, str) and engine in AUGMENTS else "own"


PerImageAugment = AlbumentationsAugment | TorchvisionAugment
AnyAugment = Annotated[
    Annotated[
        Annotated[Augment, Tag("tensor")]
        | Annotated[AlbumentationsAugment, Tag("albumentations")]
        | Annotated[TorchvisionAugment, Tag("torchvision")]
        | Annotated[OwnAugment, Tag("own")],
        Discriminator(_kind),
    ],
    BeforeValidator(_with_engine),
]
AUGMENTS: Mapping[str, type[Section]] = {
    "tensor": Augment,
    "albumentations": AlbumentationsAugment,
    "torchvision": TorchvisionAugment,
}
