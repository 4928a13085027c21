"""The one schema of a run: rules + data + model + a list of phases.

Sections are strict and frozen: unknown keys are errors, numbers are not text, and a value that would have no effect beside
the others is refused. The text below a field is for users (`cifar-small settings`): units, what null means, what it excludes.
`config` reads, resolves and writes these sections.
"""

from __future__ import annotations

from cifar_small.config.schema.augment import (
    AUGMENTS,
    AlbumentationsAugment,
    AnyAugment,
    Augment,
    BasicAugment,
    OwnAugment,
    PerImageAugment,
    TorchvisionAugment,
)
from cifar_small.config.schema.base import PositiveInt, Section, Seed
from cifar_small.config.schema.data import SOURCES, VIEW_SETS, Data, Rules, Views, split_views, views_name
from cifar_small.config.schema.model import (
    LibraryModel,
    Model,
    OwnModel,
    ResNetModel,
    WhitenedResNetModel,
    WhitenedStage,
    WideResNetModel,
)
from cifar_small.config.schema.optim import (
    SAM,
    SGD,
    Adam,
    Lookahead,
    MuonSettings,
    Optim,
)
from cifar_small.config.schema.phase import (
    INEFFECTIVE_MIX_PROB,
    MIX_KINDS,
    MIXINGS,
    Distill,
    MixProbs,
    PhaseSettings,
    Recipe,
    Select,
    divides_evenly,
)
from cifar_small.config.schema.run import Config, Engine

__all__ = [
    "AUGMENTS",
    "INEFFECTIVE_MIX_PROB",
    "MIXINGS",
    "MIX_KINDS",
    "SAM",
    "SGD",
    "SOURCES",
    "VIEW_SETS",
    "Adam",
    "AlbumentationsAugment",
    "AnyAugment",
    "Augment",
    "BasicAugment",
    "Config",
    "Data",
    "Distill",
    "Engine",
    "LibraryModel",
    "Lookahead",
    "MixProbs",
    "Model",
    "MuonSettings",
    "Optim",
    "OwnAugment",
    "OwnModel",
    "PerImageAugment",
    "PhaseSettings",
    "PositiveInt",
    "Recipe",
    "ResNetModel",
    "Rules",
    "Section",
    "Seed",
    "Select",
    "TorchvisionAugment",
    "Views",
    "WhitenedResNetModel",
    "WhitenedStage",
    "WideResNetModel",
    "divides_evenly",
    "split_views",
    "views_name",
]
