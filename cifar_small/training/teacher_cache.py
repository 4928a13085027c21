"""What teachers say of a phase's views, computed once: a long phase then asks them as often as there are views, not epochs.

View v is what epoch v of the phase sees; later epochs show the views in turn, in other orders and batches or, where batches are
mixed, the same batches in another order. The student is taught on the very pixels its teachers saw (after Beyer et al. 2022,
arXiv 2106.05237, who find that this counts, and mixing).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cifar_small.config.phases import Phase
from cifar_small.runs.directory import Run
from cifar_small.training.batches import Batches
from cifar_small.training.view_cache import (
    cache_folder,
    check_size,
    compute_in_parts,
    key_of,
    load_or_compute,
    make_room,
    view_slices,
)

TYPE = torch.float32


def answer_bytes(phase: Phase, images: int, classes: int) -> int:
    """Bytes that a phase keeps of its teachers' answers. Raises ConfigError for more than MAX_BYTES."""
    settings = phase.settings.distill
    assert settings is not None
    assert settings.cached_views is not None
    return check_size(
        TYPE.itemsize * settings.cached_views * images * classes,
        f"phases.{phase.index}.distill.cached_views {settings.cached_views}",
        "of probabilities",
        "lower it",
    )


def fill_answers(
    run: Run, batches: Batches, phase: Phase, precision: str, between: Callable[[], None] = lambda: None
) -> list[Tensor]:
    """The teachers' probabilities (N, K) of each view: read from the run directory if they are there, or computed and kept.

    between: called before each slice of images.
    Raises ConfigError where they would take too much room.
    """
    teachers, data, settings = batches.teacher_targets[phase.index], batches.data, phase.settings.distill
    assert settings is not None
    assert settings.cached_views is not None
    needed = answer_bytes(phase, len(data.images), len(data.classes))
    key = key_of(batches, phase, [precision, settings.temperature, *(one.sha256 for one in teachers.teachers)])
    names = [f"{key}-teachers{view}.npy" for view in range(settings.cached_views)]
    make_room(run, names, needed)

    def of_view(view: int) -> Tensor:
        answers, parts = partial(teachers.answers, precision=precision), view_slices(batches, phase, view)
        return compute_in_parts(answers, parts, len(data.images), TYPE, f"teachers' answers to view {view + 1}", between)

    files = [cache_folder(run) / name for name in names]
    views = [load_or_compute(file, TYPE, partial(of_view, view)) for view, file in enumerate(files)]
    return [view.to(data.device) for view in views]
