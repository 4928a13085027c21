"""In which settings do entries differ? Every setting in force, as the phases resolve it, not as the config files write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby

from cifar_small.config.hashing import SHARED_BY_SEEDS
from cifar_small.config.loading import parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.schema import Config, Recipe
from cifar_small.config.schema.kinds import KIND_KEYS
from cifar_small.errors import ConfigError
from cifar_small.evaluation.entries import Entry
from cifar_small.runs.directory import flatten

# Identity, place and rules: the first two are no settings, the last stand in the tables.
NOT_COMPARED = ("name", "seed", "rules", "engine", "phases", "data.root")
UNSET = "not set"


def differing_settings(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """Each setting that is not the same in all nets, with its value by the entry's name; ensembles have none of their own."""
    known = {}
    for entry in entries:
        plain = None if entry.is_ensemble else entry.meta.config
        if plain is not None:
            try:
                known[entry.name] = settings_in_force(parse_config(plain, f"the config of {entry.name}"))
            except ConfigError:  # of a library that is not here: all else can still be compared
                continue
    keys = list(dict.fromkeys(key for settings in known.values() for key in settings))
    values = {key: {name: settings.get(key, UNSET) for name, settings in known.items()} for key in keys}
    differing = {key: by_name for key, by_name in values.items() if len(set(by_name.values())) > 1}
    return {key: by_name for key, by_name in differing.items() if not _of_another_kind(key, by_name, differing)}


def settings_in_force(config: Config) -> dict[str, str]:
    """Every setting by its dotted key, in words; one that a phase changes has its value in each phase: `0.2 then 0`."""
    phases = resolve_phases(config)
    plain = config.model_dump(mode="json", exclude=set(Recipe.model_fields))
    found = {key: str(value) for key, value in flatten(_whole(plain)).items() if not _begins(key, NOT_COMPARED)}
    found |= {f"engine.{key}": _text(getattr(config.engine, key)) for key in SHARED_BY_SEEDS}
    each = [flatten(_whole(phase.settings.model_dump(mode="json"))) for phase in phases]
    for key in dict.fromkeys(key for settings in each for key in settings):
        values = [_text(settings[key]) if key in settings else UNSET for settings in each]
        steps = values if key == "epochs" else [value for value, _ in groupby(values)]
        found[key] = " then ".join(steps)
    return found


def _whole(plain: Mapping[str, object]) -> dict[str, object]:
    """Lists as one value each, so that a key names a setting and not a place in a list."""
    return {key: _whole(value) if isinstance(value, dict) else _text(value) for key, value in plain.items()}


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and value and all(isinstance(number, float) for number in value):
        return ", ".join(f"{number:.3g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _begins(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _of_another_kind(key: str, by_name: Mapping[str, str], differing: Mapping[str, object]) -> bool:
    """Does a setting lack in some entries because their section is of another kind, which is said in its own line?"""
    section = key.rpartition(".")[0]
    return any(UNSET in value for value in by_name.values()) and any(f"{section}.{kind}" in differing for kind in KIND_KEYS)
