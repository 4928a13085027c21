"""Phases of a run, resolved: each inherits from the one before; what would have no effect is a problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from cifar_small.config.messages import describe_problems
from cifar_small.config.schema import (
    AUGMENTS,
    INEFFECTIVE_MIX_PROB,
    MIX_KINDS,
    MIXINGS,
    Augment,
    BasicAugment,
    Config,
    LibraryModel,
    OwnAugment,
    OwnModel,
    PhaseSettings,
    Recipe,
    divides_evenly,
)
from cifar_small.config.schema.kinds import KIND_KEYS
from cifar_small.errors import ConfigError
from cifar_small.wording import plural


@dataclass(frozen=True)
class Phase:
    """One resolved phase: its settings, its epochs [start, end) and the epochs its schedule spans.

    last_epoch: the share of the last of them that is trained; below 1 where the run ends within it. schedule_last_epoch: the
    same of the schedule.
    """

    index: int
    start: int
    end: int
    schedule_start: int
    schedule_end: int
    settings: PhaseSettings
    last_epoch: float = 1.0
    schedule_last_epoch: float = 1.0

    def steps_in(self, epoch: int, steps: int) -> int:
        """The steps that are made of the `steps` of one of its epochs."""
        return steps if epoch + 1 < self.end else steps_of_share(self.last_epoch, steps)

    def shown(self, epoch: int) -> int:
        """The epoch whose augmented images an epoch shows: itself, or one of the first where something caches views."""
        distill, views = self.settings.distill, self.settings.cached_views
        if distill is not None and distill.cached_views is not None:
            views = distill.cached_views
        return epoch if views is None else self.start + (epoch - self.start) % views

    def averages(self, epoch: int) -> bool:
        """Are the weights at the end of one of its epochs taken into the average over epochs (SWA)?"""
        swa = self.settings.swa
        return swa is not None and (epoch + 1 - self.start) % swa.every == 0

    def schedule_steps(self, steps: int) -> int:
        """The steps that its schedule spans, of `steps` an epoch."""
        whole = self.schedule_end - self.schedule_start - 1
        return whole * steps + steps_of_share(self.schedule_last_epoch, steps)


def steps_of_share(share: float, steps: int) -> int:
    """The steps of a share of an epoch, at least one."""
    return max(1, round(share * steps))


def resolve_phases(config: Config) -> tuple[Phase, ...]:
    """Apply inheritance: the full settings, epochs and schedule span of every phase. Raises ConfigError with all problems."""
    phases, problems = phases_and_problems(config)
    if problems:
        raise ConfigError("; ".join(problems))
    return phases


def phases_and_problems(config: Config) -> tuple[tuple[Phase, ...], list[str]]:
    """The resolved phases of a config, and what is wrong with them, each with its dotted key; no phases where much is."""
    problems: list[str] = []
    settings = config.model_dump(include=set(Recipe.model_fields))
    settings["dropout"] = config.model.dropout
    settings["resolution"] = config.resolution or config.side
    resolved: list[PhaseSettings] = []
    schedule_starts: list[int] = []
    schedule_keys: list[str] = []  # where each phase's schedule is set
    epoch = 0
    for index, changes in enumerate(config.phases):
        inherited = {key: value for key, value in settings.items() if key != "cached_views"}
        settings = {**inherited, **{key: merge(inherited.get(key), value) for key, value in changes.items()}}
        if settings["resolution"] is None:
            settings["resolution"] = config.side
        if "epochs" not in changes:
            settings.pop("epochs", None)  # the only setting that is not inherited
        try:
            phase = PhaseSettings.model_validate(without_ineffective(settings, keep=changes))
        except ValidationError as error:
            problems += describe_problems(PhaseSettings, error, f"phases.{index}.")
            settings = inherited  # so that a later phase does not report the same problem again
            continue
        problems += _model_problems(config, phase, f"phases.{index}") + _cache_problems(config, phase, f"phases.{index}")
        problems += _select_problems(config, phase, f"phases.{index}")
        schedule_starts.append(epoch if index == 0 or "schedule" in changes or not schedule_starts else schedule_starts[-1])
        inherited_key = schedule_keys[-1] if schedule_keys else "schedule"
        schedule_keys.append(f"phases.{index}.schedule" if "schedule" in changes else inherited_key)
        resolved.append(phase)
        epoch += phase.epochs_begun
    if "mix_prob" in config.model_fields_set and not any(getattr(phase, key) for phase in resolved for key in MIXINGS):
        problems.append(INEFFECTIVE_MIX_PROB)
    for kind, name in MIX_KINDS.items():
        if getattr(config.mix_probs, kind, 0) and not any(getattr(phase, name) for phase in resolved):
            problems.append(f"mix_probs.{kind} has no effect while {name} is 0 in every phase: set {name} or drop the share")
    if config.input.augment == "after" and config.side == 32 and not _size_is_open(config):
        problems.append("input.augment after has no effect while images are not enlarged: set input.size above 32, or drop it")
    if problems:
        return (), problems
    problems += [
        f"phases.{index}.epochs {phase.epochs:g}: only the last phase may end within an epoch; use a whole number"
        for index, phase in enumerate(resolved[:-1])
        if phase.epochs != phase.epochs_begun
    ]
    problems += _swa_problems(config, resolved)
    if config.engine.workers and all(isinstance(phase.augment, Augment | OwnAugment) for phase in resolved):
        problems.append(f"engine.workers {config.engine.workers} has no effect while no phase augments image by image: drop it")
    if config.engine.keep_every is not None and config.engine.keep_every > epoch:
        problems.append(
            f"engine.keep_every {config.engine.keep_every} never comes within {plural(epoch, 'epoch')}: lower it or drop it"
        )
    phases: list[Phase] = []
    start = 0
    for index, phase in enumerate(resolved):
        later = [other for other in schedule_starts[index + 1 :] if other != schedule_starts[index]]
        end = later[0] if later else epoch
        last = config.last_epoch if index + 1 == len(resolved) else 1.0
        schedule_last = config.last_epoch if end == epoch else 1.0
        own_end = start + phase.epochs_begun
        phases.append(Phase(index, start, own_end, schedule_starts[index], end, phase, last, schedule_last))
        start = own_end
        found = phase.schedule.problems(end - schedule_starts[index] - (1 - schedule_last), phase.optim.lr)
        problems += [f"{schedule_keys[index]}.{problem}" for problem in found]
    return tuple(phases), list(dict.fromkeys(problems))  # phases of one schedule have the same ones


UNAUGMENTED = Augment(crop=0, flip="none").model_dump()


def merge(old: Any, new: Any) -> Any:
    """A mapping of the same kind (`name`, `engine`, `family`) changes single keys; all else replaces the old value."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    if any(key in new and new[key] != old.get(key, default) for key, default in KIND_KEYS.items()):
        return new
    return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}


def without_ineffective(settings: dict[str, Any], keep: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings without those inherited or default values that have no effect beside the others, unless `keep` names them."""
    keep = keep or {}
    settings = dict(settings)
    if not any(settings.get(key) for key in MIXINGS) and "mix_prob" not in keep:
        settings.pop("mix_prob", None)
    shares = settings.get("mix_probs")
    if isinstance(shares, Mapping):
        named = keep.get("mix_probs") or {}
        shares = {kind: share for kind, share in shares.items() if kind in named or settings.get(MIX_KINDS.get(kind, ""))}
        settings["mix_probs"] = shares if shares else None
    augment = settings.get("augment")
    if isinstance(augment, Mapping):
        section = AUGMENTS.get(str(augment.get("engine", "tensor")))
        if section is not None and issubclass(section, BasicAugment):
            ineffective = section.ineffective(augment).keys() - (keep.get("augment") or {})
            settings["augment"] = {key: value for key, value in augment.items() if key not in ineffective}
    return settings


def _swa_problems(config: Config, phases: Sequence[PhaseSettings]) -> list[str]:
    """Averages over epochs that would have no effect."""
    problems = []
    for averaging, group in groupby(enumerate(phases), key=lambda pair: pair[1].swa is not None):
        members = list(group)
        where = f"phases.{members[0][0]}.swa"
        if averaging and config.ema_decay is not None:
            problems.append(f"{where} has no effect beside ema_decay, whose average is the one used: drop one of them")
        elif averaging and sum(phase.epochs_begun // phase.swa.every for _, phase in members if phase.swa is not None) < 2:
            problems.append(f"{where} averages the weights of a single epoch: lower swa.every or lengthen the phase")
    return problems


OWN_VIEWS = "goes with no augmentation of your own, whose pixels depend on the batch: drop one of them"


def _cache_problems(config: Config, phase: PhaseSettings, where: str) -> list[str]:
    """What keeps a phase from training on cached outputs of the backbone, or makes them another thing than they seem."""
    problems = _teacher_cache_problems(phase, where)
    views = phase.cached_views
    if views is None:
        return problems
    faults = {
        "is for nets of torchvision and timm": not isinstance(config.model, LibraryModel),
        "needs a backbone that does not train: set freeze: backbone": "backbone" not in phase.freeze,
        "goes with no mixing, for which the backbone must see mixed pixels: set mixup_alpha and the like to 0": phase.mixes,
        "goes with no teachers that see pixels; give their predictions file": bool(phase.distill and phase.distill.teachers),
        OWN_VIEWS: isinstance(phase.augment, OwnAugment),
        **_views_faults(phase, views, mixed=False),
    }
    return problems + [f"{where}.cached_views {views} {fault}" for fault, found in faults.items() if found]


def _teacher_cache_problems(phase: PhaseSettings, where: str) -> list[str]:
    """What keeps teachers' answers from being those to the pixels of each step."""
    if phase.distill is None or phase.distill.cached_views is None:
        return []
    views = phase.distill.cached_views
    faults = {
        OWN_VIEWS: isinstance(phase.augment, OwnAugment),
        **_views_faults(phase, views, mixed=phase.mixes),
    }
    return [f"{where}.distill.cached_views {views} {fault}" for fault, found in faults.items() if found]


def _views_faults(phase: PhaseSettings, views: int, mixed: bool) -> dict[str, bool]:
    """Numbers of views, mixed or not, that gain nothing or are another thing than they seem."""
    fixed = isinstance(phase.augment, Augment) and phase.augment.model_dump() == UNAUGMENTED and not mixed
    return {
        f"is more than the phase's {phase.epochs:g} epochs, which gains nothing: lower it": views > phase.epochs_begun,
        "would keep equal views, for nothing is random without augmentation: set 1": fixed and views > 1,
        "would keep a single random view of each image, so nothing would be augmented any more: set more views, or augment to "
        "{crop: 0, flip: none} without mixing": not fixed and views == 1,
    }


def _select_problems(config: Config, phase: PhaseSettings, where: str) -> list[str]:
    """A share of the batch that cannot be cut into equal micro-batches, or has no pixels that a proxy could see."""
    if phase.select is None:
        return []
    if phase.cached_views is not None:
        return [f"{where}.select needs pixels, which cached_views {phase.cached_views} leaves out: drop one of them"]
    count, size = phase.select.images_of(config.batch_size), config.engine.micro_batch_size
    if count < 2:
        return [f"{where}.select.share {phase.select.share:g} leaves {count} of {config.batch_size} images; raise it"]
    if count == config.batch_size:
        return [f"{where}.select.share {phase.select.share:g} leaves all {count} images, and has no effect: lower it"]
    if size is not None and not divides_evenly(count, size):
        return [
            f"{where}.select.share {phase.select.share:g} leaves {count} of {config.batch_size} images, which "
            f"engine.micro_batch_size {size} does not divide: use a divisor of {count}"
        ]
    return []


def _size_is_open(config: Config) -> bool:
    """Does the size of evaluation come with another run, which is not read before training starts?"""
    return config.starts_from_run and config.input.size is None


def _model_problems(config: Config, phase: PhaseSettings, where: str) -> list[str]:
    """What a phase asks for that the net, or its evaluation, does not have."""
    problems = []
    if phase.dropout and isinstance(config.model, LibraryModel) and config.model.head == "plain":
        problems.append(f"{where}.dropout {phase.dropout:g} has no effect with model.head plain; use head: dropout or se")
    if phase.dropout and isinstance(config.model, OwnModel):
        problems.append(f"{where}.dropout {phase.dropout:g} has no effect on {config.model.family}; give it in model.arguments")
    if phase.resolution > config.side and not _size_is_open(config):
        problems.append(
            f"{where}.resolution {phase.resolution} is above the {config.side} pixels of evaluation; lower it, or raise "
            "input.size"
        )
    return problems


def graph_of(settings: PhaseSettings) -> tuple[object, ...]:
    """What of a phase decides the graph that torch.compile makes of the net; phases that agree in it share one."""
    return settings.resolution, settings.freeze, settings.dropout


def compilations(phases: Sequence[Phase]) -> int:
    """How often one process compiles the net in a run: its slices have one shape in a phase, and it evaluates uncompiled."""
    graphs = [graph_of(phase.settings) for phase in phases]
    return sum(index == 0 or graph != graphs[index - 1] for index, graph in enumerate(graphs))
