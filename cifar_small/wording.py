"""Words of messages that several modules need: counts with their nouns, differences, commands to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def plural(count: int, noun: str, many: str = "") -> str:
    """The count with its noun: plural(1, "run") is "1 run", plural(3, "entry", "entries") is "3 entries"."""
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"


def differing(ones: Mapping[str, Any], others: Mapping[str, Any], prefix: str = "") -> str:
    """The keys in which two differ, with both values: differing({"a": 1}, {"a": 2}, "model.") is "model.a: 1 and 2"."""
    keys = sorted(key for key in ones.keys() | others.keys() if ones.get(key) != others.get(key))
    return ", ".join(f"{prefix}{key}: {ones.get(key)} and {others.get(key)}" for key in keys)


def differing_classes(ones: Sequence[str], others: Sequence[str]) -> str:
    """In words, how two lists of class names differ: in their order alone, or in names that only one of them has."""
    lone = [[name for name in some if name not in rest] for some, rest in ((ones, others), (others, ones))]
    if not any(lone):
        place = next((at for at, pair in enumerate(zip(ones, others, strict=False)) if pair[0] != pair[1]), 0)
        return f"the same classes in another order, first {ones[place]} and {others[place]} in place {place}"
    told = [f"{', '.join(names[:3])}{' ...' * (len(names) > 3)}" or "none" for names in lone]
    return f"other classes: {told[0]} in the one alone, {told[1]} in the other"


def command_line(name: str, *arguments: object, **options: object) -> str:
    """The command that does something, to be copied: ("predict", run, split="val") is `cifar-small predict RUN --split val`.

    Options that are None or False are left out; True is an option without a value.
    """
    words = ["cifar-small", name, *map(str, arguments)]
    for option, value in options.items():
        if value is not None and value is not False:
            words += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)
