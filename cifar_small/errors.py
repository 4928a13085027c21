"""The errors a user can cause, each with the exit code the command line ends with.

A message says what was got and what was expected, without naming options of the command line. Where a parameter would mend
it, `remedy` names that parameter, with a value where one is known. The command line adds its option of that name, if any
(where another command comes first, `command_line` writes it):

    raise UserError(f"{path} exists already", remedy="overwrite")                  # ...; add --overwrite to replace it
    raise UserError(f"{folder} already holds a run", remedy=("resume", "output"))  # ...; add --resume ..., or choose ...
    raise DataError(f"{path} has 360 images; expected 10,000", remedy="allow_rows=360")  # ...; if ..., add --allow-rows 360

The wording for each name is in cli/options.py (ADVICE). The command line prints one line, without a traceback. Anything else
that is raised is a defect of this package and keeps its traceback.
"""

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


class UserError(ValueError):
    """Wrong usage: a value, a path or a file that already exists. Exit code 2.

    remedy: the parameters that would mend it, each NAME or NAME=VALUE, best first.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str | Sequence[str] = ()) -> None:
        super().__init__(message)
        self.remedy = (remedy,) if isinstance(remedy, str) else tuple(remedy)


class DiskError(UserError):
    """A full disk, or a path that cannot be written. Exit code 2."""


class ConfigError(UserError):
    """A configuration that cannot run, including a net over its parameter budget. Exit code 2."""


class DataError(UserError):
    """A data, predictions or submission file that is not what it should be. Exit code 3."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or run directory that is damaged, in use, or belongs to something else. Exit code 4."""

    exit_code = 4


class InUseError(CheckpointError):
    """A run directory that another process holds. Exit code 4."""


class DivergedError(UserError):
    """Training produced a loss or gradient that is not finite. Exit code 5."""

    exit_code = 5


class Terminated(Exception):  # noqa: N818  (not an error: the user asked for it)
    """A signal to end arrived; the run was saved and can be resumed, or had just finished. Exit code 143."""

    exit_code = 143

    def __init__(self, message: str, finished: bool = False) -> None:
        super().__init__(message)
        self.finished = finished  # nothing is left to resume
