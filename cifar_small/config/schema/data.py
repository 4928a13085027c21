"""What is allowed, which images there are, and what of them a net is given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, assert_never

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from cifar_small.config.schema.base import Channels, PositiveInt, Section, Seed, Side
from cifar_small.config.schema.patterns import FIRST_ID, HEADER, ID_PREFIX, ID_SUFFIX

VIEW_SETS = ("none", "flip", "shift", "flip_shift", "flips_shift_blur", "random_crops")


def split_views(views: str) -> tuple[str, float]:
    """A choice of views as its set and the share of the images that are given the whole set: `flip_shift@0.25`, or `flip`.

    Raises ValueError for anything else.
    """
    name, at, share = views.partition("@")
    if name not in VIEW_SETS:
        raise ValueError(f"expected one of {', '.join(VIEW_SETS)}, got {name!r}")
    if not at:
        return name, 1.0
    try:
        number = float(share)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise ValueError(f"share must be a number above 0 and below 1, such as {name}@0.25, got {share!r}")
    if name == "none":
        raise ValueError("share has no effect with the set none: drop it, or choose another set")
    return name, number


def views_name(value: Any) -> str:
    """A choice of views as records have it, `flip_shift@0.25`; from that or from `{set: flip_shift, share: 0.25}`.

    Raises ValueError for anything else.
    """
    if isinstance(value, Mapping):
        if value.keys() != {"set", "share"}:
            raise ValueError(f"expected {{set: flip_shift, share: 0.25}}, or one of {', '.join(VIEW_SETS)}")
        value = f"{value['set']}@{value['share']}"
    if not isinstance(value, str):
        raise ValueError(f"expected one of {', '.join(VIEW_SETS)}, or {{set: flip_shift, share: 0.25}}")
    name, share = split_views(value)
    if share == 1:
        return name
    short = f"{share:g}"
    return f"{name}@{short if float(short) < 1 else share}"  # six digits round 0.9999999 to 1, which is no share


_VIEWS_SCHEMA = {"anyOf": [{"enum": list(VIEW_SETS)}, {"type": "string"}, {"type": "object"}]}
Views = Annotated[str, BeforeValidator(views_name), WithJsonSchema(_VIEWS_SCHEMA)]

LabelKind = Literal["numbers", "names"]
_LABELS: Mapping[str, LabelKind] = {"ID,Labels": "numbers", "id,label": "names"}


class Rules(Section):
    """What the competition allows; checked before data is read and again on the checkpoint that makes a submission."""

    max_params: PositiveInt = 5_000_000
    """Trainable parameters that the submitted net may have at most."""
    pretrained: bool = False
    """Allow weights from elsewhere; those of a from-scratch run on the same training images are always allowed."""
    pretrained_teacher: Literal["allowed", "forbidden"] = "forbidden"
    """May a teacher have started from weights from elsewhere? Ignored where `pretrained` is true."""
    rows: PositiveInt | None = 10_000
    """Images in the unlabelled file; null: any number."""
    submission: Annotated[str, Field(pattern=HEADER)] = "ID,Labels"
    """Header of the CSV: two columns, of ids and of labels."""
    labels: LabelKind | None = None
    """Does the CSV number the classes or name them? null: numbers under ID,Labels, names under id,label."""
    ids: Annotated[str, Field(pattern=FIRST_ID)] = "0"
    """How the CSV writes id 0, such as 00000.png or img-0."""

    OMIT_DEFAULT = frozenset({"pretrained_teacher", "labels", "ids"})

    @model_validator(mode="after")
    def _labels_are_known(self) -> Rules:
        if self.labels is None and self.submission not in _LABELS:
            raise ValueError(f"submission {self.submission!r} does not say what labels are: set labels to numbers or names")
        return self

    @property
    def in_names(self) -> bool:
        """Does a submission name the classes, instead of numbering them?"""
        match self.labels or _LABELS[self.submission]:
            case "names":
                return True
            case "numbers":
                return False
            case unknown:
                assert_never(unknown)

    def unsafe_name(self, classes: Sequence[str]) -> str | None:
        """Which class a submission of names could not name, in words; None: it could name all, or numbers them."""
        unsafe = [name for name in classes if not UNQUOTED.fullmatch(name) or not name.isprintable()] if self.in_names else []
        if not unsafe:
            return None
        return (
            f"class name {unsafe[0]!r} cannot stand in a CSV of names (rules.submission {self.submission}); expected names "
            "without comma, quotation mark, line end, a blank at an end, or one of = + - @ in front"
        )

    def id_text(self, number: int) -> str:
        """An id as a submission writes it."""
        prefix, zeros, suffix = self.id_parts
        return f"{prefix}{number:0{len(zeros)}d}{suffix}"

    def id_number(self, text: str) -> int | None:
        """The id that a submission writes so; None if it would write no id so."""
        prefix, _, suffix = self.id_parts
        digits = text.removeprefix(prefix).removesuffix(suffix)
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits) < 2**63):
            return None
        return int(digits) if self.id_text(int(digits)) == text else None

    @property
    def id_parts(self) -> tuple[str, str, str]:
        """What stands before the number, its zeros, and what stands after it."""
        found = re.fullmatch(rf"({ID_PREFIX})(0+)({ID_SUFFIX})", self.ids)
        assert found is not None, self.ids
        return found[1], found[2], found[3]


UNQUOTED = re.compile(r'[^=+\-@,"\s][^,"]*(?<!\s)')  # text that stands in a CSV as it is, and is no formula of a spreadsheet


SourceName = Literal["cifar10", "cifar100", "cifar100_coarse", "digits", "npz", "folder"]


class SourceFacts(NamedTuple):
    """What is known of a data source without reading it; None: nothing before it is read."""

    title: str | None = None
    classes: int | None = None
    train_images: int | None = None
    hub: str | None = None  # name of the dataset on the hub


SOURCES: Mapping[SourceName, SourceFacts] = {
    "cifar10": SourceFacts("CIFAR-10", 10, 50_000, "uoft-cs/cifar10"),
    "cifar100": SourceFacts("CIFAR-100", 100, 50_000, "uoft-cs/cifar100"),
    "cifar100_coarse": SourceFacts("CIFAR-100 with its 20 coarse classes", 20, 50_000, "uoft-cs/cifar100"),
    "digits": SourceFacts("scikit-learn's handwritten digits, enlarged to 32x32", 10, 1437),
    "npz": SourceFacts(),
    "folder": SourceFacts(),
}


class Data(Section):
    """Where images come from and how the training part is split."""

    source: SourceName = "cifar10"
    """Which images: a published set by name, or npz or folder: your own at `root`."""
    root: str | None = None
    """Folder of the data (of npz: the file); null: $CIFAR_SMALL_DATA, or a download to ~/.cache/cifar_small."""
    val_size: PositiveInt = 5000
    """Images of the training part that are held out as val, stratified by class."""
    split_seed: Seed = 0
    """Draws the val images; independent of the run's seed, so that all runs share one val."""
    train_limit: PositiveInt | None = None
    """Train on only this many of the remaining images, stratified by class; null: on all."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The order of the classes, which numbers them; empty: as the source has them."""
    layout: Literal["auto", "HWC"] = "auto"
    """HWC: take the images as they were read; auto: refuse them where their pixels look smoother in another order of memory."""

    OMIT_DEFAULT = frozenset({"classes", "layout"})

    @property
    def num_classes(self) -> int | None:
        """How many classes, as the config alone says; None for npz and folder without `classes`, which only the data tells."""
        return len(self.classes) or SOURCES[self.source].classes


class Input(Section):
    """What the net is given: images at which size (32x32 ones enlarged on the device), and how they are normalized.

    null: as the weights that the run starts from have it; without such weights, what the text of the setting says.
    """

    size: Annotated[Side, Field(ge=32)] | None = None
    """Pixels per side in evaluation, and in phases that name no `resolution`; null: as the weights expect, else 32."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How images are resized, always with antialiasing; null: as the weights expect, else bilinear."""
    mean: Channels | None = None
    """Mean of each channel, 0..1, that is subtracted; null: as the weights expect, else of the training images. With std."""
    std: Channels | None = None
    """Standard deviation of each channel that the input is divided by; null: as for `mean`."""
    augment: Literal["before", "after"] = "before"
    """Are images augmented and mixed before they are resized, as they are stored (at 32x32: which costs less), or after it?

    After needs a size above 32. Lengths in `augment` are of the 32x32 image in both cases: a crop of 4 at 224 pixels shifts by
    up to 28.
    """

    @model_validator(mode="after")
    def _normalization_is_whole(self) -> Input:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)} must be above 0 in every channel")
        return self
