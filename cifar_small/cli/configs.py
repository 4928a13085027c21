"""The commands that look at configs before training: configs, param_count."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_output, add_overwrite
from cifar_small.errors import UserError


def _configs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="configs or folders of them to copy (default: list all)")
    add_output(parser, "folder that the copies go to (default: configs)", Path("configs"))
    add_overwrite(parser)


def _configs(options: argparse.Namespace) -> int:
    """List the configs that come with the package, or copy some to change them.

    Every command that takes a config finds them by name too, in any folder:
      cifar-small train --config resnet_hour
      cifar-small configs resnet_hour         -> configs/resnet_hour.yaml, with what it extends
      cifar-small configs speed levels        -> all in configs/speed/ and configs/levels/
    A copy in configs/ of the current folder is what its name means from then on.
    """
    from cifar_small.config.shipped import copy_configs, find_shipped, headline, shipped_configs

    if not options.names:
        shipped = shipped_configs()
        width = max(map(len, shipped)) + 2
        for name, path in shipped.items():
            print(f"{name:<{width}}{headline(path)}")
        return 0
    paths: list[Path] = []
    for name in options.names:
        found = find_shipped(name)
        if found is None:
            raise UserError(f"no shipped config is called {name}; cifar-small configs lists them")
        paths += sorted(found.rglob("*.yaml")) if found.is_dir() else [found]
    for path in copy_configs(paths, options.output, options.overwrite):
        print(f"-> {path}")
    return 0


def add_param_count_arguments(parser: argparse.ArgumentParser) -> None:
    """What `cifar-small param_count` and the executable tools/param_count take."""
    parser.add_argument(
        "configs", nargs="*", type=Path, metavar="CONFIG", help="YAML files, folders or names; none: all of configs/"
    )
    parser.add_argument("--config", type=Path, nargs="+", default=[], metavar="CONFIG", help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=_budget, metavar="N", help="use N instead of each config's rules.max_params")
    parser.add_argument("--layers", action="store_true", help="also print each net layer by layer (torchinfo)")
    parser.add_argument("--fit", action="store_true", help="also print the widest net of each shape that fits, as YAML")


def _budget(text: str) -> int:
    digits = text.replace("_", "").replace(",", "")
    if not (digits.isascii() and digits.isdecimal() and int(digits)):
        raise argparse.ArgumentTypeError(f"expected a positive whole number such as 5_000_000, got {text!r}")
    return int(digits)


def count_parameters(options: argparse.Namespace) -> int:
    """Count the parameters of each config's net and compare them with its budget, before training.

    examples:
      %(prog)s                              every config in configs/, or every one that comes with the package
      %(prog)s configs/published            every config in a folder
      %(prog)s my.yaml --budget 1_000_000   against another budget than the config's rules.max_params
      %(prog)s my.yaml --fit                the widest net of that shape within the budget, ready to paste
      %(prog)s my.yaml --layers             every layer with its output shape and parameters

    columns:
      trainable   what the budget limits: every parameter that can require a gradient, BatchNorm's weights and biases included
      total       all parameters
      MMACs       million multiply-adds of convolutions and linear layers for one image of input.size (32 by default)
      fp32 MiB    parameters at 4 bytes each, in units of 2**20 bytes
      headroom    budget - trainable; negative and marked OVER when the net is too large

    Ends with 0 if all are within their budgets, 1 if one or more are over, 2 for a config that cannot be read.
    """
    from cifar_small.reporting.param_table import print_param_table

    return print_param_table([*options.configs, *options.config], options.budget, fit=options.fit, layers=options.layers)


COMMANDS = (
    Command("param_count", add_param_count_arguments, count_parameters),
    Command("configs", _configs_arguments, _configs),
)
