"""What is computed once of each augmented view of the training images, and kept in the run directory while a phase lasts.

View v of a phase is its images as epoch v of the phase sees them, mixed or not; later epochs take the views in turn. Files
stand under a name that depends on all that their numbers depend on, so that a killed run reads its own again, and never others.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cifar_small.config.phases import Phase
from cifar_small.config.schema import MIX_KINDS
from cifar_small.environment import no_bar, package_versions
from cifar_small.errors import ConfigError
from cifar_small.files import write_atomic
from cifar_small.runs.directory import Run, require_space
from cifar_small.training.batches import Batches
from cifar_small.transforms.augmenter import epoch_order
from cifar_small.transforms.mixing import apply_mix

MAX_BYTES = 4 * 2**30  # of all views of a phase
SLICE = 500  # images that go through a net at once


def cache_folder(run: Run) -> Path:
    """Where what the phase under way keeps is."""
    return run.folder / "cached_views"


def remove_cache(run: Run) -> None:
    """Remove what a phase kept, which no later one needs."""
    shutil.rmtree(cache_folder(run), ignore_errors=True)


def check_size(needed: int, what: str, of_what: str, remedy: str) -> int:
    """The bytes that a setting, `what`, would keep. Raises ConfigError for more than MAX_BYTES."""
    if needed > MAX_BYTES:
        raise ConfigError(f"{what} would keep {needed / 1e9:.1f} GB {of_what}; at most {MAX_BYTES / 1e9:.1f} GB: {remedy}")
    return needed


def make_room(run: Run, names: Sequence[str], needed: int) -> None:
    """Make the folder, without files of other names, for `needed` bytes."""
    folder = cache_folder(run)
    for other in folder.glob("*.npy"):
        if other.name not in names:
            other.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    require_space(run, needed - sum(path.stat().st_size for path in folder.glob("*.npy")))


def view_slices(batches: Batches, phase: Phase, view: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A view's images in parts: int64 (B,) of dataset indices, and their pixels, not yet resized.

    B: at most SLICE or, of a phase that mixes, a batch, mixed as the epoch mixes it and named by its images' first halves, so
    that images outside the epoch's batches are left out.
    """
    settings, config, epoch = phase.settings, batches.config, phase.start + view
    if settings.mixes:
        for _, mix, chosen, pixels in batches.epoch(phase, epoch, 0):
            yield chosen, apply_mix(mix, pixels, pixels.new_zeros(len(pixels), 1))[0]
        return
    order = epoch_order(len(batches.data.images), config.seed, epoch)
    places = [slice(start, min(start + SLICE, len(order))) for start in range(0, len(order), SLICE)]
    side = config.augmented_at(settings.resolution, batches.data.side)
    parts = batches.augmenter.epoch(settings.augment, order, epoch, places, side)
    yield from zip((order[place] for place in places), parts, strict=True)


def compute_in_parts(
    compute: Callable[[Tensor], Tensor],
    parts: Iterable[tuple[Tensor, Tensor]],
    images: int,
    dtype: torch.dtype,
    name: str,
    between: Callable[[], None],
) -> Tensor:
    """What is computed of so many images in parts, by their index in the dataset, on the CPU; zeros of those in no part.

    parts: indices and pixels; between: called before each. Raises ConfigError for numbers that are not finite, or beyond the
    type.
    """
    found: Tensor | None = None
    with tqdm(desc=name, total=images, unit="image", disable=no_bar()) as bar:
        for rows, part in parts:
            between()
            computed = compute(part).to("cpu", dtype)
            if found is None:
                found = torch.zeros(images, *computed.shape[1:], dtype=dtype)
            found[rows.cpu()] = computed
            bar.update(len(rows))
    assert found is not None
    if not found.isfinite().all():
        raise ConfigError(
            f"{name} are not all finite as {str(dtype).removeprefix('torch.')}; drop cached_views to see whether the net is "
            "sound"
        )
    return found


def load_or_compute(path: Path, dtype: torch.dtype, compute: Callable[[], Tensor]) -> Tensor:
    """A tensor from its file, or computed and written where that is missing or cut short.

    numpy has no bfloat16, so its bits are kept.
    """
    in_file = torch.int16 if dtype == torch.bfloat16 else dtype
    with suppress(FileNotFoundError, EOFError, ValueError):
        return torch.from_numpy(np.load(path, allow_pickle=False)).view(dtype)
    found = compute()
    file = io.BytesIO()
    np.save(file, found.view(in_file).numpy(), allow_pickle=False)
    write_atomic(path, file.getvalue())
    return found


def key_of(batches: Batches, phase: Phase, others: Sequence[Any], weights: Iterable[tuple[str, Tensor]] = ()) -> str:
    """A hash of all that a phase's views depend on, of `others`, plain values, and of weights by name."""
    preprocess, config = batches.preprocess, batches.config
    settings = [
        batches.data.facts.plain(),
        [*preprocess.mean, *preprocess.std, preprocess.side, preprocess.interpolation],
        [phase.settings.augment.model_dump(mode="json"), phase.settings.resolution, phase.start],
        [config.seed, config.input.augment, package_versions(), *others],
    ]
    if phase.settings.mixes:
        mixing = [getattr(phase.settings, name) for name in (*MIX_KINDS.values(), "mix_prob", "mix_probs")]
        settings.append([*mixing, config.batch_size])
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in weights:
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
