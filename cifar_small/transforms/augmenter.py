"""The augmented pixels of training: one interface over all values of `augment.engine`.

The pixels of an image in an epoch depend on (seed, epoch, its place in the epoch's order, its index in the dataset) and on
nothing else: not on the batch it stands in, the number of workers, or where a run was interrupted. (But for a function of the
user's own, which is given whole batches, and so sees other ones on several processes.)
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from threading import Lock
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor

from cifar_small.config.schema import (
    AlbumentationsAugment,
    AnyAugment,
    Augment,
    BasicAugment,
    OwnAugment,
    PerImageAugment,
    TorchvisionAugment,
)
from cifar_small.data.datamodule import DataModule
from cifar_small.data.images import SIDE
from cifar_small.environment import ENDING_SIGNALS
from cifar_small.errors import UserError
from cifar_small.randomness import AUGMENT, ORDER, PARITY, SAMPLE, numpy_generator, torch_generator
from cifar_small.transforms.batched import Draws, cover, crop_and_flip, distort, draw, enlarge, pad_images, scaled
from cifar_small.transforms.own import augment_by_own
from cifar_small.transforms.per_image import Pixels, Seeds, Transform, build_transform, start_worker, work
from cifar_small.transforms.preprocess import normalize

HIDING = Lock()  # of the user's script, one thread at a time
Rows = slice | Tensor  # which of an epoch's places: a slice, or int64 on the CPU


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: int64 (N,), the dataset index at each place."""
    return torch.randperm(count, generator=torch_generator(seed, ORDER, epoch))


class Augmenter:
    """Augments the training images of a datamodule, epoch by epoch; close it to end its worker processes."""

    def __init__(self, data: DataModule, seed: int, workers: int = 0, interpolation: str = "bilinear") -> None:
        """`workers` processes augment image by image where the engine does so, 0: this process; pixels are the same.

        interpolation: how images are enlarged that are augmented at another size than their own.
        """
        self.data, self.seed, self.workers, self.interpolation = data, seed, workers, interpolation
        self.fill = data.fill
        # In which direction each image starts where flips alternate.
        self.parity = torch.rand(len(data.images), generator=torch_generator(seed, PARITY)) < 0.5
        self._padded: tuple[tuple[int, str, torch.device], Tensor] | None = None
        self._transform: tuple[tuple[PerImageAugment, int], Transform] | None = None
        self._pool: tuple[tuple[PerImageAugment, int], ProcessPoolExecutor] | None = None

    def epoch(self, settings: AnyAugment, order: Tensor, epoch: int, parts: Sequence[Rows], side: int = 32) -> Iterator[Tensor]:
        """The pixels of each of `parts` in turn: normalized float32 (B, 3, side, side) on the data's device.

        order: as `epoch_order` gives it, on the CPU; epoch: 0-based; parts: the places wanted, known ahead so that workers can
        run ahead of the caller; side: pixels that images are enlarged to before they are augmented. Raises ConfigError for a
        pipeline that cannot run.
        """
        match settings:
            case Augment():
                yield from self._batched(scaled(settings, side), order, epoch, parts, side)
            case OwnAugment():
                yield from self._by_own(settings, order, epoch, parts, side)
            case TorchvisionAugment() | AlbumentationsAugment():
                yield from self._image_by_image(settings, order, epoch, parts, side)
            case _:
                assert_never(settings)

    def _batched(self, settings: Augment, order: Tensor, epoch: int, parts: Sequence[Rows], side: int) -> Iterator[Tensor]:
        data = self.data
        generator = torch_generator(self.seed, AUGMENT, epoch)
        draws = draw(settings, order, generator, self.parity, epoch, side)
        if any(isinstance(rows, Tensor) for rows in parts):  # rearranged here: on a GPU, each index from the CPU would wait
            sizes = [len(order[rows]) for rows in parts]
            places = torch.cat([torch.arange(len(order))[rows] for rows in parts])
            draws, order = draws[places], order[places]
            parts = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        draws, order = draws.to(data.device), order.to(data.device)
        for rows in parts:
            chosen = draws[rows]
            pixels = distort(self._windows(settings, data.images, order[rows], chosen, side), settings, chosen, self.fill)
            yield cover(normalize(pixels, data.mean, data.std), settings, chosen)

    def _by_own(self, settings: OwnAugment, order: Tensor, epoch: int, parts: Sequence[Rows], side: int) -> Iterator[Tensor]:
        data = self.data
        for rows in parts:
            first = int(rows.start if isinstance(rows, slice) else rows[0])
            images = enlarge(data.images[order[rows].to(data.device)], side, self.interpolation)
            generator = torch_generator(self.seed, AUGMENT, epoch, first)
            yield normalize(augment_by_own(settings, images, generator), data.mean, data.std)

    def _image_by_image(
        self, settings: PerImageAugment, order: Tensor, epoch: int, parts: Sequence[Rows], side: int
    ) -> Iterator[Tensor]:
        data, basic = self.data, scaled(settings, side) if isinstance(settings, BasicAugment) else None
        images = self._images_here
        seeds = numpy_generator(self.seed, SAMPLE, epoch).integers(2**63, size=len(images))
        draws = None
        if basic is not None:
            draws = draw(basic, order, torch_generator(self.seed, AUGMENT, epoch), self.parity, epoch, side)

        def tasks() -> Iterator[tuple[Pixels, Seeds]]:
            for rows in parts:
                chosen = order[rows]
                if basic is None or draws is None:
                    batch = enlarge(images[chosen], side, self.interpolation)
                else:
                    batch = self._windows(basic, images, chosen, draws[rows], side)
                yield np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy()), seeds[chosen.numpy()]

        results = self._by_workers(settings, side, tasks()) if self.workers else self._here(settings, side, tasks())
        for rows, result in zip(parts, results, strict=True):
            pixels = torch.from_numpy(result)
            if data.device.type == "cuda":
                pixels = pixels.pin_memory()
            pixels = pixels.to(data.device, non_blocking=True).permute(0, 3, 1, 2)
            pixels = normalize(pixels, data.mean, data.std)
            yield pixels if basic is None or draws is None else cover(pixels, basic, draws[rows].to(data.device))

    @cached_property
    def _images_here(self) -> Tensor:
        """The dataset on the CPU, where engines work image by image; copied once from a GPU."""
        return self.data.images.cpu()

    @cached_property
    def _fill_here(self) -> Tensor:
        return self.fill.cpu()

    def _fill_on(self, device: torch.device) -> Tensor:
        return self.fill if device == self.fill.device else self._fill_here

    def _windows(self, settings: BasicAugment, images: Tensor, chosen: Tensor, draws: Draws, side: int) -> Tensor:
        """Cropped and flipped images of the dataset, enlarged first: uint8 (B, 3, side, side)."""
        if side == images.shape[-1] == SIDE:  # larger data sets are not padded as a whole: memory
            return crop_and_flip(self._pad(settings, images), chosen, draws)
        enlarged = enlarge(images[chosen], side, self.interpolation)
        padded = pad_images(enlarged, settings, self._fill_on(images.device))
        return crop_and_flip(padded, torch.arange(len(padded), device=images.device), draws, side)

    def _pad(self, settings: BasicAugment, images: Tensor) -> Tensor:
        """The padded dataset, kept from epoch to epoch."""
        key = (settings.crop, settings.pad, images.device)
        if self._padded is None or self._padded[0] != key:
            self._padded = None  # before another copy is made
            self._padded = key, pad_images(images, settings, self._fill_on(images.device))
        return self._padded[1]

    def _here(self, settings: PerImageAugment, side: int, tasks: Iterator[tuple[Pixels, Seeds]]) -> Iterator[Pixels]:
        if self._transform is None or self._transform[0] != (settings, side):
            self._transform = (settings, side), build_transform(settings, side)
        for pixels, seeds in tasks:
            yield self._transform[1](pixels, seeds)

    def _by_workers(self, settings: PerImageAugment, side: int, tasks: Iterator[tuple[Pixels, Seeds]]) -> Iterator[Pixels]:
        """Results in order, with up to two batches a worker under way."""
        if self._pool is None or self._pool[0] != (settings, side):
            self.close()
            self._pool = (settings, side), _start_pool(settings, side, self.workers)
        waiting: deque[Future[Pixels]] = deque()
        try:
            for task in tasks:
                with _without_script():  # the pool starts its processes one by one, as tasks come
                    waiting.append(self._pool[1].submit(work, *task))
                if len(waiting) > 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"one of the {self.workers} processes of engine.workers ended unexpectedly ({error}), perhaps out of memory; "
                "resume with a smaller engine.workers, or 0"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool[1].shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _start_pool(settings: PerImageAugment, side: int, workers: int) -> ProcessPoolExecutor:
    """Processes that inherit nothing from this one: no lock of the run directory, no GPU, no signal handlers."""
    import multiprocessing

    if "forkserver" not in multiprocessing.get_all_start_methods():  # on Windows
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker, (settings, side))
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    library = ["albumentations"] if isinstance(settings, AlbumentationsAugment) else []
    context.set_forkserver_preload(["cifar_small.transforms.per_image", *library])
    # Ctrl-C and its like may reach the whole process group; the trainer answers them, and its workers must live to see it save.
    resource_tracker.ensure_running()  # which the fork server would do otherwise, unblocking what we block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ProcessPoolExecutor(workers, context, start_worker, (settings, side))


@contextmanager
def _without_script() -> Iterator[None]:
    """Processes that start meanwhile do not run the user's script again.

    Each would import the main module of this one, to find there what it is sent; here all that it is sent is this package's,
    and a script without `if __name__ == "__main__"` would begin its training anew.
    """
    main: dict[str, Any] = vars(sys.modules["__main__"])
    with HIDING:
        hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        main["__spec__"] = None
        try:
            yield
        finally:
            del main["__spec__"]
            main.update(hidden)
