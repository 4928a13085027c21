"""Reading the configuration of a run: YAML files, what they extend, overrides, validation.

A phase inherits every setting from the phase before it and names only what changes; the first phase inherits from the top
level. A `schedule` that a phase sets starts there and runs until a phase sets another, so boundaries of the learning rate
and of regularization need not coincide. A file may extend another one, by the same rule: a setting replaces the inherited one,
sections are merged key by key (unless `name`, `engine` or `family` asks for another kind), and a list, such as `phases`,
replaces the whole list. All problems of a config are reported at once, each with its dotted key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cifar_small.config.input_of_weights import with_published_input
from cifar_small.config.messages import describe_problems
from cifar_small.config.overriding import override, with_kinds_first
from cifar_small.config.own_code import with_hashes
from cifar_small.config.phases import merge, phases_and_problems
from cifar_small.config.renamed import with_current_names
from cifar_small.config.schema import Config
from cifar_small.config.shipped import require_config
from cifar_small.config.strict_yaml import parse_yaml, read_yaml
from cifar_small.errors import ConfigError
from cifar_small.wording import command_line


def load_config(
    path: str | Path,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    label: str = "override ",
    note: Callable[[str], object] | None = None,
    trusted: bool = True,
) -> Config:
    """Read a YAML config and apply overrides such as ("optim.lr", "0.2") or ("phases.0.epochs", "3").

    path: a file, or the name of a shipped config, such as `resnet_hour`; see config/shipped.py. trusted: may files of the
    user's own that it names run from now on? Not those that a run directory names.

    An override of a section's kind, such as ("optim.name", "adamw"), comes first. What the file says of that section and the
    new kind does not know is dropped, and `note` is told; without `note` it is refused as an unknown key.

    Raises ConfigError that lists every problem, each with its dotted key; `label` stands before the key of an override.
    """
    raw = _read_mapping(require_config(path), ())
    if "config" in raw and "model" not in raw:
        line = command_line("sweep", path)
        raise ConfigError(f"{path} is a sweep, not the config of one run; train all of its runs with: {line}")
    config, problems = _checked(with_hashes(with_changes(raw, overrides, label, note), trusted))
    if config is None:
        keys = [key for key, _ in overrides]
        own = [f"{label}{_in_full(problem, label)}" for problem in problems if _is_of(problem, keys)]
        of_file = [problem for problem in problems if not _is_of(problem, keys)]
        message = _listed(of_file + own, str(path) if of_file else "")
        if "phases" in keys:  # a change of one phase's epochs alone may have been meant
            begin = label if label.startswith("-") else ""
            message += (
                f"; {label}phases replaces the whole list, with all that its phases set: {begin}phases.0.epochs changes one "
                "setting of one phase"
            )
        raise ConfigError(message)
    return config


def with_changes(
    raw: Mapping[str, Any],
    overrides: Sequence[tuple[str, str]],
    label: str = "override ",
    note: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """A plain config with overrides applied as `load_config` does. Raises ConfigError for one that fits nowhere."""
    changed = deepcopy(dict(raw))
    for key, value in with_kinds_first([(key, parse_yaml(value, f"{label}{key}")) for key, value in overrides]):
        override(changed, key, value, label, note)
    return changed


def _in_full(problem: str, label: str) -> str:
    """A problem of an override, whose nearest setting is named as an override would name it: optim.lr, not 'lr'.

    What stands in double quotes is a value, and stays as it is.
    """
    section = problem.partition(":")[0].rpartition(".")[0]
    begin = label if label.startswith("-") else ""
    meant = re.sub(r"did you mean '(\w+)'\?", rf"did you mean {section}{'.' if section else ''}\1?", problem)
    return re.sub(r'did you mean (?!")', f"did you mean {begin}", meant)


def _is_of(problem: str, keys: Sequence[str]) -> bool:
    """Is this a problem of a value that one of these overrides set?"""
    where = problem.partition(":")[0]
    return any(f"{where}.".startswith(f"{key}.") for key in keys)


def _listed(problems: Sequence[str], where: str) -> str:
    heads = [where] * bool(where) + [f"{len(problems)} problems"] * (len(problems) > 1)
    return ": ".join([*heads, "; ".join(problems)])


def _read_mapping(path: Path, variants: tuple[Path, ...]) -> dict[str, Any]:
    """The settings of a file on top of those of the file that it extends, if any; `variants` are the files that led here."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        got = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise ConfigError(f"{path} {got}; expected keys such as name, model and phases (cifar-small configs lists examples)")
    if "extends" not in raw:
        return raw
    named = raw.pop("extends")
    if not isinstance(named, str) or not named:
        raise ConfigError(f"{path}: extends is {named!r}; expected the path of another config, relative to this file's folder")
    base = path.parent / named
    if not base.is_file():
        raise ConfigError(f"{path} extends {named}, but {base} does not exist; the path is relative to the file's own folder")
    chain = (*variants, path)
    if any(base.samefile(other) for other in chain):
        raise ConfigError(f"{' extends '.join(map(str, (*chain, base)))}: a config cannot extend itself")
    inherited = _read_mapping(base, chain)
    return {**inherited, **{key: merge(inherited.get(key), value) for key, value in raw.items()}}


def parse_config(raw: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a plain mapping as a Config; `where` names it in messages. Raises ConfigError that lists every problem."""
    config, problems = _checked(raw)
    if config is None:
        raise ConfigError(_listed(problems, where))
    return config


def _checked(raw: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The config that a mapping means, or None and what is wrong with it."""
    raw = with_current_names(raw)
    try:
        config = with_published_input(Config.model_validate(raw))
        problems = phases_and_problems(config)[1]
    except ValidationError as error:
        bad = {str(item["loc"][0]) for item in error.errors() if item["loc"]}  # none: of the config as a whole
        return None, describe_problems(Config, error, "") + _phase_problems(raw, bad)
    return (None if problems else config), problems


def _phase_problems(raw: Mapping[str, Any], bad: set[str]) -> list[str]:
    """What is wrong with the phases of a config whose keys `bad` are wrong too, so that all is said at once."""
    stand_ins = {"name": "any", "model": {"family": "wideresnet", "depth": 10, "widen_factor": 1}}
    rest = {key: value for key, value in raw.items() if key not in bad}
    try:
        return phases_and_problems(Config.model_validate({**stand_ins, **rest}))[1]
    except ValidationError:  # the phases themselves are missing or no list; that has been said
        return []
