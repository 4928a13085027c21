"""The command `settings`: what each setting of a config means."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.errors import UserError

if TYPE_CHECKING:
    from cifar_small.config.settings import Setting

WIDTH = 110
LONGEST = 116  # of a line of the overview
FEW_KINDS = 4  # of a section, which are listed by name
OPEN_KINDS = {"library": "torchvision/NAME, timm/NAME", "own": "FILE.py:NAME"}  # kinds whose key holds more than a word


def _settings_arguments(parser: argparse.ArgumentParser) -> None:
    text = "a key such as optim.lr, a section such as augment, or a word; none: all settings, a line each"
    parser.add_argument("key", nargs="?", metavar="KEY", help=text)
    parser.add_argument("--schema", action="store_true", help="print a JSON schema of configs, for editors")


def _settings(options: argparse.Namespace) -> int:
    """Explain the settings of a config: type, default, what they need or exclude.

      cifar-small settings optim.lr              one setting, of each optimizer that has it
      cifar-small settings augment               a section
      cifar-small settings smoothing             whatever has the word in its name, or else in its description
    Editors complete and check configs by a JSON schema; docs/config.md says how to name it to them:
      cifar-small settings --schema > config.schema.json
    """
    from cifar_small.config.settings import all_settings, find_settings, json_schema

    if options.schema:
        if options.key is not None:
            raise UserError(f"the schema is that of whole configs; drop {options.key}")
        print(json.dumps(json_schema(), indent=2))
        return 0
    found = find_settings(options.key) if options.key else list(all_settings())
    print("\n".join(_overview(found)) if options.key is None else "\n\n".join(map(_explained, found)))
    return 0


def _overview(settings: Sequence[Setting]) -> list[str]:
    """A line for each key, with the beginning of its description."""
    from cifar_small.config.schema.kinds import KIND_KEYS

    texts: dict[str, str] = {}
    for key, group in groupby(settings, lambda setting: setting.key):
        first, *others = group
        names_kind = others and key.rpartition(".")[2] in KIND_KEYS
        texts[key] = f"One of {', '.join(_values([first, *others]))}." if names_kind else first.description
    width = max(map(len, texts))
    room = LONGEST - width - 2
    return [f"{key:<{width}}  {textwrap.shorten(text, room, placeholder=' ...')}" for key, text in texts.items()]


def _values(settings: Sequence[Setting]) -> list[str]:
    """What the key that says of which kind a section is may hold."""
    return [OPEN_KINDS.get(kind, kind) for setting in settings for kind in setting.kinds]


def _explained(setting: Setting) -> str:
    kinds = setting.kinds if len(setting.kinds) <= FEW_KINDS else (setting.kinds[0], "...", setting.kinds[-1])
    lines = [f"{setting.key}{f' ({chr(44).join(kinds)})' if kinds else ''}".replace(",", ", "), f"  {setting.type}"]
    lines.append(f"  default: {setting.default}" if setting.default != "required" else "  required")
    if setting.needs:
        lines.append(f"  has an effect only with {setting.needs}")
    if setting.in_phases and not setting.key.startswith("phases"):
        lines.append(f"  also in a phase: phases.0.{setting.key}")
    return "\n".join([*lines, *textwrap.wrap(setting.description, WIDTH, initial_indent="  ", subsequent_indent="  ")])


COMMANDS = (Command("settings", _settings_arguments, _settings),)
