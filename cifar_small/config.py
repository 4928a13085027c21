"""The one schema of a run: rules + data + model + a list of phases; read from YAML, overridden by dotted flags.

A phase inherits every setting from the phase before it and names only what changes; the first phase inherits from the top
level. A `schedule` that a phase sets starts there and runs until a phase sets another, so boundaries of the learning rate
and of regularisation need not coincide. Unknown keys are errors that name the nearest key, all problems are reported at
once, and a value that would have no effect is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cifar_small.config_errors import describe_problems
from cifar_small.errors import ConfigError
from cifar_small.strict_yaml import parse_yaml, read_yaml

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Views = Literal["none", "flip", "shift", "flip_shift", "r3"]
Ints = Annotated[tuple[PositiveInt, ...], Field(strict=False)]


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
    widths: Ints  # channels of each stage, 3 or 4 stages
    blocks: Ints  # BasicBlocks in each stage
    strides: Ints | None = None  # of each stage's first block; None: 1, 2, 2(, 2)
    stem_width: PositiveInt | None = None  # None: widths[0]
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
    depth: PositiveInt  # 6n + 4
    widen_factor: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # between the two convolutions of a block

    @model_validator(mode="after")
    def _depth_fits(self) -> WideResNetModel:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth {self.depth} is not 6n+4; nearest: {max(10, 6 * round((self.depth - 4) / 6) + 4)}")
        return self


Model = Annotated[ResNetModel | WideResNetModel, Field(discriminator="family")]


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


Optim = SGD


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


Schedule = Annotated[Constant | Cosine | MultiStep, Field(discriminator="name")]


class Recipe(Section):
    """The settings that a phase may change."""

    optim: Optim = SGD()
    schedule: Schedule = Cosine()
    augment: Augment = Augment()
    mixup_alpha: Probability = 0.0  # of the Beta(alpha, alpha) distribution; 0: off
    cutmix_alpha: Probability = 0.0
    mix_prob: Probability = 1.0  # share of the batches that are mixed; with both alphas on, half of them by each
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _values_have_effect(self) -> Recipe:
        if "mix_prob" in self.model_fields_set and not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError("mix_prob has no effect while mixup_alpha and cutmix_alpha are 0: set one or drop mix_prob")
        return self


class PhaseSettings(Recipe):
    """A whole phase: its length and every setting in force during it."""

    epochs: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of every dropout layer in the net


class Engine(Section):
    """How the run is computed. Only `precision`, `layout` and `micro_batch_size` touch the result."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast where the hardware has it
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    compile: bool = False  # torch.compile the training forward
    threads: PositiveInt | None = None  # CPU threads; None: torch's default
    micro_batch_size: PositiveInt | None = None  # accumulate gradients over slices of a batch
    eval_batch_size: PositiveInt = 500
    checkpoint_steps: PositiveInt | None = None  # also save within an epoch, every so many steps


class Config(Recipe):
    """A run. Field comments give units; `cifar-small train --help` and README show complete examples."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    seed: Seed = 0
    rules: Rules = Rules()
    data: Data = Data()
    model: Model
    batch_size: PositiveInt = 128
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None  # per step; the averaged weights are then the ones used
    phases: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)]
    selection: Literal["best", "last"] = "best"  # which epoch's weights count: best on val, or the last
    patience: PositiveInt | None = None  # stop after this many epochs without a better val accuracy
    views: Views = "none"  # test-time augmentation of predictions; see predict.VIEWS
    engine: Engine = Engine()


@dataclass(frozen=True)
class Phase:
    """One resolved phase: its settings, its epochs [start, end) and the epochs its schedule spans."""

    index: int
    start: int
    end: int
    schedule_start: int
    schedule_end: int
    settings: PhaseSettings


def resolve_phases(config: Config) -> tuple[Phase, ...]:
    """Apply inheritance: the full settings, epochs and schedule span of every phase. Raises ConfigError with all problems."""
    phases, problems = _resolve(config)
    if problems:
        raise ConfigError("; ".join(problems))
    return phases


def _resolve(config: Config) -> tuple[tuple[Phase, ...], list[str]]:
    problems: list[str] = []
    settings = config.model_dump(include=set(Recipe.model_fields), exclude_unset=True)
    settings["dropout"] = config.model.dropout
    resolved: list[PhaseSettings] = []
    schedule_starts: list[int] = []
    epoch = 0
    for index, changes in enumerate(config.phases):
        inherited = settings
        settings = {**inherited, **{key: _merge(inherited.get(key), value) for key, value in changes.items()}}
        if "epochs" not in changes:
            settings.pop("epochs", None)  # the one setting that is not inherited
        try:
            phase = PhaseSettings.model_validate(_without_idle(settings, keep=changes))
        except ValidationError as error:
            problems += describe_problems(PhaseSettings, error, f"phases.{index}.")
            settings = inherited  # so that a later phase does not report the same problem again
            continue
        schedule_starts.append(epoch if index == 0 or "schedule" in changes or not schedule_starts else schedule_starts[-1])
        resolved.append(phase)
        epoch += phase.epochs
    if problems:
        return (), problems
    phases: list[Phase] = []
    start = 0
    for index, phase in enumerate(resolved):
        later = [other for other in schedule_starts[index + 1 :] if other != schedule_starts[index]]
        end = later[0] if later else epoch
        phases.append(Phase(index, start, start + phase.epochs, schedule_starts[index], end, phase))
        start += phase.epochs
        problems += _schedule_problems(phases[-1])
    return tuple(phases), problems


def _merge(old: Any, new: Any) -> Any:
    """A mapping without a `name` (or with the same one) changes single keys; anything else replaces the old value."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    if "name" in new and new["name"] != old.get("name"):
        return new
    return {**old, **new}


def _without_idle(settings: dict[str, Any], keep: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings without those inherited or default values that have no effect beside the others, unless `keep` names them."""
    keep = keep or {}
    settings = dict(settings)
    if not settings.get("mixup_alpha") and not settings.get("cutmix_alpha") and "mix_prob" not in keep:
        settings.pop("mix_prob", None)
    if isinstance(settings.get("augment"), Mapping):
        kept = keep.get("augment") or {}
        augment = dict(settings["augment"])
        for master, idle in (("crop", "pad"), ("erasing", "erasing_scale")):
            if master in augment and not augment[master] and idle not in kept:
                augment.pop(idle, None)
        settings["augment"] = augment
    return settings


def _schedule_problems(phase: Phase) -> list[str]:
    schedule, span = phase.settings.schedule, phase.schedule_end - phase.schedule_start
    where = f"phases.{phase.index}.schedule"
    problems = []
    if schedule.warmup_epochs >= span:
        problems.append(f"{where}.warmup_epochs is {schedule.warmup_epochs:g} but the schedule spans {span} epochs; shorten it")
    if isinstance(schedule, MultiStep):
        milestones = schedule.milestones
        if list(milestones) != sorted(set(milestones)) or (milestones and milestones[-1] >= span):
            problems.append(
                f"{where}.milestones {list(milestones)} must increase and lie before the schedule's end, epoch {span}, "
                "to have an effect"
            )
    if isinstance(schedule, Cosine) and schedule.min_lr > phase.settings.optim.lr:
        problems.append(f"{where}.min_lr {schedule.min_lr:g} is above optim.lr {phase.settings.optim.lr:g}")
    return problems


def load_config(path: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Read a YAML config and apply overrides such as ("optim.lr", "0.2") or ("phases.0.epochs", "3").

    Raises ConfigError that lists every problem, each with its dotted key.
    """
    raw = read_yaml(path)
    if raw is None:
        raise ConfigError(f"{path} is empty; expected keys such as name, model and phases (see configs/)")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds a {type(raw).__name__}; expected keys such as name, model and phases (see configs/)")
    for key, value in overrides:
        _override(raw, key, parse_yaml(value, f"--{key}"))
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a plain mapping as a Config; `where` names it in messages. Raises ConfigError that lists every problem."""
    try:
        config = Config.model_validate(dict(raw))
        problems = _resolve(config)[1]
    except ValidationError as error:
        problems = describe_problems(Config, error, "")
    if problems:
        head = f"{where}: " if len(problems) == 1 else f"{where}: {len(problems)} problems: "
        raise ConfigError(head + "; ".join(problems))
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML text that `load_config` reads back to an equal value."""
    return yaml.safe_dump(config_dict(config), sort_keys=False, default_flow_style=None, width=128)


def config_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists and numbers.

    Values that hold only where something else is on (and would be refused as having no effect) are left out while it is off.
    """
    plain = _without_idle(json.loads(config.model_dump_json()))
    first = ("name", "seed", "rules", "data", "model", "batch_size")
    return {key: plain[key] for key in first} | {key: value for key, value in plain.items() if key not in first}


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved configuration."""
    return hashlib.sha256(json.dumps(config_dict(config), sort_keys=True).encode()).hexdigest()


def recipe_hash(config: Config) -> str:
    """SHA-256 of what the seeds of one recipe share: the configuration without its seed, device and data folder."""
    plain = config_dict(
        config.model_copy(
            update={
                "seed": 0,
                "engine": Engine(**{key: getattr(config.engine, key) for key in ("precision", "layout", "micro_batch_size")}),
            }
        )
    )
    plain["data"]["root"] = None
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def split_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Turn ["--optim.lr", "0.1", "--seed=3"] into [("optim.lr", "0.1"), ("seed", "3")]. Raises ConfigError."""
    pairs = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"unexpected argument {flag!r}; settings are overridden as --section.key value")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value; write --{key} VALUE")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    node: Any = raw
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the config"
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise ConfigError(f"--{dotted}: {here} is a list of {len(node)}; expected an index below that, got {part!r}")
            if last:
                node[int(part)] = value
            node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                node[part] = value
            elif not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[part]
        else:
            raise ConfigError(f"--{dotted}: {here} is {node!r}, which has no key {part!r}")
