"""The batches of a run: in which order images come, how they are augmented and mixed, and their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_small.config.phases import Phase
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import DataModule
from cifar_small.environment import memory_format
from cifar_small.randomness import MIX, numpy_generator
from cifar_small.training.distillation import TeacherTargets
from cifar_small.training.distributed import World
from cifar_small.training.hard_images import HardImages
from cifar_small.transforms.augmenter import Augmenter, epoch_order
from cifar_small.transforms.functional import resize
from cifar_small.transforms.mixing import Mix, apply_mix, draw_mix
from cifar_small.transforms.preprocess import Preprocess

Features = Callable[[int, Tensor], Tensor]


class Batch(NamedTuple):
    """One step's images: this rank's share of the batch or, where it is mixed, the whole batch of B images."""

    step: int  # of the epoch, from 0
    mix: Mix  # how they are to be mixed
    chosen: Tensor  # int64 (B,), which images of the dataset they are
    pixels: Tensor  # augmented, float32 (B, 3, H, H); of a phase that caches its backbone's outputs, these


@dataclass(frozen=True)
class Batches:
    """The batches of a run, of which each rank takes its share."""

    config: Config
    data: DataModule
    augmenter: Augmenter
    preprocess: Preprocess
    teacher_targets: Mapping[int, TeacherTargets]  # by the index of the phase
    hard_images: Mapping[int, HardImages]  # the same
    micro_batch: int  # images that go through the net at once
    world: World

    @property
    def steps(self) -> int:
        """Batches of a whole epoch. The remainder, other images every epoch, is left out: every batch has the same shape."""
        return len(self.data.images) // self.config.batch_size

    def epoch(self, phase: Phase, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on.

        An epoch that shows another's views has its images in an order of its own or, where batches are mixed, that other's
        batches in an order of its own.
        """
        seed, batch, settings = self.config.seed, self.config.batch_size, phase.settings
        shown = phase.shown(epoch)
        order = epoch_order(len(self.data.images), seed, shown if settings.mixes else epoch)
        steps = range(first_step, phase.steps_in(epoch, self.steps))
        again = settings.mixes and shown != epoch
        numbers = epoch_order(self.steps, seed, epoch)[first_step : steps.stop].tolist() if again else steps
        side = self.config.augmented_at(settings.resolution, self.data.side)
        mixes = [draw_mix(settings, batch, numpy_generator(seed, MIX, shown, number), side) for number in numbers]
        places = [self._places(number, mix) for number, mix in zip(numbers, mixes, strict=True)]
        if again or shown == epoch:
            pixels = self.augmenter.epoch(settings.augment, order, shown, places, side)
        else:  # an image's pixels are those of its place in the epoch that is shown
            former = epoch_order(len(self.data.images), seed, shown)
            place = former.argsort()
            rows = [place[order[part]] for part in places]
            pixels = self.augmenter.epoch(settings.augment, former, shown, rows, side)
        order = order.to(self.data.device)
        parts = zip(steps, mixes, (order[part] for part in places), pixels, strict=True)
        return (Batch(*part) for part in parts)

    def cached_epoch(self, phase: Phase, epoch: int, first_step: int, cache: Features) -> Iterator[Batch]:
        """The same batches with features, which `cache` gives for an epoch and dataset indices, in place of pixels."""
        batch, settings = self.config.batch_size, phase.settings
        order = epoch_order(len(self.data.images), self.config.seed, epoch).to(self.data.device)
        for step in range(first_step, phase.steps_in(epoch, self.steps)):
            chosen = order[step * batch : (step + 1) * batch]
            mix = draw_mix(settings, batch, numpy_generator(self.config.seed, MIX, epoch, step))  # of no mixing
            yield Batch(step, mix, chosen, cache(epoch, chosen))

    def trained(self, phase: Phase) -> int:
        """Images of a batch that go through the net, on all ranks together."""
        select, size = self.hard_images.get(phase.index), self.world.size
        if select is None:
            return self.config.batch_size
        return select.count(self.config.batch_size // size) * size

    def _places(self, step: int, mix: Mix) -> slice:
        batch = self.config.batch_size
        share = self.world.share(batch) if mix.kind == "none" else slice(0, batch)
        return slice(step * batch + share.start, step * batch + share.stop)

    def inputs(self, phase: Phase, epoch: int, batch: Batch, precision: str) -> tuple[Tensor, Tensor]:
        """What the net is given in a step of an epoch: our images, mixed and resized, and their targets with those of teachers.

        Of a phase that selects, only the hardest of them.
        """
        _, mix, chosen, pixels = batch
        settings, teachers, select = phase.settings, self.teacher_targets.get(phase.index), self.hard_images.get(phase.index)
        targets = F.one_hot(self.data.labels[chosen], len(self.data.classes)).float()
        if teachers is not None:
            targets = teachers.of_images(targets, chosen)
        if mix.kind != "none":
            ours = self.world.share(self.config.batch_size)
            pixels, targets = (tensor[ours] for tensor in apply_mix(mix, pixels, targets))
        if select is not None:
            places = select(pixels, targets, precision)
            pixels, targets, chosen = pixels[places], targets[places], chosen[places]
        if teachers is not None:
            targets = teachers.of_pixels(targets, pixels, chosen, epoch - phase.start, precision)
        if settings.cached_views is not None:
            return pixels, targets
        pixels = resize(pixels, settings.resolution, self.config.interpolation)
        return pixels.contiguous(memory_format=memory_format(self.config.engine)), targets

    def plain(self, epoch: int) -> Iterator[Tensor]:
        """The epoch's training images as evaluation would see them, in the slices the net trains on; of each our share.

        Not augmented: BatchNorm statistics shall be those of images as they are predicted, of their size and without random
        numbers.
        """
        batch = self.config.batch_size
        order = epoch_order(len(self.data.images), self.config.seed, epoch).to(self.data.device)
        for chosen in torch.split(order[: self.steps * batch], batch):
            for rows in torch.split(chosen[self.world.share(batch)], self.micro_batch):
                pixels = self.preprocess(self.data.images[rows])
                yield pixels.contiguous(memory_format=memory_format(self.config.engine))
