"""The settings of a config as people and editors look them up: keys, types, ranges, defaults, descriptions, a JSON schema."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from cifar_small.config.messages import MEANT
from cifar_small.config.schema import BasicAugment, Config, PhaseSettings, Recipe, Section
from cifar_small.config.schema.kinds import kinds_of, sections_of
from cifar_small.config.schema.patterns import IN_WORDS
from cifar_small.errors import UserError

OF_PHASES = "phases.N"  # what stands before the key of a setting of a phase


@dataclass(frozen=True)
class Setting:
    """A setting: `key` is dotted, `kinds` the kinds of its section that have it (none: the section has one kind only)."""

    key: str
    kinds: tuple[str, ...]
    field: FieldInfo
    needs: str = ""  # what must be on beside it

    @property
    def description(self) -> str:
        """What it means, in a sentence or more."""
        return " ".join((self.field.description or "").split())

    @property
    def type(self) -> str:
        """What values it takes, such as `number above 0, at most 100`."""
        return in_words(value_schema(self.field))

    @property
    def default(self) -> str:
        """Its default as a config writes it; `required` where it has none."""
        if self.field.is_required():
            return "required"
        if self.key == f"{OF_PHASES}.dropout":
            return "that of model.dropout"
        value = self.field.get_default(call_default_factory=True)
        return "see its keys" if isinstance(value, Section) else json.dumps(value)

    @property
    def in_phases(self) -> bool:
        """May a phase change it?"""
        return self.key.partition(".")[0] in Recipe.model_fields or self.key.startswith(OF_PHASES)


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the schema; those that phases alone have are last."""
    own = [name for name in PhaseSettings.model_fields if name not in Recipe.model_fields]
    of_phases = [Setting(f"{OF_PHASES}.{name}", (), PhaseSettings.model_fields[name]) for name in own]
    return (*_settings((Config,), ""), *of_phases)


def _settings(sections: Sequence[type[Section]], prefix: str) -> Iterator[Setting]:
    """The settings of a section that may be of several kinds; what some of them define alike is one setting."""
    for name in dict.fromkeys(name for section in sections for name in section.model_fields):
        having = [section for section in sections if name in section.model_fields]
        groups: dict[str, list[type[Section]]] = {}
        for section in having:
            groups.setdefault(repr(section.model_fields[name]), []).append(section)
        for group in groups.values():
            field = group[0].model_fields[name]
            kinds = tuple(kind for section in group for kind in kinds_of(section)) if len(group) < len(sections) else ()
            yield Setting(f"{prefix}{name}", kinds, field, _needs(group[0], name))
        inner = [section for section in sections_of(having[0].model_fields[name].annotation) if issubclass(section, Section)]
        many = get_origin(having[0].model_fields[name].annotation) is tuple
        yield from _settings(inner, f"{prefix}{name}.{'N.' if many else ''}")


def _needs(section: type[Section], name: str) -> str:
    if not issubclass(section, BasicAugment):
        return ""
    masters = section.REQUIRES.get(name, ())
    policies = section.ARGUMENTS.get(name, ())
    return " or ".join([*masters, *(f"policy {policy}" for policy in policies)])


def value_schema(field: FieldInfo) -> dict[str, Any]:
    """The JSON schema of a setting's own value; of a section: an object."""
    if sections_of(field.annotation):
        kind: dict[str, Any] = {"type": "array" if get_origin(field.annotation) is tuple else "object"}
        nullable = type(None) in get_args(field.annotation)
        return {"anyOf": [kind, {"type": "null"}]} if nullable else kind
    return TypeAdapter(field.rebuild_annotation()).json_schema()


NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "object": "section"}


def in_words(schema: dict[str, Any]) -> str:
    """A JSON schema of a value in words."""
    if options := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(in_words(option) for option in options))
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    if "pattern" in schema:
        return IN_WORDS[schema["pattern"]]
    kind = schema.get("type", "anything")
    if kind == "null":
        return "null"
    if kind == "array":
        return _list_in_words(schema)
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    bounds = [
        f"from {low:,.12g}" if low is not None else f"above {above:,.12g}" if above is not None else "",
        f"to {high:,.12g}" if high is not None else f"below {below:,.12g}" if below is not None else "",
    ]
    return " ".join([NAMES.get(kind, kind), *filter(None, bounds)])


def _list_in_words(schema: dict[str, Any]) -> str:
    if parts := schema.get("prefixItems"):
        return f"[{', '.join(in_words(part) for part in parts)}]"
    least = f" of {schema['minItems']} or more" if schema.get("minItems") else ""
    items = schema.get("items")
    return f"list{least}" + (f", each: {in_words(items)}" if items else "")


def find_settings(word: str) -> list[Setting]:
    """The settings that a key, a section, the last part of a key or a word of the description means. Raises UserError."""
    settings = all_settings()
    parts = ["N" if part.isdecimal() else part for part in word.split(".")]
    if parts[0] == "phases" and len(parts) > 2 and parts[2] in Recipe.model_fields:
        parts = parts[2:]  # phases.0.optim.lr is as optim.lr
    key = ".".join(parts)
    key = MEANT.get(key, key).partition(" ")[0].replace("phases.0", OF_PHASES)
    for matches in (
        lambda each: each.key == key or each.key.startswith(f"{key}."),
        lambda each: each.key.endswith(f".{key}"),
        lambda each: key in each.key.rpartition(".")[2],
        lambda each: key.lower() in each.description.lower(),
    ):
        if found := [each for each in settings if matches(each)]:
            return found
    names = dict.fromkeys(name for each in settings for name in (each.key, each.key.rpartition(".")[2]))
    near = difflib.get_close_matches(key, names, 1)
    raise UserError(
        f"no setting is called {word}"
        + (f"; did you mean {near[0]}?" if near else "; expected a key such as optim.lr; cifar-small settings lists all")
    )


def json_schema() -> dict[str, Any]:
    """A JSON schema for editors: every key with its type and description, within phases and for files that extend others too.

    It is looser than the check of a config: kinds of a section are merged, and what excludes what is not said.
    """
    phase = _object((PhaseSettings,))
    properties = _object((Config,))["properties"] | {
        "extends": {"type": "string", "description": "Path of the config that this one changes, relative to this file."},
        "phases": {"type": "array", "minItems": 1, "items": phase, "description": Config.model_fields["phases"].description},
    }
    whole = {"required": [name for name, field in Config.model_fields.items() if field.is_required()]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cifar_small config",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "anyOf": [{"required": ["extends"]}, whole],
    }


def _object(sections: Sequence[type[Section]]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name in dict.fromkeys(name for section in sections for name in section.model_fields):
        fields = [section.model_fields[name] for section in sections if name in section.model_fields]
        values: list[dict[str, Any]] = []
        for field in fields:
            inner = [section for section in sections_of(field.annotation) if issubclass(section, Section)]
            value = _object(inner) if inner else value_schema(field)
            if get_origin(field.annotation) is tuple and inner:
                value = {"type": "array", "items": value}
            nullable = type(None) in get_args(field.annotation) and inner
            value = {"anyOf": [value, {"type": "null"}]} if nullable else value
            if value not in values:
                values.append(value)
        texts = dict.fromkeys(" ".join((field.description or "").split()) for field in fields)
        properties[name] = (values[0] if len(values) == 1 else {"anyOf": values}) | {"description": " / ".join(texts)}
    return {"type": "object", "additionalProperties": False, "properties": properties}
