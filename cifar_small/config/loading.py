"""Reading, resolving and writing the configuration of a run.

A phase inherits every setting from the phase before it and names only what changes; the first phase inherits from the top
level. A `schedule` that a phase sets starts there and runs until a phase sets another, so boundaries of the learning rate
and of regularization need not coincide. A file may extend another one, by the same rule: a setting replaces the inherited one,
sections are merged key by key (unless `name`, `engine` or `family` asks for another kind), and a list, such as `phases`,
replaces the whole list. All problems of a config are reported at once, each with its dotted key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cifar_small.config.messages import describe_problems
from cifar_small.config.own_code import with_hashes
from cifar_small.config.phases import merge, phases_and_problems
from cifar_small.config.published import PUBLISHED
from cifar_small.config.renamed import with_current_names
from cifar_small.config.schema import Config, LibraryModel
from cifar_small.config.shipped import find_config
from cifar_small.config.strict_yaml import parse_yaml, read_yaml
from cifar_small.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[tuple[str, str]] = (), *, trusted: bool = True) -> Config:
    """Read a YAML config and apply overrides such as ("optim.lr", "0.2") or ("phases.0.epochs", "3").

    path: a file, or the name of a shipped config, such as `resnet_hour`; see config/shipped.py. trusted: may files of the
    user's own that it names run from now on? Not those that a run directory names.
    Raises ConfigError that lists every problem, each with its dotted key.
    """
    raw = with_changes(_read_mapping(find_config(path), ()), overrides)
    return parse_config(with_hashes(raw, trusted), str(path))


def with_changes(raw: Mapping[str, Any], overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A plain config with overrides such as ("optim.lr", "0.2") applied to it. Raises ConfigError for one that fits nowhere."""
    changed = deepcopy(dict(raw))
    for key, value in overrides:
        _override(changed, key, parse_yaml(value, f"override {key}"))
    return changed


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
    raw = with_current_names(raw)
    try:
        config = with_published_input(Config.model_validate(raw))
        problems = phases_and_problems(config)[1]
    except ValidationError as error:
        bad = {str(item["loc"][0]) for item in error.errors() if item["loc"]}  # none: of the config as a whole
        problems = describe_problems(Config, error, "") + _phase_problems(raw, bad)
    if problems:
        head = f"{where}: " if len(problems) == 1 else f"{where}: {len(problems)} problems: "
        raise ConfigError(head + "; ".join(problems))
    return config


def _phase_problems(raw: Mapping[str, Any], bad: set[str]) -> list[str]:
    """What is wrong with the phases of a config whose keys `bad` are wrong too, so that all is said at once."""
    stand_ins = {"name": "any", "model": {"family": "wideresnet", "depth": 10, "widen_factor": 1}}
    rest = {key: value for key, value in raw.items() if key not in bad}
    try:
        return phases_and_problems(Config.model_validate({**stand_ins, **rest}))[1]
    except ValidationError:  # the phases themselves are missing or no list; that has been said
        return []


def with_published_input(config: Config) -> Config:
    """The config with the input that published weights, or a file for the same net, expect, where it says nothing else."""
    model = config.model
    if not isinstance(model, LibraryModel) or model.stem != "imagenet" or config.weights is None or config.starts_from_run:
        return config
    published = PUBLISHED.get(model.family)
    if published is None:
        return config
    expected = {key: getattr(published, key) for key in ("size", "interpolation", "mean", "std")}
    return with_input(config, expected)


def with_input(config: Config, brought: Mapping[str, Any]) -> Config:
    """The config with `brought` for what its `input` leaves open; mean and std come together."""
    given = {key: value for key, value in dict(config.input).items() if value is not None}
    return config.model_copy(update={"input": config.input.model_copy(update={**brought, **given})})


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    node: Any = raw
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the config"
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise ConfigError(
                    f"override {dotted}: {here} is a list of {len(node)}; expected an index below that, got {part!r}"
                )
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
            raise ConfigError(f"override {dotted}: {here} is {node!r}, which has no key {part!r}")
