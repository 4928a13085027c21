"""The table of `param_count`: what each config's net costs, before anything is trained."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_small.config.loading import load_config
from cifar_small.config.schema import Config
from cifar_small.config.shipped import find_config, shipped_name
from cifar_small.config.strict_yaml import dump_yaml, read_yaml
from cifar_small.data.sources import classes_at_hand
from cifar_small.errors import ConfigError, DataError, UserError
from cifar_small.models.counting import Footprint, check_budget, footprint, skeleton, widest
from cifar_small.reporting.tables import Table, aligned
from cifar_small.wording import command_line

ASSUMED_CLASSES = 10  # where only the data would tell
SWEEP_KEY = re.compile(rb"\bconfig['\"]?\s*:")  # of the base config that a sweep names
HEADER = ("config", "trainable", "total", "MMACs", "fp32 MiB", "budget", "headroom")


@dataclass(frozen=True)
class SizedConfig:
    """One readable config and the size of its net."""

    path: str
    config: Config
    classes: int
    assumed: bool  # were the classes, because only reading the data would tell?
    size: Footprint

    @property
    def headroom(self) -> int:
        """Parameters left in the budget; negative: over."""
        return self.config.rules.max_params - self.size.trainable


def print_param_table(configs: Sequence[Path], budget: int | None = None, *, fit: bool = False, layers: bool = False) -> int:
    """Print the table of configs (files, folders, names of shipped ones) and return the command's exit code.

    budget: parameters, instead of each config's own. Without configs: those in ./configs, or all shipped ones.
    fit, layers: also print the widest net that fits as YAML; every layer.
    """
    rows, problems = [], []
    for path in _paths(configs or [Path("configs")]):
        try:
            rows.append(_row(path, budget))
        except UserError as error:
            problems.append(error)
    if rows:
        print(_table(rows))
    for row in rows:
        if row.assumed:
            print(
                f"{row.path}: the classes of {row.config.data.source} data are unknown before it is read; {row.classes} assumed"
            )
    for row in rows:
        if fit:
            print(f"\n{_fit(row)}")
        if layers:
            print(f"\n{row.path}\n{_layers(row)}")
    for row in rows:
        if row.headroom < 0:
            try:
                check_budget(row.config, row.classes)
            except ConfigError as error:
                print(error, file=sys.stderr)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return min(problem.exit_code for problem in problems)
    return 1 if any(row.headroom < 0 for row in rows) else 0


def _paths(arguments: Sequence[Path]) -> Iterator[Path]:
    for argument in map(find_config, arguments):
        if argument.is_dir():
            found = [path for path in sorted(argument.glob("**/*.yaml")) if not _is_sweep(path)]
            yield from found or [argument]  # an empty folder is then reported as unreadable
        else:
            yield argument


def _is_sweep(path: Path) -> bool:
    """Is this a sweep file, whose cells the command sweep counts? Told by its keys; an unreadable file is none."""
    try:
        if not SWEEP_KEY.search(path.read_bytes()):  # most files: spares reading them as YAML once more
            return False
        raw = read_yaml(path)
    except (OSError, ConfigError):  # reported when it is read as a config
        return False
    return isinstance(raw, dict) and "config" in raw and ("parameters" in raw or "cells" in raw)


def _row(path: Path, budget: int | None) -> SizedConfig:
    whole = path.resolve()
    shown = whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else shipped_name(whole) or path
    if path.is_dir():
        raise ConfigError(f"{shown} holds no .yaml file; give a config or a folder with configs")
    if _is_sweep(path):
        raise ConfigError(f"{shown} is a sweep, not a config; count its cells with: {command_line('sweep', shown, list=True)}")
    config = load_config(path)
    if budget is not None:
        config = config.model_copy(update={"rules": config.rules.model_copy(update={"max_params": budget})})
    try:
        known = classes_at_hand(config.data)
        classes = known or ASSUMED_CLASSES
        return SizedConfig(str(shown), config, classes, known is None, footprint(config.model, classes, config.side))
    except (ConfigError, DataError) as error:  # of this config alone: the others still have their rows
        raise type(error)(f"{shown}: {error}") from None


def _table(rows: Sequence[SizedConfig]) -> str:
    lines = []
    for row in rows:
        size = row.size
        headroom = f"{row.headroom:,}" + (" OVER" if row.headroom < 0 else "")
        numbers = (f"{size.trainable:,}", f"{size.total:,}", f"{size.macs / 1e6:,.1f}", f"{size.mebibytes:,.2f}")
        lines.append((row.path, *numbers, f"{row.config.rules.max_params:,}", headroom))
    return aligned(Table("", HEADER, tuple(lines)))


def _fit(row: SizedConfig) -> str:
    budget = row.config.rules.max_params
    found = widest(row.config.model, row.classes, budget)
    if found is None:
        return f"# {row.path}: no width of this shape fits the budget of {budget:,}"
    model, count = found
    section = {"model": model.model_dump(mode="json", exclude_defaults=True)}
    note = f"# {row.path}: {count:,} trainable parameters, {budget - count:,} below the budget of {budget:,}"
    return f"{note}\n{dump_yaml(section)}".rstrip()


def _layers(row: SizedConfig) -> str:
    import torchinfo  # half a second that only this option needs

    net = skeleton(row.config.model, row.classes).eval()
    with torch.random.fork_rng(devices=[]):  # torchinfo draws a random input
        summary = torchinfo.summary(net, input_size=(1, 3, row.config.side, row.config.side), device="meta", depth=5, verbose=0)
    text = str(summary).replace("(Units.MEGABYTES)", "(M)").replace("(Units.GIGABYTES)", "(G)")  # torchinfo 1.8 on 3.11+
    if summary.total_params != row.size.total:
        text += (
            f"\nparameters: {row.size.total:,}; torchinfo's sums above leave out those of no layer and of layers that no image "
            "passes, and repeat a weight that two layers share"
        )
    counted = row.size.macs
    if abs(summary.total_mult_adds - counted) > 0.05 * counted:
        text += (
            f"\nmultiply-adds: {counted / 1e6:,.1f} M; torchinfo's sum above leaves out attention, counts a Linear over "
            "tokens for one of them, and transposed convolutions several times"
        )
    return text
