"""What a config will do over its epochs, from it alone: the learning rate of every step, the settings of every phase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_small.config.phases import Phase, compilations
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import (
    MIX_KINDS,
    MIXINGS,
    SOURCES,
    AlbumentationsAugment,
    AnyAugment,
    Config,
    Optim,
    OwnAugment,
    PhaseSettings,
    Section,
)
from cifar_small.errors import UserError
from cifar_small.figures.run import Bar, draw_timeline
from cifar_small.figures.style import save
from cifar_small.optim.schedulers import rate_at
from cifar_small.reporting.tables import Table, aligned
from cifar_small.wording import plural

NUMBERS = (*MIXINGS, "label_smoothing", "dropout")
UPDATES = ("freeze", "lookahead", "sam", "optim")  # rows about how weights move, of which images show nothing


def steps_per_epoch(config: Config) -> int:
    """Optimizer steps of an epoch. Raises UserError for a source whose size is not known without reading it, or too small."""
    return steps_of(config, training_images(config))


def training_images(config: Config) -> int:
    """Images that a run trains on. Raises UserError for a source whose size is not known without reading it, or too small."""
    data = config.data
    size = SOURCES[data.source].train_images
    if size is None:
        raise UserError(
            f"the number of images of {data.source} is unknown before they are read; give the steps per epoch "
            "(training images / batch_size, rounded down)"
        )
    left = size - data.val_size
    if data.train_limit is not None and data.train_limit > left:
        raise UserError(
            f"data.train_limit {data.train_limit:,} is above the {left:,} training images of {data.source} that "
            f"data.val_size {data.val_size:,} leaves; lower one of them"
        )
    return left if data.train_limit is None else data.train_limit


def steps_of(config: Config, images: int) -> int:
    """Optimizer steps of an epoch of so many images. Raises UserError for fewer than a batch."""
    if images < config.batch_size:
        raise UserError(
            f"batch_size {config.batch_size} is above the {images:,} training images of {config.data.source}; lower it"
        )
    return images // config.batch_size


def learning_rates(phases: Sequence[Phase], steps: int) -> list[float]:
    """The learning rate of every optimizer step of a run with `steps` steps an epoch."""
    return [
        rate_at(phase, epoch, step, steps)
        for phase in phases
        for epoch in range(phase.start, phase.end)
        for step in range(phase.steps_in(epoch, steps))
    ]


def describe_augment(augment: AnyAugment) -> str:
    """An augment section in a line: what is on, by the names of its settings."""
    if isinstance(augment, AlbumentationsAugment):
        return "albumentations: " + ", ".join(_describe_transform(entry) for entry in augment.pipeline)
    if isinstance(augment, OwnAugment):
        return augment.engine + "".join(f", {key} {value}" for key, value in augment.arguments.items())
    values = dict(augment)
    idle = augment.ineffective(values)
    parts: list[str] = [] if augment.engine == "tensor" else [augment.engine]
    for key, value in values.items():
        if key == "engine" or key in idle or value in (0, None, "none", (1.0, 1.0)):
            continue
        shown = f"{value[0]:g}-{value[1]:g}" if isinstance(value, tuple) else str(value)
        parts.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {shown}")
    return ", ".join(parts) or "none"


def _describe_transform(entry: dict[str, Any]) -> str:
    inner = f"({', '.join(_describe_transform(part) for part in entry['transforms'])})" if "transforms" in entry else ""
    return f"{entry['name']}{inner}" + (f" {entry['p']:g}" if "p" in entry else "")


def describe_optim(optim: Optim) -> str:
    """An optim section in a line: every setting but the learning rate, which has a curve of its own."""
    return ", ".join([optim.name, *_settings(optim, leave_out=("name", "lr"))])


def _settings(section: Section, leave_out: Sequence[str] = ()) -> list[str]:
    """What is on in a section, by the names of its settings."""
    parts = []
    for key, value in section:
        idle = key in section.OMIT_DEFAULT and value == type(section).model_fields[key].default
        if key in leave_out or value in (None, 0) or idle:
            continue
        if isinstance(value, Section):
            parts.append(f"{key} ({', '.join(_settings(value))})")
        elif value is True:
            parts.append(key)
        else:
            parts.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return parts


def _texts(settings: PhaseSettings) -> dict[str, str]:
    """What a phase says in words; "-": off."""
    return {
        "freeze": ", ".join(settings.freeze) or "-",
        "lookahead": ", ".join(_settings(settings.lookahead)) if settings.lookahead else "-",
        "sam": ", ".join(_settings(settings.sam)) if settings.sam else "-",
        "select": f"the hardest {settings.select.share:.0%} of each batch" if settings.select else "-",
        "optim": describe_optim(settings.optim),
        "augment": describe_augment(settings.augment),
    }


def phase_rows(phases: Sequence[Phase]) -> dict[str, list[str]]:
    """Each setting that is on anywhere, numbers before texts, with its value in each phase as text; "-": off."""
    settings = [phase.settings for phase in phases]
    rows: dict[str, list[str]] = {}
    for name in NUMBERS:
        values = [getattr(phase, name) for phase in settings]
        if any(values):
            rows[name] = [f"{value:g}" if value else "-" for value in values]
    if any(phase.distill for phase in settings):
        rows["kd_weight"] = [f"{phase.distill.kd_weight:g}" if phase.distill else "-" for phase in settings]
    if any(phase.resolution != 32 for phase in settings):
        rows["resolution"] = [str(phase.resolution) for phase in settings]
    if any(phase.swa for phase in settings):
        rows["swa_every"] = [str(phase.swa.every) if phase.swa else "-" for phase in settings]
    for kind in MIX_KINDS:
        shares = [getattr(phase.mix_probs, kind, 0) for phase in settings]
        if any(shares):
            rows[f"{kind}_prob"] = [f"{share:g}" if share else "-" for share in shares]
    if any(phase.mixes and phase.mix_prob < 1 for phase in settings):
        rows["mix_prob"] = [f"{phase.mix_prob:g}" if phase.mixes else "-" for phase in settings]
    texts = [_texts(phase) for phase in settings]
    return rows | {name: values for name in texts[0] if set(values := [text[name] for text in texts]) != {"-"}}


def phase_bars(values: Sequence[str], bounds: Sequence[int]) -> list[Bar]:
    """A row of `phase_rows` as bars, one for neighboring phases that agree: numbers the darker the larger, words all alike.

    bounds: the epochs at which phases begin, and the last one's end.
    """
    try:
        numbers = [0.0 if value == "-" else float(value) for value in values]
        shades = [0.1 + 0.5 * number / (max(numbers) or 1) for number in numbers]
    except ValueError:  # words
        shades = [0.3] * len(values)
    bars: list[Bar] = []
    start = 0
    for index, value in enumerate(values):
        if index + 1 == len(values) or values[index + 1] != value:
            bars.append((bounds[start], bounds[index + 1], value, 0.0 if value == "-" else shades[index]))
            start = index + 1
    return bars


def phase_table(phases: Sequence[Phase], steps: int) -> str:
    """A table with a row per phase: epochs, learning rate at its first and last step (and its peak), and what is on."""
    rates, rows = learning_rates(phases, steps), phase_rows(phases)
    lines = []
    for phase in phases:
        own = rates[phase.start * steps : phase.end * steps]
        rate = f"{own[0]:.3g} to {own[-1]:.3g}" + (f", at most {max(own):.3g}" if max(own) > max(own[0], own[-1]) else "")
        lines.append(
            (
                str(phase.index + 1),
                f"{phase.start + 1}-{phase.end}" + (f", {phase.last_epoch:g} of the last" if phase.last_epoch < 1 else ""),
                f"{rate} ({phase.settings.schedule.name})",
                *(values[phase.index] for values in rows.values()),
            )
        )
    return aligned(Table("", ("phase", "epochs", "lr", *rows), tuple(lines)))


def draw_config(config: Config, steps: int, path: Path) -> str:
    """Draw the run that a config describes into a PNG and return its table of phases."""
    phases = resolve_config(config).phases
    title = f"{config.name}: {plural(config.epochs, 'epoch')} of {plural(steps, 'step')}"
    bounds = [phase.start for phase in phases] + [phases[-1].end]
    rows = {name: phase_bars(values, bounds) for name, values in phase_rows(phases).items()}
    save(draw_timeline(learning_rates(phases, steps), steps, bounds, rows, title), path)
    table = phase_table(phases, steps)
    if not config.engine.compile:
        return table
    return (
        f"{table}\nengine.compile: the net is compiled {plural(compilations(phases), 'time')}, at the start and where a phase "
        "changes resolution, dropout or frozen layers (of several processes, each does so in every phase)"
    )
