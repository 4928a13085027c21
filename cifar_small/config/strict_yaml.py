"""A YAML reader without YAML's surprises, for configuration files and command-line overrides.

Plain PyYAML reads `1e-3` as a string, `no` as False, `010` as 8, keeps the last of two equal keys and expands aliases. Here
`1e-3` is a float, only `true` and `false` are booleans, integers are decimal (`5_000_000` is allowed), keys are unique,
and tags, anchors and aliases are refused.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from cifar_small.errors import ConfigError

MAX_BYTES = 1_000_000


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with its own scalar rules; see the module's docstring."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own protocol)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, anchors and tags, which a configuration has no use for."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"the tag {event.tag} is not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Build a mapping whose keys are text and unique."""
        seen: dict[str, Any] = {}
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key in seen:
                where = seen[key].start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key!r} (first in line {where}): remove one",
                    problem_mark=key_node.start_mark,
                )
            seen[key] = key_node
            key_node.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


@lru_cache(maxsize=128)
def _parsed(text: str) -> Any:
    """What a text holds, kept: the trials of a sweep read one file hundreds of times, and a file takes 10 ms."""
    return yaml.load(text, Loader=_StrictLoader)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text strictly into dicts, lists, strings, numbers, booleans and None; `where` names it in messages.

    Raises ConfigError for anything that is not plain YAML, with line and column.
    """
    try:
        return deepcopy(_parsed(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}:{place} {error.problem or error}") from None
    except Exception as error:  # PyYAML also raises ValueError, AttributeError and RecursionError on malformed text
        raise ConfigError(f"{where} is not readable as YAML ({type(error).__name__}: {str(error).splitlines()[0:1]})") from None


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which the strict reader would take for a number."""


for _first_character, _resolvers in _StrictLoader.yaml_implicit_resolvers.items():
    for _tag, _regexp in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _regexp, [_first_character])


def dump_yaml(value: Any) -> str:
    """Plain values as YAML text that `parse_yaml` reads back to equal values; short lists and mappings on one line."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=128)
    return text


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file (UTF-8, at most 1 MB) strictly. Raises ConfigError naming the file and the place."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the config {path}: {error.strerror}; expected the path of a YAML file, or a name that "
            "cifar-small configs lists"
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path} has {len(raw):,} bytes; a config has at most {MAX_BYTES:,}: is this the right file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}; save it as UTF-8"
        ) from None
    return parse_yaml(text, str(path))
