"""The program tools/param_count: the command `param_count` by itself, which people run before training."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path

from cifar_small.cli.configs import add_param_count_arguments, count_parameters
from cifar_small.cli.parser import OneLineParser


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Print the table and return the exit code; `root` holds the configs/ that are read when no argument is given."""
    parser = OneLineParser(
        prog="tools/param_count",
        description=inspect.getdoc(count_parameters),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_param_count_arguments(parser)
    options = parser.parse_args(argv)
    if root is not None and not (options.configs or options.config):
        options.configs = [root / "configs"]
    return count_parameters(options)
