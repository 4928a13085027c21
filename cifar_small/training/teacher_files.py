"""Before any image is read: are the teachers there that a config names? If not, how are they made?"""

from __future__ import annotations

from pathlib import Path

from cifar_small.config.resolved import ResolvedConfig
from cifar_small.errors import CheckpointError, DataError
from cifar_small.wording import command_line


def require_teachers(resolved: ResolvedConfig) -> None:
    """Raise DataError for a predictions file, or CheckpointError for a run, that a phase names and that is not there."""
    for phase in resolved.phases:
        distill, select = phase.settings.distill, phase.settings.select
        if distill is not None and distill.predictions is not None and not Path(distill.predictions).exists():
            raise DataError(_no_predictions(f"{_key(resolved, phase.index, 'distill')}.predictions", distill.predictions))
        named = [("distill", "teachers", path) for path in (distill.teachers if distill is not None else ())]
        named += [("select", "proxy", select.proxy)] if select is not None else []
        for section, setting, path in named:
            if not Path(path).exists():
                key = _key(resolved, phase.index, section)
                raise CheckpointError(
                    f"{key}.{setting}: {path} does not exist; expected a run directory written by cifar-small train: train it "
                    f"first, or go without ({key}: null)"
                )


def _key(resolved: ResolvedConfig, index: int, section: str) -> str:
    """Where a phase's section is set: in that phase, in one before, or for all."""
    named = [number for number, phase in enumerate(resolved.config.phases[: index + 1]) if section in phase]
    return f"phases.{named[-1]}.{section}" if named else section


def _no_predictions(key: str, path: str) -> str:
    each = command_line("predict", "RUN", split="train", views="flip", output="EACH.npz")
    joined = command_line("ensemble", "EACH.npz", "...", method="probabilities", output=path)
    return (
        f"{key}: {path} does not exist; expected predictions of the training images: of each teacher, a run that held out the "
        f"same val, `{each}`, then `{joined}` (of one teacher alone, its file); to try or train the net without teachers, "
        f"{key.removesuffix('.predictions')}: null"
    )
