"""Images a second of the augmentation engines, by recipe and worker processes, without a net."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.loops import Stopwatch, synthetic
from benchmarks.report import Benchmark, add_data, add_rounds
from cifar_small._torchvision import import_torchvision
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import AUGMENTS, AnyAugment, Augment, Config
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.errors import UserError
from cifar_small.metrics.spread import Spread, ratios, spread
from cifar_small.reporting.tables import Table, aligned
from cifar_small.reporting.timeline import describe_augment
from cifar_small.transforms.augmenter import Augmenter, epoch_order

IMAGES = 5000
OWN = "own"  # the recipe of the config
LOOP = "transforms.v2"  # the contender that is no engine
DETAIL = f"""\
Each engine of `augment:` makes the pixels of an epoch as training asks for them, batch by batch, up to normalized floats on the
device, in two recipes and in that of the config's first phase ("{OWN}"); the engines that work image by image, by --workers
processes too (0: this one). All take turns in each round, each after an epoch that is not counted, with one CPU thread and on
the CPU unless --engine.threads or --engine.device says otherwise. No engine can say all that another can:
  tensor          moves and recolors every image, where the heavy recipe leaves some alone; its holes may have any shape
  torchvision     has policies, and crops, flips and covers as the tensor engine does: one operation of RandAugment stands for
                  the heavy recipe's; beside crop and flip it is at level 0, since without a policy there is no such engine
  {LOOP}   is no engine: torchvision's own transforms on one image at a time, as a data set of a plain loop has them

  tools/bench augment configs/resnet_hour.yaml
  tools/bench augment configs/published/wrn_28_10_progressive_cifar100.yaml --data real --rounds 5 --json augment.json
  tools/bench augment configs/resnet_hour.yaml --engine.device cuda --workers 0 4 8"""

# heavy: the first augmentation of configs/published/wrn_28_10_progressive_cifar100.yaml, and what comes nearest in other terms.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "crop, flip": {
        "tensor": {"crop": 4, "flip": "random"},
        "albumentations": {
            "pipeline": [
                {"name": "Pad", "padding": 4},
                {"name": "RandomCrop", "height": 32, "width": 32},
                {"name": "HorizontalFlip", "p": 0.5},
            ]
        },
        "torchvision": {"crop": 4, "flip": "random", "policy": "randaugment", "num_ops": 1, "magnitude": 0},
    },
    "heavy": {
        "tensor": {
            "crop": 0, "flip": "random", "rotation": 15, "translate": 0.1, "scale": [0.9, 1.1], "brightness": 0.2,
            "contrast": 0.2, "saturation": 0.08, "hue": 0.055, "erasing": 0.5, "erasing_scale": [0.0625, 0.0625],
        },
        "albumentations": {
            "pipeline": [
                {"name": "HorizontalFlip", "p": 0.5},
                {"name": "ShiftScaleRotate", "p": 0.5, "shift_limit": 0.1, "scale_limit": 0.1, "rotate_limit": 15},
                {"name": "CoarseDropout", "p": 0.5, "num_holes_range": [1, 1], "hole_height_range": [8, 8],
                 "hole_width_range": [8, 8]},
                {"name": "RandomBrightnessContrast", "p": 0.3, "brightness_limit": 0.2, "contrast_limit": 0.2},
                {"name": "HueSaturationValue", "p": 0.3, "hue_shift_limit": 10, "sat_shift_limit": 20, "val_shift_limit": 10},
            ]
        },
        "torchvision": {
            "crop": 0, "flip": "random", "policy": "randaugment", "num_ops": 1, "magnitude": 9, "interpolation": "bilinear",
            "erasing": 0.5, "erasing_scale": [0.0625, 0.0625],
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """One way to make the pixels of a recipe; without settings: torchvision's transforms in a loop."""

    recipe: str
    engine: str
    workers: int
    settings: AnyAugment | None
    side: int = 32  # pixels that images are enlarged to before
    interpolation: str = "bilinear"  # by which they are

    def batches(self, augmenter: Augmenter, order: Tensor, epoch: int, parts: Sequence[slice]) -> Iterator[Tensor]:
        """The pixels of each part of an epoch: normalized float32 (B, 3, side, side)."""
        if self.settings is not None:
            yield from augmenter.epoch(self.settings, order, epoch, parts, self.side)
            return
        data = augmenter.data
        transform, images = loop_transform(self.recipe, data.mean, data.std), data.images.cpu()
        for rows in parts:
            yield torch.stack([transform(image) for image in images[order[rows]]]).to(data.device)


def loop_transform(recipe: str, mean: Sequence[float], std: Sequence[float]) -> Any:
    """A recipe by torchvision's transforms: a uint8 image (3, 32, 32) -> normalized float32."""
    v2 = import_torchvision("transforms.v2")
    first = {
        "crop, flip": [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()],
        "heavy": [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)], 0.5),
            v2.RandomErasing(0.5, (0.0625, 0.0625), (1, 1)),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2)], 0.3),
            v2.RandomApply([v2.ColorJitter(saturation=0.08, hue=0.055)], 0.3),
        ],
    }
    return v2.Compose([*first[recipe], v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def contenders(config: Config, workers: Sequence[int]) -> list[Contender]:
    """Every recipe by every engine with every number of processes it can use; in each recipe the tensor engine comes first."""
    phase = resolve_config(config).phases[0].settings
    own, side = phase.augment, config.augmented_at(phase.resolution, config.read_at)
    recipes: dict[str, dict[str, AnyAugment | None]] = {}
    for recipe, engines in RECIPES.items():
        recipes[recipe] = {engine: _section(engine, given) for engine, given in engines.items()}
        recipes[recipe][LOOP] = None
    recipes[OWN] = {own.engine: own}
    return [
        Contender(recipe, engine, count, settings, side if recipe == OWN else 32, config.interpolation)
        for recipe, engines in recipes.items()
        for engine, settings in engines.items()
        for count in (workers if settings is not None and not isinstance(settings, Augment) else (0,))
    ]


def _section(engine: str, given: dict[str, Any]) -> AnyAugment:
    return cast(AnyAugment, AUGMENTS[engine].model_validate({"engine": engine, **given}))


def epoch_seconds(contender: Contender, data: DataModule, batch: int) -> float:
    """Seconds of an epoch of whole batches, its order and draws included, after one that starts processes and fills caches."""
    count = len(data.images)
    parts = [slice(start, start + batch) for start in range(0, count - batch + 1, batch)]
    with closing(Augmenter(data, 0, contender.workers, contender.interpolation)) as augmenter:
        for epoch in range(2):
            watch = Stopwatch(data.device, len(parts) - 1)
            for pixels in contender.batches(augmenter, epoch_order(count, 0, epoch), epoch, parts):
                watch.update(len(pixels))
    return watch.total


def augment_rows(entries: Sequence[Contender], seconds: Sequence[Sequence[float]], images: int) -> list[dict[str, Any]]:
    """Rates, and times against the first contender of the same recipe; seconds: of `images` images, per contender and round."""
    rows: list[dict[str, Any]] = []
    firsts: dict[str, Sequence[float]] = {}
    for entry, values in zip(entries, seconds, strict=True):
        first = firsts.setdefault(entry.recipe, values)
        rows.append(
            {
                "recipe": entry.recipe,
                "engine": entry.engine,
                "workers": entry.workers,
                "settings": None if entry.settings is None else entry.settings.model_dump(mode="json"),
                "seconds": list(values),
                "images_per_second": spread([images / value for value in values]).plain(),
                "time_over_first": ratios(values, first).plain(),
            }
        )
    return rows


def render_augment(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each contender."""
    cells = [
        [
            f"{row['recipe']}: {row['engine']}",
            str(row["workers"]),
            Spread(**row["images_per_second"]).text(",.0f"),
            Spread(**row["time_over_first"]).text(),
        ]
        for row in rows
    ]
    header = ("recipe and engine", "workers", "images/s (lowest .. highest)", "time, recipe's first = 1")
    return aligned(Table("", header, tuple(map(tuple, cells))))


def _add_options(sub: argparse.ArgumentParser) -> None:
    add_data(sub, IMAGES)
    add_rounds(sub)
    sub.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2], metavar="W", help="processes image by image (default: 0 1 2)"
    )


def _run(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    if min(options.workers) < 0:
        raise UserError(f"--workers {min(options.workers)}: expected 0 (this process) or more")
    count = max(options.images or IMAGES, config.batch_size)
    entries = contenders(config, sorted(set(options.workers)))
    for (recipe, engine), settings in {(one.recipe, one.engine): one.settings for one in entries}.items():
        if settings is not None:
            what = describe_augment(settings).removeprefix(engine).lstrip(":, ")
            print(f"{recipe}: {engine}: {what}")
    with TemporaryDirectory(prefix="cifar_small_bench_") as temporary:
        data = load_datamodule(synthetic(config, count, Path(temporary)) if options.data == "synthetic" else config)
    data = replace(data, images=data.images[:count], labels=data.labels[:count])
    images = len(data.images) // config.batch_size * config.batch_size
    print(
        f"{options.rounds} rounds of {images:,} {options.data} images in batches of {config.batch_size}, on {data.device}",
        flush=True,
    )
    seconds: list[list[float]] = [[] for _ in entries]
    for _ in range(options.rounds):
        for entry, values in zip(entries, seconds, strict=True):
            values.append(epoch_seconds(entry, data, config.batch_size))
    rows = augment_rows(entries, seconds, images)
    print(render_augment(rows))
    return {
        "data": options.data,
        "images": images,
        "batch_size": config.batch_size,
        "rounds": options.rounds,
        "device": str(data.device),
        "rows": rows,
    }


AUGMENT = Benchmark(
    "augment",
    "images a second of the augmentation engines",
    DETAIL,
    _add_options,
    _run,
    defaults=(("engine.threads", "1"), ("engine.device", "cpu")),
)
