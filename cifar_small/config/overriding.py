"""Overrides: single settings of a config, by dotted key, put in place of what its file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cifar_small.config.schema import Config
from cifar_small.config.schema.kinds import KIND_KEYS, kinds_of, sections_at
from cifar_small.errors import ConfigError


def with_kinds_first(overrides: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The overrides with those first that say of which kind a section is, such as optim.name; else in their order."""
    return sorted(overrides, key=lambda pair: not _is_kind(pair[0]))


def _is_kind(dotted: str) -> bool:
    section, _, key = dotted.rpartition(".")
    return bool(section) and key in KIND_KEYS


def override(
    raw: dict[str, Any], dotted: str, value: Any, label: str = "override ", note: Callable[[str], object] | None = None
) -> None:
    """Set a value in nested dicts and lists. Raises ConfigError for a place that cannot be.

    Where `note` is given and the value makes a section one of another kind, settings of that section that the new kind does not
    have are dropped first, and `note` is told in words.
    """
    node: Any = raw
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the config"
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise ConfigError(
                    f"{label}{dotted}: {here} is a list of {len(node)}; expected an index below that, got {part!r}"
                )
            if last:
                node[int(part)] = value
            node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                if note is not None and _is_kind(dotted):
                    _drop_foreign(raw, parts, str(value), label, note)
                node[part] = value
            elif not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[part]
        else:
            raise ConfigError(f"{label}{dotted}: {here} is {node!r}, which has no key {part!r}")


def _drop_foreign(raw: dict[str, Any], parts: Sequence[str], kind: str, label: str, note: Callable[[str], object]) -> None:
    """Drop what the new kind of a section does not have: there, and in phases that change that section without naming one."""
    *path, key = parts
    # Of a library's net, or of what is the user's own, the kind is not listed: torchvision/resnet18, my_nets.py:Net.
    sort = "own" if ":" in kind else "library" if "/" in kind else kind
    fields = {name for section in sections_at(Config, path) if sort in kinds_of(section) for name in section.model_fields}
    if not fields:
        return  # no such kind: which is said when the config is checked
    section: Any = raw
    for part in path:
        section = section[int(part) if isinstance(section, list) else part]
    phases = raw.get("phases") if len(path) == 1 else None
    changes = [phase[path[0]] for phase in phases or () if isinstance(phase, Mapping) and isinstance(phase.get(path[0]), dict)]
    named = next((index for index, change in enumerate(changes) if key in change), len(changes))
    dropped, kept = [], []
    for each in (section, *changes[:named]):
        dropped += [f"{name} {each.pop(name)}" for name in [*each] if name not in fields]
        kept += [f"{name} {value}" for name, value in each.items() if name != key]
    if dropped:
        stays = f"; {', '.join(kept)} kept" if kept else ""
        note(f"{label}{'.'.join(parts)} {kind}: {', '.join(dropped)} dropped, which {kind} does not have{stays}")
