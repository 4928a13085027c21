"""A config made shorter or longer as a whole: all counted in epochs in the same proportion; and one for a smoke test."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import ceil, floor
from typing import Any

from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.config.phases import Phase, resolve_phases
from cifar_small.config.schema import Config
from cifar_small.errors import ConfigError
from cifar_small.wording import plural

SMOKE_BATCH, SMOKE_IMAGES, SMOKE_VAL = 16, 32, 50


def with_epochs(config: Config, epochs: int) -> tuple[Config, list[str]]:
    """The config over so many epochs, and each changed setting as `key: old -> new`.

    Phases, warm-up, milestones, periods, patience and the epochs between kept or averaged weights change in proportion, and no
    more views are cached than there are epochs; what then has no room, such as a second milestone in one epoch, is dropped.
    Raises ConfigError for fewer epochs than phases.
    """
    phases = resolve_phases(config)
    if epochs < len(phases):
        raise ConfigError(f"{plural(epochs, 'epoch')} for {plural(len(phases), 'phase')}: each needs one; raise the epochs")
    total, lengths = phases[-1].end, _shares([phase.end - phase.start for phase in phases], epochs)
    plain = config_dict(config)
    new = plain["phases"] = [{**changes, "epochs": length} for changes, length in zip(plain["phases"], lengths, strict=True)]
    for phase in phases:
        if phase.index == 0 or "schedule" in config.phases[phase.index]:
            place = plain if "schedule" not in config.phases[phase.index] else new[phase.index]
            span = sum(lengths[other.index] for other in phases if phase.schedule_start <= other.start < phase.schedule_end)
            place["schedule"] = _scaled_schedule(phase, span)
    _scale_swa(phases, lengths, new)
    for phase, length, changes in zip(phases, lengths, new, strict=True):
        if phase.settings.cached_views is not None:
            changes["cached_views"] = _cached(phase.settings.cached_views, length)
        if phase.settings.distill is not None and phase.settings.distill.cached_views is not None:
            views = _cached(phase.settings.distill.cached_views, length)
            changes["distill"] = {**(changes.get("distill") or {}), "cached_views": views}
    if config.patience is not None:
        # What counts against it are epochs that are averaged, where any are.
        before, after = getattr(phases[-1].settings.swa, "every", 1), (new[-1].get("swa") or {}).get("every", 1)
        plain["patience"] = max(1, round(config.patience * before * epochs / (after * total)))
    if config.engine.keep_every is not None:
        plain["engine"]["keep_every"] = max(1, round(config.engine.keep_every * epochs / total))
    scaled = parse_config(plain, f"{config.name} over {plural(epochs, 'epoch')}")
    return scaled, _changes(config, phases, scaled)


def smoke_config(config: Config) -> Config:
    """The same config over an epoch a phase of two small batches: does everything in it work? Its figures mean nothing."""
    short = config_dict(with_epochs(config, len(config.phases))[0])
    shares = [phase.settings.select.share for phase in resolve_phases(config) if phase.settings.select]
    # Of each batch two images are left, and one is left out.
    batch = min(config.batch_size, max([SMOKE_BATCH, *(ceil(max(2 / share, 1 / (1 - share))) for share in shares)]))
    images = max(SMOKE_IMAGES, 2 * batch)
    changes: dict[str, dict[str, Any]] = {
        "engine": {"micro_batch_size": None, "eval_batch_size": min(config.engine.eval_batch_size, SMOKE_VAL)},
        "data": {"train_limit": min(config.data.train_limit or images, images)},
        "rules": {"pretrained": config.rules.pretrained or config.weights is not None},  # of a run, which saw more images
    }
    taught = any(phase.settings.distill or phase.settings.select for phase in resolve_phases(config))
    if not (config.starts_from_run or taught):  # which must have held out the same images
        changes["data"]["val_size"] = min(config.data.val_size, SMOKE_VAL)
    for section, values in changes.items():
        short[section] = {**short[section], **values}
    return parse_config({**short, "name": f"{config.name[:94]}-smoke", "batch_size": batch}, f"the smoke test of {config.name}")


def _cached(views: int, epochs: int) -> int | None:
    """Views to cache over so many epochs, no more than these; a single one of augmented images would be all they see."""
    if views <= epochs:
        return views
    return epochs if epochs > 1 else None


def _shares(lengths: Sequence[int], epochs: int) -> list[int]:
    """So many epochs in the proportions of these lengths, each at least one, by largest remainder."""
    ideal = [length * epochs / sum(lengths) for length in lengths]
    shares = [max(1, floor(share)) for share in ideal]
    while difference := epochs - sum(shares):
        step = 1 if difference > 0 else -1
        open_ = [index for index, share in enumerate(shares) if step > 0 or share > 1]
        shares[max(open_, key=lambda index: step * (ideal[index] - shares[index]))] += step
    return shares


def _scaled_schedule(phase: Phase, span: int) -> dict[str, Any]:
    """The schedule that starts with a phase, spread over `span` epochs."""
    factor = span / (phase.schedule_end - phase.schedule_start)
    plain: dict[str, Any] = phase.settings.schedule.model_dump(mode="json")
    for key in ("warmup_epochs", "period"):
        if key in plain:
            plain[key] = float(f"{plain[key] * factor:.6g}")
    if "milestones" in plain:
        first = floor(plain["warmup_epochs"]) + 1
        near = [max(first, round(milestone * factor)) for milestone in plain["milestones"]]
        plain["milestones"] = sorted({milestone for milestone in near if milestone < span})
        if not plain["milestones"]:
            return {"name": "constant", "warmup_epochs": plain["warmup_epochs"]}
    return plain


def _scale_swa(phases: Sequence[Phase], lengths: Sequence[int], new: list[dict[str, Any]]) -> None:
    """Average as many sets of weights as there is room for in each stretch of phases that does, or none if not two."""
    for averaging, group in groupby(phases, key=lambda phase: phase.settings.swa is not None):
        members = list(group)
        if not averaging:
            continue
        every = {}
        for phase in members:
            assert phase.settings.swa is not None
            length = lengths[phase.index]
            every[phase.index] = min(length, max(1, round(phase.settings.swa.every * length / (phase.end - phase.start))))
        enough = sum(lengths[index] // step for index, step in every.items()) > 1
        for index, step in every.items():
            new[index]["swa"] = {"every": step} if enough else None


def _changes(config: Config, before: Sequence[Phase], scaled: Config) -> list[str]:
    """What differs between the config and the one that was made of it, as settings in force."""
    changes: list[tuple[str, object, object]] = []
    for old, new in zip(before, resolve_phases(scaled), strict=True):
        where = f"phases.{old.index}."
        changes.append((f"{where}epochs", old.settings.epochs, new.settings.epochs))
        changes.append(
            (f"{where}swa.every", getattr(old.settings.swa, "every", None), getattr(new.settings.swa, "every", None))
        )
        changes.append((f"{where}cached_views", old.settings.cached_views, new.settings.cached_views))
        was, now = (getattr(phase.settings.distill, "cached_views", None) for phase in (old, new))
        changes.append((f"{where}distill.cached_views", was, now))
        if old.schedule_start == old.start:
            for key in ("name", "warmup_epochs", "period", "milestones"):
                was, now = (getattr(phase.settings.schedule, key, None) for phase in (old, new))
                changes.append((f"{where}schedule.{key}", was, now))
    changes.append(("patience", config.patience, scaled.patience))
    changes.append(("engine.keep_every", config.engine.keep_every, scaled.engine.keep_every))
    return [f"{key} {_text(was)} -> {_text(now)}" for key, was, now in changes if was != now]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
