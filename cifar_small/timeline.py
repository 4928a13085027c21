"""What a config will do over its epochs, from it alone: the learning rate of every step, the settings of every phase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_small.config import Phase, resolve_phases
from cifar_small.errors import UserError
from cifar_small.plots import draw_timeline
from cifar_small.schedules import learning_rate
from cifar_small.schema import MIXINGS, AlbumentationsAugment, AnyAugment, Config

# Labelled training images of the sources whose size is known without reading them.
SIZES = {"cifar10": 50_000, "cifar100": 50_000, "cifar100_coarse": 50_000, "digits": 1437}
NUMBERS = (*MIXINGS, "label_smoothing", "dropout")


def steps_per_epoch(config: Config) -> int:
    """Optimiser steps of an epoch. Raises UserError for a source whose size is not known without reading it, or too small."""
    data = config.data
    if data.source not in SIZES:
        raise UserError(
            f"how many images {data.source} holds is not known without reading them; give --steps-per-epoch "
            "(training images / batch_size, rounded down)"
        )
    images = SIZES[data.source] - data.val_size if data.train_limit is None else data.train_limit
    if images < config.batch_size:
        raise UserError(f"batch_size {config.batch_size} is above the {images:,} training images of {data.source}; lower it")
    return images // config.batch_size


def learning_rates(phases: Sequence[Phase], steps: int) -> list[float]:
    """The learning rate of every optimiser step of a run with `steps` steps an epoch."""
    rates = []
    for phase in phases:
        settings, span = phase.settings, (phase.schedule_end - phase.schedule_start) * steps
        first, last = ((epoch - phase.schedule_start) * steps for epoch in (phase.start, phase.end))
        rates += [learning_rate(settings.schedule, settings.optim.lr, step, span, steps) for step in range(first, last)]
    return rates


def describe_augment(augment: AnyAugment) -> str:
    """An augment section in a line: what is on, by the names of its settings."""
    if isinstance(augment, AlbumentationsAugment):
        return "albumentations: " + ", ".join(_describe_transform(entry) for entry in augment.pipeline)
    values = dict(augment)
    idle = augment.idle(values)
    parts: list[str] = [] if augment.engine == "tensor" else [augment.engine]
    for key, value in values.items():
        if key == "engine" or key in idle or value in (0, None, "none", (1.0, 1.0)):
            continue
        shown = f"{value[0]:g}-{value[1]:g}" if isinstance(value, tuple) else str(value)
        parts.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {shown}")
    return ", ".join(parts) or "none"


def _describe_transform(entry: dict[str, Any]) -> str:
    inner = f"({', '.join(_describe_transform(one) for one in entry['transforms'])})" if "transforms" in entry else ""
    return f"{entry['name']}{inner}" + (f" {entry['p']:g}" if "p" in entry else "")


def phase_rows(phases: Sequence[Phase]) -> dict[str, list[str]]:
    """The augmentation, and each number that is on anywhere, with its value in each phase as text; "-": off."""
    settings = [phase.settings for phase in phases]
    rows = {"augment": [describe_augment(one.augment) for one in settings]}
    for name in NUMBERS:
        values = [getattr(one, name) for one in settings]
        if any(values):
            rows[name] = [f"{value:g}" if value else "-" for value in values]
    if any(one.resolution != 32 for one in settings):
        rows["resolution"] = [str(one.resolution) for one in settings]
    if any(one.freeze for one in settings):
        rows["freeze"] = [", ".join(one.freeze) or "-" for one in settings]
    if any(one.mixes and one.mix_prob < 1 for one in settings):
        rows["mix_prob"] = [f"{one.mix_prob:g}" if one.mixes else "-" for one in settings]
    return rows


def phase_table(phases: Sequence[Phase], steps: int) -> str:
    """A table with a row per phase: epochs, learning rate at its first and last step (and its peak), and what is on."""
    rates, rows = learning_rates(phases, steps), phase_rows(phases)
    numbers = {name: values for name, values in rows.items() if name != "augment"}
    lines = [["phase", "epochs", "lr", *numbers, "augment"]]
    for phase in phases:
        own = rates[phase.start * steps : phase.end * steps]
        rate = f"{own[0]:.3g} to {own[-1]:.3g}" + (f", at most {max(own):.3g}" if max(own) > max(own[0], own[-1]) else "")
        lines.append(
            [
                str(phase.index + 1),
                f"{phase.start + 1}-{phase.end}",
                f"{rate} ({phase.settings.schedule.name})",
                *(values[phase.index] for values in numbers.values()),
                rows["augment"][phase.index],
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(padded)


def draw_config(config: Config, steps: int, path: Path) -> str:
    """Draw the run that a config describes into a PNG and return its table of phases."""
    phases = resolve_phases(config)
    title = f"{config.name}: {phases[-1].end} epochs of {steps:,} steps"
    bounds = [phase.start for phase in phases] + [phases[-1].end]
    draw_timeline(learning_rates(phases, steps), steps, bounds, phase_rows(phases), title, path)
    return phase_table(phases, steps)
