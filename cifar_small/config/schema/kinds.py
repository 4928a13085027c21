"""Which sections a setting may hold, and of which kind each is: `optim` is of the kind that its `name` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from cifar_small.config.schema.base import Section

# Keys that say which kind of section it is, with their defaults; optimizers alone may lack a name.
KIND_KEYS = {"name": "sgd", "engine": "tensor", "family": None}


def sections_at(root: type[BaseModel], path: Sequence[str]) -> list[type[BaseModel]]:
    """The sections that may stand at a dotted path, such as those of every optimizer at ["optim"]; phases are as the whole."""
    sections = [root]
    for part in path:
        if not (sections == [root] and part == "phases") and not part.isdecimal():
            fields = (section.model_fields.get(part) for section in sections)
            sections = [section for field in fields if field for section in sections_of(field.annotation)]
    return sections


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a setting of this type may hold; none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_of(argument)]


def kinds_of(section: type[BaseModel]) -> list[str]:
    """The kinds that a section stands for, such as adam, adamw and radam; none where its key has one kind of section."""
    if issubclass(section, Section) and section.TAG:
        return [section.TAG]
    for key in KIND_KEYS:
        field = section.model_fields.get(key)
        if field and get_args(field.annotation):
            return [str(tag) for tag in get_args(field.annotation)]
    return []
