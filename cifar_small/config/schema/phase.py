"""What a phase may change, and a whole phase."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from cifar_small.config.schema.augment import AnyAugment, Augment
from cifar_small.config.schema.base import BetaParameter, Epochs, PositiveInt, Probability, Section, Side
from cifar_small.config.schema.optim import SAM, SGD, Lookahead, Optim
from cifar_small.config.schema.schedule import Cosine, Schedule

CachedViews = Annotated[int, Field(ge=1, le=1000)]


class Distill(Section):
    """Learn from trained nets beside the labels: (1 - kd_weight) cross-entropy + kd_weight T^2 KL(teachers || net).

    Both sides of the divergence are softened by the temperature T; several teachers count by the mean of their probabilities
    (Hinton et al. 2015, arXiv 1503.02531).
    """

    OMIT_DEFAULT = frozenset({"cached_views"})

    teachers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Run directories, or an ONNX file in one (int8.onnx, on the CPU); each predicts the pixels of every step. Or else
    `predictions`."""
    predictions: str | None = None
    """In place of teachers: a predictions file of the training images."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Temperature: logits of teachers and net are divided by it before the softmax."""
    kd_weight: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Weight of the loss against the teachers; the loss against the labels has 1 - kd_weight."""
    cached_views: CachedViews | None = None
    """Augmented views of every image that teachers predict once, which epochs then show in turn; null: anew in every step.

    What a teacher takes is then that of so many epochs, however many there are. Mixed batches come again whole, reordered.
    """

    @model_validator(mode="after")
    def _one_kind_of_teacher(self) -> Distill:
        if bool(self.teachers) == (self.predictions is not None):
            raise ValueError(
                "give either teachers, a list of run directories, or predictions, a file over the training images; "
                f"got {'both' if self.teachers else 'neither'}"
            )
        if self.cached_views is not None and self.predictions is not None:
            raise ValueError(
                f"cached_views {self.cached_views} has no effect beside predictions, which are computed already: set it to "
                "null (it may come from the phase before), or give teachers"
            )
        return self


class Select(Section):
    """Train on the hardest share of each batch alone, as a trained net, the proxy, finds it (after Jordan 2024, airbench96).

    The proxy predicts the pixels of every step, augmented and mixed; those of the highest cross-entropy go through the net.
    It pays where the proxy is far cheaper than the net.
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    """Share of each batch that is trained on, the hardest images."""
    proxy: Annotated[str, Field(min_length=1)]
    """Run directory of the net that ranks the images by its loss, or an ONNX file in one."""

    def images_of(self, batch: int) -> int:
        """How many of so many images are trained on, at least one."""
        return max(1, round(self.share * batch))


def divides_evenly(images: int, micro_batch: int) -> bool:
    """Can so many images be cut into equal slices of micro_batch_size, or do they fit into a single one?"""
    return images <= micro_batch or images % micro_batch == 0


class SWA(Section):
    """Stochastic weight averaging: the mean of several epochs' weights is used (Izmailov et al. 2018, arXiv 1803.05407).

    Meant for a learning rate that stays high. The average gets BatchNorm statistics of its own, of training images as they are.
    """

    every: PositiveInt = 1
    """Epochs between the weights that are averaged, counted from the phase's start."""


MIXINGS = ("mixup_alpha", "cutmix_alpha", "ricap_beta")  # each is 0 while off
MIX_KINDS = {name.partition("_")[0]: name for name in MIXINGS}
INEFFECTIVE_MIX_PROB = (
    f"mix_prob has no effect while {', '.join(MIXINGS[:-1])} and {MIXINGS[-1]} are 0: set one or drop mix_prob"
)


class MixProbs(Section):
    """Shares of the batches, one for each kind of mixing that is on; what they leave is not mixed."""

    mixup: Probability = 0.0
    """Share of the batches that mixup mixes."""
    cutmix: Probability = 0.0
    """Share of the batches that CutMix mixes."""
    ricap: Probability = 0.0
    """Share of the batches that RICAP mixes."""

    @model_validator(mode="after")
    def _shares(self) -> MixProbs:
        total = sum(getattr(self, kind) for kind in MIX_KINDS)
        if not total:
            raise ValueError("expected a share of the batches for a kind that is on, such as {mixup: 0.3}; or drop mix_probs")
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of the batches add up to {total:g}; they must not exceed 1")
        return self


def _names(value: Any) -> Any:
    """`freeze: backbone` and `freeze: none`, written without brackets."""
    if isinstance(value, str):
        return () if value == "none" else (value,)
    return value


_NAMES_SCHEMA = {"anyOf": [{"enum": ["none", "backbone"]}, {"type": "array", "items": {"type": "string"}}]}


class Recipe(Section):
    """The settings that a phase may change."""

    optim: Optim = SGD()
    """The optimizer and its learning rate."""
    schedule: Schedule = Cosine()
    """Learning-rate schedule, from the phase that sets it until a phase sets another."""
    augment: AnyAugment = Augment()
    """Augmentation of training images."""
    mixup_alpha: BetaParameter = 0.0
    """Mixup: Beta(alpha, alpha) draws the share of the first of two images; 0: off."""
    cutmix_alpha: BetaParameter = 0.0
    """CutMix: Beta(alpha, alpha) draws the share of the area that stays; 0: off."""
    ricap_beta: BetaParameter = 0.0
    """RICAP: Beta(beta, beta) draws the point where four images meet; 0: off."""
    mix_prob: Probability = 1.0
    """Share of the batches that are mixed, in equal parts by each kind that is on. Not beside mix_probs."""
    mix_probs: MixProbs | None = None
    """In place of mix_prob: a share of the batches for each kind of mixing that is on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes. Without effect where distill.kd_weight is 1."""
    resolution: Side | None = None
    """Pixels per side of training images, at most those of evaluation; null: as many."""
    lookahead: Lookahead | None = None
    """Slow weights that follow the optimizer's (Lookahead); null: none."""
    sam: SAM | None = None
    """Sharpness-aware minimization, two passes a step; null: off."""
    distill: Distill | None = None
    """Learning from trained nets; null: from labels alone."""
    select: Select | None = None
    """Train on the hardest share of each batch alone, as a small proxy net ranks it; null: on all."""
    swa: SWA | None = None
    """Average the weights of several epochs (SWA); the average is the net that is evaluated and saved; null: off.

    Goes on through the phases that follow with it. Not beside ema_decay.
    """
    freeze: Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_names), WithJsonSchema(_NAMES_SCHEMA)] = ()
    """What does not train: none, backbone (all but the classifier), or a list of prefixes of parameter names.

    A BatchNorm frozen as a whole keeps its statistics too; one without weight and bias never is.
    """

    OMIT_DEFAULT = frozenset(
        {"ricap_beta", "mix_probs", "resolution", "freeze", "lookahead", "sam", "distill", "select", "swa"}
    )

    @property
    def mixes(self) -> bool:
        """Whether any mixing of images is on."""
        return self.mix_prob > 0 and any(getattr(self, key) for key in MIXINGS)


class PhaseSettings(Recipe):
    """A whole phase: its length and every setting in force during it."""

    epochs: Epochs
    """Epochs of the phase; of the last one also 7.6: the run then ends within an epoch, and its schedule with it."""
    resolution: Side = 32
    """Pixels per side that the net is trained at in the phase."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of every dropout layer in the net during the phase."""
    cached_views: CachedViews | None = None
    """Augmented views of every image whose outputs of the frozen backbone are computed once; null: anew in every epoch.

    Epochs take them in turn. Not inherited by the next phase.
    """

    @property
    def caches(self) -> bool:
        """Whether the views of the phase go through a net once: through the frozen backbone, or the teachers."""
        return self.cached_views is not None or (self.distill is not None and self.distill.cached_views is not None)

    @property
    def epochs_begun(self) -> int:
        """The epochs, with one that is not trained to its end."""
        return math.ceil(self.epochs)

    @model_validator(mode="after")
    def _values_have_effect(self) -> PhaseSettings:
        if "mix_prob" in self.model_fields_set and not any(getattr(self, key) for key in MIXINGS):
            raise ValueError(INEFFECTIVE_MIX_PROB)
        if self.mix_probs is not None and self.mix_prob < 1:
            raise ValueError(f"mix_prob {self.mix_prob:g} has no effect beside mix_probs: drop one of them")
        for kind, name in MIX_KINDS.items() if self.mix_probs is not None else ():
            share, strength = getattr(self.mix_probs, kind), getattr(self, name)
            if share and not strength:
                raise ValueError(f"mix_probs.{kind} {share:g} has no effect while {name} is 0: set {name} or drop the share")
            if strength and not share:
                raise ValueError(f"{name} {strength:g} has no effect without a share: set mix_probs.{kind} or drop {name}")
        if self.distill is not None and self.distill.kd_weight == 1 and self.label_smoothing:
            raise ValueError(
                f"label_smoothing {self.label_smoothing:g} has no effect while distill.kd_weight is 1, which leaves the labels "
                "out: set label_smoothing to 0, or lower kd_weight"
            )
        if self.swa is not None and self.swa.every > self.epochs_begun:
            raise ValueError(
                f"swa.every {self.swa.every} is above the phase's {self.epochs:g} epochs, so none would be averaged: "
                "lower it, or set swa: null"
            )
        return self
