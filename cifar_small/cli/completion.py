"""The command `completion`: a script by which a shell completes commands, options, choices, settings and names of configs."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_small.cli.command import Command
from cifar_small.errors import UserError

if TYPE_CHECKING:
    from cifar_small.config.settings import Setting

SHELLS = ("bash", "zsh", "fish")
CONFIGS = ("config", "first", "configs")  # arguments that take a file or the name of a shipped config
FOLDERS = ("RUN", "FOLDER", "SHIFTS")  # what arguments that take a folder call it
# How each shell completes a shipped config's name, or a file; it is called by its name.
BASH = """\
_cifar_small_configs() {{
  compgen -W {names} -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -d -- "$1"
}}"""
ZSH = """\
_cifar_small_configs() {{
  compadd -- {names}
  _files -g '*.yaml'
}}"""
FISH = """\
function _cifar_small_configs
  string split ' ' {names}
  __fish_complete_suffix .yaml
end"""


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def _completion(options: argparse.Namespace) -> int:
    """Print a script that completes commands, options, settings and names of configs in a shell.

    Write it where the shell looks for such scripts, and open a new shell:
      cifar-small completion bash > ~/.local/share/bash-completion/completions/cifar-small
      cifar-small completion zsh > ~/.zfunc/_cifar-small     after fpath+=~/.zfunc, before compinit, in ~/.zshrc
      cifar-small completion fish > ~/.config/fish/completions/cifar-small.fish
    It is a list of what this version knows: write it again after an update.
    """
    try:
        import shtab
    except ImportError as error:
        raise UserError(
            "completion needs the package shtab, which this environment does not have: pip install 'cifar_small[completion]'"
        ) from error
    _describe(options.parser, options.commands, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(options.parser, shell=options.shell))
    return 0


def _describe(parser: argparse.ArgumentParser, commands: list[Command], file: Any, folder: Any) -> None:
    """Add to a parser what it leaves open: what files an argument takes, and the settings that a command overrides."""
    from cifar_small.config.settings import all_settings

    (actions,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    actions.help = "what to do"  # the help lists the commands by stage instead; what it hides would not be completed
    for command in commands:
        sub: argparse.ArgumentParser = actions.choices[command.name]
        for action in sub._actions:
            if action.type is Path:
                kind = folder if action.metavar in FOLDERS else file
                action.complete = _configs() if action.dest in CONFIGS else kind  # type: ignore[attr-defined]
        for setting in all_settings() if command.overrides else ():
            if f"--{setting.key}" not in sub._option_string_actions and "N" not in setting.key.split("."):
                text = textwrap.shorten(setting.description, 80, placeholder=" ...").replace("%", "%%")
                sub.add_argument(f"--{setting.key}", choices=_choices(setting), help=text)


def _configs() -> dict[str, Any]:
    from cifar_small.config.shipped import shipped_configs

    names = " ".join(shipped_configs())
    preamble = {"bash": BASH, "zsh": ZSH, "fish": FISH}
    written = {shell: text.format(names=names if shell == "zsh" else shlex.quote(names)) for shell, text in preamble.items()}
    return {
        "bash": "_cifar_small_configs",
        "zsh": "_cifar_small_configs",
        "fish": "(_cifar_small_configs)",
        "preamble": written,
    }


def _choices(setting: Setting) -> list[str] | None:
    """The values of a setting that has few; None where any may stand."""
    from cifar_small.config.settings import value_schema

    schema = value_schema(setting.field)
    found: list[str] = []
    for option in schema.get("anyOf", [schema]):
        found += option.get("enum", [option["const"]] if "const" in option else [])
        found += ["true", "false"] if option.get("type") == "boolean" else []
    return list(map(str, found)) or None


COMMANDS = [Command("completion", _completion_arguments, _completion)]
