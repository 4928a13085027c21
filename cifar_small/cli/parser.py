"""argparse whose errors are one line that names what was meant."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

# Options of other toolkits that set what their value names: --set optim.lr=0.2.
SETTERS = {f"--{name}" for name in ("set", "cfg-options", "cfg_options", "override", "overrides", "opts", "options")}
TYPES = {"int": "a whole number", "float": "a number"}
CUTOFF = 0.7  # likeness from which a word is taken for another: epochs for num_epochs, but not select for set


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports wrong usage as every other error: one line, with the nearest option or choice; exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the error in our words and leave with 2."""
        program = self.prog.partition(" ")[0]
        text = _in_our_words(message)
        print(f"{program}: error: {text}{'' if text.endswith('?') else f'; see {self.prog} --help'}", file=sys.stderr)
        raise SystemExit(2)

    @property
    def options(self) -> list[str]:
        """All options, such as --output."""
        return [name for name in self._option_string_actions if name.startswith("--")]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` of the nearest known word, or of one that begins so; empty without any."""
    words = list(known)
    near = [each for each in words if each.startswith(word)] or difflib.get_close_matches(word, words, 1, cutoff=CUTOFF)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_options(rest: Sequence[str], known: Sequence[str]) -> str:
    """What to say of arguments that a command does not take."""
    word = next((each for each in rest if each.startswith("-")), rest[0])
    if word.partition("=")[0] in SETTERS:
        return f"unknown option {word}; this command has no settings to override"
    if not word.startswith("-"):
        return f"unexpected argument {word!r}"
    return f"unknown option {word}{did_you_mean(word.partition('=')[0], known)}"


def _in_our_words(message: str) -> str:
    """A message of argparse, such as "argument --split: invalid choice: 'tset' (choose from 'train', 'val')"."""
    if found := re.fullmatch(r"argument (.+?): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
        name, given, listed = found.groups()
        choices = [choice.strip("'") for choice in listed.split(", ")]
        if name == "COMMAND":
            return f"unknown command {given}{did_you_mean(given, choices)}"
        return f"{name} {given}: expected one of {', '.join(choices)}{did_you_mean(given, choices)}"
    if found := re.fullmatch(r"argument (.+?): invalid (\w+) value: '?(.*?)'?", message):
        name, kind, given = found.groups()
        return f"{name} {given}: expected {TYPES.get(kind, kind)}"
    if found := re.fullmatch(r"argument (.+?): expected (one|at least one) arguments?", message):
        return f"{found[1]} needs {'a value' if found[2] == 'one' else 'at least one value'}"
    if found := re.fullmatch(r"argument (.+?): not allowed with argument (.+)", message):
        return f"{found[1]} and {found[2]} exclude each other; give one of them"
    if found := re.fullmatch(r"the following arguments are required: (.+)", message):
        return f"{found[1]} missing"
    return message.removeprefix("argument ")
