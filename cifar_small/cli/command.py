"""The commands of `cifar-small`: each a thin call into the module that does the work; one file per topic."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: how it is called, what it takes, what it does.

    `run` gets the parsed options, with `command` (the whole command line), `call` (which runs another one) and `overrides`
    (settings of the config by dotted names, where `overrides` allows them), and returns the exit code. It imports heavy modules
    itself, so that --help is quick.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    detail: str = ""
    overrides: bool = False
