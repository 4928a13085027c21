"""Training steps in three ways, for comparison: our loop, the bare net, and the loop a student project has.

`TrainerLoop` runs the real `Trainer`. `BareModelLoop` keeps its net, optimizer, precision, layout, compilation, micro-batches
and weight average, and drops everything around them: the batch is random, and already on the device. `DataLoaderLoop` is the
reference: PIL images, torchvision transforms, a DataLoader, eager float32, contiguous layout, SGD and `loss.item()` in every
step.

Each loop makes steps and reports them to a `Stopwatch`; the first step of a round is not counted, since it pays for coming back
to cold caches, for the order and draws of an epoch and for the start of a DataLoader's workers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from cifar_small._torchvision import import_torchvision
from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import DataModule
from cifar_small.environment import memory_format
from cifar_small.errors import UserError
from cifar_small.models import build_model, set_training
from cifar_small.models.convolutions import FastConvolutions
from cifar_small.optim.optimizers import set_learning_rate
from cifar_small.runs.directory import Run
from cifar_small.training.build import build_trainer
from cifar_small.training.initial_weights import with_input_of_weights
from cifar_small.transforms.functional import resize

WARM_UP = 5  # steps of each loop before the first round: memory is claimed, kernels are chosen or compiled
ASSUMED_CLASSES = 10  # of random images for a config whose own data would have to be read to know
PLAIN_LR, PLAIN_MOMENTUM, PLAIN_DECAY = 0.1, 0.9, 5e-4


class Stopwatch:
    """Stands where a progress bar does: counts steps, and reads the clock after the first and after the last."""

    def __init__(self, device: torch.device, steps: int) -> None:
        """Start, expecting one step that is not counted and `steps` that are."""
        self.device, self.steps, self.done = device, steps, 0
        self.first = self.last = float("nan")
        self.began = self._now()

    def update(self, images: int) -> None:
        """A step was made. Waits for the device at the first and the last one only, so that the others may overlap."""
        self.done += 1
        if self.done == 1:
            self.first = self._now()
        if self.done == self.steps + 1:
            self.last = self._now()

    @property
    def a_step(self) -> float:
        """Seconds a counted step took."""
        return (self.last - self.first) / self.steps

    @property
    def start_up(self) -> float:
        """Seconds that the first step took beyond a counted one, at least 0."""
        return max(0.0, self.first - self.began - self.a_step)

    @property
    def total(self) -> float:
        """Seconds from the start to the end of the last step."""
        return self.last - self.began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Loop(Protocol):
    """Training steps of some kind; `start_up_share` is the part of a round's start-up that each step must bear."""

    device: torch.device
    precision: str
    layout: str
    start_up_share: float

    def run(self, watch: Stopwatch) -> None:
        """Make `watch.steps + 1` steps and report each one."""
        ...


class TrainerLoop:
    """The real training loop of a phase. The order and draws of an epoch are shared over its steps."""

    def __init__(self, config: Config, folder: Path, phase: int = 0) -> None:
        """Read the data and build the net as training does; `folder` stands for the run directory."""
        config = with_input_of_weights(config)
        # A checkpoint within an epoch is no part of a step.
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"checkpoint_steps": None})})
        resolved = resolve_config(config)
        phases = resolved.phases
        if not 0 <= phase < len(phases):
            raise UserError(f"--phase {phase}: {config.name} has the phases 0 to {len(phases) - 1}; choose one of them")
        self.trainer = build_trainer(resolved, Run(folder), quiet=True)
        self.phase, state = phases[phase], self.trainer.state
        state.epoch = self.phase.start
        self.trainer.enter_phase(self.phase)
        self.trainer.fill_caches(self.phase)
        self.device, self.precision = self.trainer.device, self.trainer.state.precision
        self.layout: str = config.engine.layout
        self.start_up_share = 1 / self.trainer.steps

    def run(self, watch: Stopwatch) -> None:
        """The last `watch.steps + 1` steps of an epoch, and of the phase's next epoch the next time."""
        state, epochs = self.trainer.state, self.phase.end - self.phase.start
        state.step = self.phase.steps_in(state.epoch, self.trainer.steps) - watch.steps - 1
        self.trainer.train_epoch(self.phase, watch)
        state.epoch = self.phase.start + (state.epoch - self.phase.start + 1) % epochs
        state.totals.zero_()


class BareModelLoop:
    """The net and the optimizer of our loop on one random batch that is already on the device.

    plain_gradients: with torch's own backward pass of convolutions where it is safe, which on a CPU is not ours
    (models/convolutions.py).
    """

    start_up_share = 0.0

    def __init__(self, ours: TrainerLoop, *, plain_gradients: bool = False) -> None:
        """Take the trainer of a loop, which must not be used otherwise afterwards."""
        self.trainer, self.phase = ours.trainer, ours.phase
        if plain_gradients:
            self.trainer.convolutions = FastConvolutions(fast=False)
        self.device, self.precision, self.layout = ours.device, ours.precision, ours.layout
        generator, batch = torch.Generator().manual_seed(0), self.trainer.batch
        classes = len(self.trainer.data.classes)
        side = ours.phase.settings.resolution
        pixels = torch.randn(batch, 3, side, side, generator=generator)
        self.pixels = pixels.to(self.device).contiguous(memory_format=memory_format(self.trainer.config.engine))
        labels = torch.randint(classes, (batch,), generator=generator)
        self.targets = F.one_hot(labels, classes).float().to(self.device)
        # The same arithmetic as with any other rate, but one batch over and over would be learned by heart, down to gradients
        # whose tiny numbers take longer on a CPU.
        set_learning_rate(self.trainer.state.optimizer, 0.0)

    def run(self, watch: Stopwatch) -> None:
        """Forward, backward and update: no data path, no checks, no schedule."""
        trainer, state = self.trainer, self.trainer.state
        set_training(state.model)
        for _ in range(watch.steps + 1):
            state.optimizer.zero_grad(set_to_none=True)
            trainer.backward(self.pixels, self.targets, self.phase.settings, seed=0, count=False)
            state.optimizer.step()
            if state.average is not None and self.phase.settings.swa is None:  # which averages epochs
                state.average.update_parameters(state.model)
            watch.update(trainer.batch)


def plain_transform(mean: tuple[float, ...], std: tuple[float, ...], *, augment: bool = True) -> Any:
    """torchvision's usual training transform: a PIL image -> float32 (3, 32, 32); without `augment` only normalized."""
    transforms = import_torchvision("transforms")
    random = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if augment else []
    return transforms.Compose([*random, transforms.ToTensor(), transforms.Normalize(mean, std)])


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 gives them: an array, made a PIL image and transformed one at a time."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], transform: Any) -> None:
        """images: (N, 32, 32, 3); labels: (N,)."""
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class DataLoaderLoop:
    """The loop a student project has, on the same images and the same net. The start of its workers is not held against it."""

    precision, layout, start_up_share = "fp32", "contiguous", 0.0

    def __init__(self, config: Config, data: DataModule, workers: int, side: int = 32) -> None:
        self.side = side  # as our loop has it in that phase, so that the nets have the same work
        self.device, self.losses = data.device, list[float]()
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, len(data.classes)).to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=PLAIN_LR, momentum=PLAIN_MOMENTUM, weight_decay=PLAIN_DECAY
        )
        images = data.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        dataset = PlainImages(images, data.labels.cpu().numpy(), plain_transform(data.mean, data.std))
        self.loader = DataLoader(dataset, config.batch_size, shuffle=True, num_workers=workers, drop_last=True)

    def run(self, watch: Stopwatch) -> None:
        """The first `watch.steps + 1` batches of an epoch."""
        self.model.train()
        for images, labels in self.loader:
            images, labels = resize(images.to(self.device), self.side), labels.to(self.device)
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())
            watch.update(len(images))
            if watch.done > watch.steps:
                return


def synthetic(config: Config, images: int, folder: Path) -> Config:
    """The same config on random images, which go into `folder`: so many for training, and one of each class for val."""
    classes = config.data.num_classes or ASSUMED_CLASSES
    total, rng = images + classes, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (total, 32, 32, 3), dtype=np.uint8)
    file = folder / f"random_{images}.npz"
    labels = np.arange(total, dtype=np.int64) % classes
    np.savez(file, train_images=pixels, train_labels=labels, classes=np.array([str(label) for label in range(classes)]))
    plain = config_dict(config)
    plain["data"] = {"source": "npz", "root": str(file), "val_size": classes}
    return parse_config(plain, f"{config.name} on random images")


def alternate(loops: Mapping[str, Loop], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each loop, once a round, the loops taking turns within each round. Warms each one up first."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop.run(Stopwatch(loop.device, min(WARM_UP, steps + 1) - 1))
    for _ in range(rounds):
        for name, loop in loops.items():
            watch = Stopwatch(loop.device, steps)
            loop.run(watch)
            seconds[name].append(watch.a_step + watch.start_up * loop.start_up_share)
    return seconds


def require_steps(ours: TrainerLoop, steps: int) -> None:
    """Raise UserError if an epoch is shorter than `steps` counted ones and the one that is not."""
    images = len(ours.trainer.data.images)
    if ours.trainer.steps < steps + 1:
        raise UserError(
            f"--steps {steps} needs {steps + 1} steps in an epoch, since the first is not counted; {images:,} "
            f"images in batches of {ours.trainer.batch} make {ours.trainer.steps}: lower --steps or the batch size"
        )
