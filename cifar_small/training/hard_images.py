"""Training on the hardest share of each batch: a small trained net, the proxy, ranks the images, and the rest is left out.

The idea is airbench96_faster's (Jordan 2024), whose proxy is trained beside the net; here it is a finished run, so that what
is chosen of a batch follows from its pixels alone, and a run that was interrupted chooses the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_small.config.resolved import ResolvedConfig
from cifar_small.config.schema import Engine, Select, divides_evenly
from cifar_small.data.datamodule import DataModule
from cifar_small.environment import autocast, memory_format
from cifar_small.errors import ConfigError
from cifar_small.runs.records import TeacherFacts
from cifar_small.training.distillation import Teacher, check_size, load_teacher


@dataclass(frozen=True)
class HardImages:
    """Chooses the images of a batch that a proxy finds hardest."""

    settings: Select
    proxy: Teacher
    slices: int  # images that go through the proxy at once
    engine: Engine

    def count(self, images: int) -> int:
        """How many of so many images are trained on."""
        return self.settings.images_of(images)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, targets: Tensor, precision: str) -> Tensor:
        """The places, int64 in rising order, of the images (B, 3, H, H) where the proxy's cross-entropy is highest.

        targets: (B, K or more), of which the first K columns are the labels' shares.
        """
        losses = []
        layout = memory_format(self.engine)
        for part, target in zip(torch.split(pixels, self.slices), torch.split(targets, self.slices), strict=True):
            with autocast(pixels.device, precision):
                logits = self.proxy(part.contiguous(memory_format=layout))
            losses.append(F.cross_entropy(logits, target[:, : logits.shape[1]], reduction="none"))
        order = torch.argsort(torch.cat(losses), descending=True, stable=True)
        return order[: self.count(len(pixels))].sort().values


def check_shares(resolved: ResolvedConfig, share: int, micro_batch: int, *, synced: bool = False) -> None:
    """Refuse hardest images of a process's `share` of a batch that cannot be trained on, by raising ConfigError.

    synced: do the processes share BatchNorm's statistics? Else each must be left two images; micro-batches must be equal.
    """
    for phase in resolved.phases:
        if phase.settings.select is not None:
            where, count = f"phases.{phase.index}.select", phase.settings.select.images_of(share)
            if count < 2 and not synced:
                raise ConfigError(
                    f"{where} leaves each process {count} of its {share} images, of which BatchNorm has no statistics; "
                    f"expected at least two: raise {where}.share or batch_size, use fewer processes, or set "
                    "engine.sync_batchnorm: true"
                )
            if not divides_evenly(count, micro_batch):
                raise ConfigError(
                    f"{where} leaves each process {count} of its {share} images, which slices of "
                    f"engine.micro_batch_size {micro_batch} do not divide: use a divisor of {count}"
                )


def load_hard_images(
    resolved: ResolvedConfig, data: DataModule, slices: int
) -> tuple[dict[int, HardImages], list[TeacherFacts]]:
    """The choosers of the phases that have one, by their index, and the facts of all proxies, for the record.

    Raises what `load_teacher` raises: a proxy answers to the rules of teachers.
    """
    config, proxies, found = resolved.config, dict[str, tuple[Teacher, TeacherFacts]](), dict[int, HardImages]()
    for phase in resolved.phases:
        select = phase.settings.select
        if select is None:
            continue
        if select.proxy not in proxies:
            where = f"phases.{phase.index}.select"
            teacher, facts = load_teacher(select.proxy, config.engine, config.rules, data, where)
            proxies[select.proxy] = teacher, facts.updated(role="proxy")
        side = config.augmented_at(phase.settings.resolution, data.side)
        check_size(select.proxy, proxies[select.proxy][0], side, f"phases.{phase.index}.select")
        found[phase.index] = HardImages(select, proxies[select.proxy][0], slices, config.engine)
    return found, [facts for _, facts in proxies.values()]
