"""What commands share: options that several take, and the advice that an error's remedy becomes."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_small.cli.parser import CUTOFF, SETTERS
from cifar_small.errors import ConfigError, UserError
from cifar_small.files import probe_writable, refuse_existing

if TYPE_CHECKING:
    from cifar_small.config.schema import Config, Rules
    from cifar_small.inference.predict import Net
    from cifar_small.runs.directory import Run

# By the name of the option, as in the remedy of a UserError; what is missing here reads "use --name".
ADVICE = {
    "overwrite": "add --overwrite to replace it",
    "output": "choose another --output",
    "resume": "add --resume to continue it",
    "data_root": "name the folder of the data with --data-root",
    "device": "use another --device",
    "allow_rows": "if the file is right, add --allow-rows",
    "config": "for another competition, name the config with its rules by --config",
    "force": "add --force to remove it all the same",
    "file": "name the unlabelled file with --file",
    "layout": "if you know how they lie, use --layout",
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


def add_config(parser: argparse.ArgumentParser, text: str) -> None:
    """--config: a config file."""
    parser.add_argument("--config", type=Path, help=text)


def add_config_with_overrides(parser: argparse.ArgumentParser) -> None:
    """A config, with --config or as the first argument, whose settings can be overridden; `load_config_of` reads it."""
    parser.usage = f"{parser.prog} CONFIG [options] [--SETTING VALUE ...]"
    text = (
        "YAML file, or a name that cifar-small configs lists; the option name --config may be left out. After it any setting "
        "can be overridden by its dotted name (--optim.lr 0.2)"
    )
    parser.add_argument("--config", type=Path, metavar="CONFIG", help=text)


def add_config_anyhow(parser: argparse.ArgumentParser, text: str, metavar: str = "CONFIG") -> None:
    """A file that may stand with --config or without; `config_given` returns it."""
    parser.add_argument("first", type=Path, nargs="?", metavar=metavar, help=text)
    parser.add_argument("--config", type=Path, metavar=metavar, help=argparse.SUPPRESS)


def config_given(options: argparse.Namespace) -> Path:
    """The file of `add_config_anyhow`. Raises UserError where it is missing or given twice."""
    found = [path for path in (options.config, options.first) if path is not None]
    if len(found) != 1:
        got = "no file" if not found else f"both {found[0]} and {found[1]}"
        raise UserError(f"got {got}; expected one YAML file, with --config or without")
    return Path(found[0])


def views_given(name: str) -> str:
    """The type of --views: a choice of views, also by a name it had."""
    from cifar_small.config.renamed import VIEWS
    from cifar_small.config.schema import views_name

    try:
        return views_name(VIEWS.get(name, name))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
    rest, place = list(arguments), place_of_config(arguments)
    if place is not None and config is None:
        config = Path(rest.pop(place))
    if config is None:
        raise UserError(
            "no config; expected a YAML file or a name such as smoke (cifar-small configs lists them), with --config or without"
        )
    return config, rest


def place_of_config(arguments: Sequence[str]) -> int | None:
    """Where among options and their values an argument of its own stands, if one does."""
    place = 0
    while place < len(arguments) and arguments[place].startswith("--"):
        alone = "=" in arguments[place] or (place + 1 < len(arguments) and arguments[place + 1].startswith("--"))
        place += 1 if alone else 2
    return place if place < len(arguments) else None


def load_config_of(options: argparse.Namespace, *, trusted: bool = True) -> Config:
    """The config that a command was given, with or without --config, with the overrides of its command line.

    trusted: as `load_config` has it.
    """
    from cifar_small.config.loading import load_config
    from cifar_small.config.shipped import find_config, shipped_name

    options.config, options.overrides = split_config(options.config, options.overrides)
    found = find_config(options.config)
    if found != options.config and shipped_name(found) is None:
        print_note(f"{options.config} is {found}, the copy in this folder, not the one that comes with the package")
    return load_config(options.config, split_overrides(options.overrides), label="--", note=print_note, trusted=trusted)


def config_or_none(options: argparse.Namespace) -> Config | None:
    """The config that --config names, where it was given."""
    from cifar_small.config.loading import load_config

    return load_config(options.config) if options.config else None


def rules_or_none(options: argparse.Namespace) -> Rules | None:
    """The rules of the config that --config names, where it was given."""
    config = config_or_none(options)
    return config.rules if config else None


def print_note(text: str) -> None:
    """A note to the reader, on stderr, so that what is printed for programs stays as it is."""
    print(f"note: {text}", file=sys.stderr)


def print_default(what: str) -> None:
    """A note that CIFAR-10 was taken, in which way `what` says, for want of a config."""
    print_note(f"{what}; for another competition, name its config by --config")


def print_overflow(file: Path, quantization: Mapping[str, Any]) -> None:
    """A note where this processor may compute an int8 file wrongly; quantization: the facts that stand in it."""
    from cifar_small.inference.onnx_session import OVERFLOW, may_overflow

    if may_overflow(quantization):
        print_note(f"{file} {OVERFLOW}: predictions here may be wrong; cifar-small quantize --reduce-range makes one for it")


def load_onnx_form(run: Run, file: Path, checkpoint: str = "best") -> Net:
    """The net of a run as an ONNX file computes it, with a note where this processor may do so wrongly."""
    from cifar_small.inference.onnx_session import load_onnx

    net = load_onnx(run, file, checkpoint)
    assert net.onnx is not None
    print_overflow(file, net.onnx.quantization)
    return net


def split_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Turn ["--optim.lr", "0.1", "--seed=3"] into [("optim.lr", "0.1"), ("seed", "3")]. Raises ConfigError."""
    pairs = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"unexpected argument {flag!r}; {_how_to_override(flag)}")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value; write --{key} VALUE")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


# What others call options of a command.
ALSO_CALLED = {
    **{"show_config": "print-config", "config_file": "config", "cfg": "config", "resume_from": "resume"},
    **dict.fromkeys(("out", "out_dir", "log_dir", "logdir", "save_dir", "save_path", "work_dir"), "output"),
}


def check_overrides(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError for an option that is neither one of the command, `known`, nor a setting, naming the nearest."""
    from cifar_small.config.schema import Config

    for place, flag in enumerate(arguments):
        name = flag.partition("=")[0]
        first, dot, inner = name.lstrip("-").partition(".")
        if re.match(r"--|-[a-zA-Z]", flag) and (first not in Config.model_fields or not name.startswith("--")):
            if name in SETTERS:
                raise UserError(f"unknown option {name}; {_how_to_override(*arguments[place : place + 2])}")
            near = _nearest(first.replace("-", "_"), [name.removeprefix("--") for name in known]) if len(first) > 1 else ""
            hint = f"did you mean --{near}{dot}{inner}?" if near else _how_to_override()
            raise UserError(f"unknown option {name}; {hint}")


def _how_to_override(*given: str) -> str:
    """How a setting is overridden here, by the one that is given as key=value, if any."""
    pair = next((found for text in given if (found := re.fullmatch(r"(?:--[\w-]+=)?([a-z][\w.]*)=(.+)", text))), None)
    example = f"--{pair[1]} {shlex.quote(pair[2])}" if pair else "--optim.lr 0.2"
    return f"settings are overridden by their own names: {'' if pair else 'for example '}{example}"


def _nearest(word: str, options: Sequence[str]) -> str:
    """The option, or setting with its value, that an unknown word means; nothing where none is like it."""
    from cifar_small.config.messages import MEANT, meant_setting
    from cifar_small.config.schema import Config

    near = [name for name in options if name.replace("-", "_").startswith(word) or name == ALSO_CALLED.get(word)]
    if not near and word not in MEANT:
        near = [name for name in Config.model_fields if name.startswith(word)]  # mixup_alpha for mixup
    meant = "" if near else meant_setting(Config, [word], "")
    if not near and not meant:
        near = difflib.get_close_matches(word, [*options, *Config.model_fields, *MEANT], 1, CUTOFF)
        meant = meant_setting(Config, near, "") if near and near[0] in MEANT else ""
    if near and (near[0] in options or not meant):
        return near[0]
    setting, _, value = meant.partition(" ")
    return f"{setting} {shlex.quote(value)}" if value else setting


def reserve(overwrite: bool, *files: Path | None) -> None:
    """Raise UserError if one of these files exists or could not be written: before the work starts, not after it."""
    for path in files:
        if path is not None:
            refuse_existing(path, overwrite)
            probe_writable(path)
