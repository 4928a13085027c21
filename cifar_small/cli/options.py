"""What commands share: options that several take, and the advice that an error's remedy becomes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_small.errors import ConfigError, UserError
from cifar_small.files import probe_writable, refuse_existing

# By the name of the option, as in the remedy of a UserError; what is missing here reads "use --name".
ADVICE = {
    "overwrite": "add --overwrite to replace it",
    "output": "choose another --output",
    "resume": "add --resume to continue it",
    "data_root": "name the folder of the data with --data-root",
    "device": "use another --device",
    "allow_rows": "if the file is right, add --allow-rows",
    "retry_failed": "add --retry-failed to continue it",
}


def message_of(error: UserError, options: argparse.Namespace | None) -> str:
    """The error on one line, with advice for each parameter of its remedy that is an option of this command."""
    advice = []
    for remedy in error.remedy:
        name, _, value = remedy.partition("=")
        if options is not None and hasattr(options, name):
            text = ADVICE.get(name, f"use --{name.replace('_', '-')}")
            advice.append(f"{text} {value}".rstrip())
    message = " ".join(str(error).split())
    return f"{message}; {', or '.join(advice)}" if advice else message


def add_run(parser: argparse.ArgumentParser) -> None:
    """One run directory, as `directory`."""
    parser.add_argument("directory", type=Path, metavar="RUN", help="run directory")


def add_runs(parser: argparse.ArgumentParser, text: str = "run directories") -> None:
    """One or more run directories, as `directories`."""
    parser.add_argument("directories", type=Path, nargs="+", metavar="RUN", help=text)


def add_output(parser: argparse.ArgumentParser, text: str, default: Path | None = None, **more: Any) -> None:
    """--output: the file or folder to write; `more` as argparse has it (required, metavar)."""
    parser.add_argument("--output", type=Path, default=default, help=text, **more)


def add_overwrite(parser: argparse.ArgumentParser, what: str = "an existing file") -> None:
    """--overwrite: replace what is there."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def add_config(
    parser: argparse.ArgumentParser,
    text: str = "YAML file, or a name that cifar-small configs lists",
    *,
    required: bool = False,
) -> None:
    """--config: a config file."""
    parser.add_argument("--config", type=Path, required=required, help=text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """--checkpoint: which weights of a run."""
    text = "which weights of the run: best, final, epoch-0010 ... (default: best; see engine.keep_every)"
    parser.add_argument("--checkpoint", default="best", metavar="NAME", help=text)


def add_data_root(parser: argparse.ArgumentParser, use: str = "") -> None:
    """--data-root: the data of a config may have moved since."""
    parser.add_argument("--data-root", metavar="FOLDER", help=f"where the data is now{use} (default: as the config says)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device: where to compute."""
    parser.add_argument("--device", help="auto, cpu or cuda (default: as the config says)")


def add_file(parser: argparse.ArgumentParser, text: str = "the unlabelled file the CSV answers", **more: Any) -> None:
    """--file: the competition's unlabelled file."""
    parser.add_argument("--file", type=Path, help=text, **more)


def add_estimate(parser: argparse.ArgumentParser, text: str) -> None:
    """--estimate: what `estimate` wrote."""
    parser.add_argument("--estimate", type=Path, metavar="JSON", help=text)


def add_layout(parser: argparse.ArgumentParser) -> None:
    """--layout: how the rows of an unlabelled file are read."""
    text = "pixel order of flat rows (default: by content)"
    parser.add_argument("--layout", choices=["auto", "HWC", "CHW"], default="auto", help=text)


def add_allow_rows(parser: argparse.ArgumentParser) -> None:
    """--allow-rows: another number of images than the rules have."""
    parser.add_argument("--allow-rows", type=int, metavar="N", help="accept N images where the rules expect another number")


def split_config(config: Path | None, arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The config, also where it stands among the arguments without its option, and the other arguments. Raises UserError."""
    rest, place = list(arguments), 0
    while place < len(rest) and rest[place].startswith("--"):
        place += 1 if "=" in rest[place] or (rest[place + 1 :] and rest[place + 1].startswith("--")) else 2
    if place < len(rest) and config is None:
        config = Path(rest.pop(place))
    if config is None:
        raise UserError(
            "no config; expected a YAML file or a name such as smoke (cifar-small configs lists them), with --config or without"
        )
    return config, rest


def split_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Turn ["--optim.lr", "0.1", "--seed=3"] into [("optim.lr", "0.1"), ("seed", "3")]. Raises ConfigError."""
    pairs = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"unexpected argument {flag!r}; settings are overridden as --section.key value")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value; write --{key} VALUE")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def reserve(overwrite: bool, *files: Path | None) -> None:
    """Raise UserError if one of these files exists or could not be written: before the work starts, not after it."""
    for path in files:
        if path is not None:
            refuse_existing(path, overwrite)
            probe_writable(path)
