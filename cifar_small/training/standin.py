"""Training and prediction on torch's meta device, which has shapes and no numbers: a stand-in for a GPU on any machine.

It finds what would make a GPU wait (`DeviceWatch` refuses it) and how much memory the tensors need, in a second or two.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifar_small.config.phases import Phase
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import DataModule
from cifar_small.data.images import Images
from cifar_small.data.orientation import PixelStatistics
from cifar_small.inference.forward import compute_logits
from cifar_small.models import LibraryNet
from cifar_small.models.counting import skeleton
from cifar_small.optim.muon import Muon
from cifar_small.optim.optimizers import GuardedRAdam, build_optimizer
from cifar_small.runs.directory import Run
from cifar_small.runs.records import DataFacts
from cifar_small.training.averaging import ExponentialAverage, tensors_of
from cifar_small.training.batches import Batch, Batches
from cifar_small.training.checkpointing import Checkpoints
from cifar_small.training.distillation import Teacher, TeacherTargets
from cifar_small.training.distributed import SINGLE_PROCESS, share_batch
from cifar_small.training.feature_cache import FeatureCache, bytes_needed, compute_features
from cifar_small.training.hard_images import HardImages
from cifar_small.training.state import State
from cifar_small.training.teacher_cache import answer_bytes
from cifar_small.training.trainer import Trainer
from cifar_small.training.view_cache import SLICE
from cifar_small.transforms.augmenter import Augmenter
from cifar_small.transforms.preprocess import Preprocess

META = torch.device("meta")
BLOCK = 512  # bytes; CUDA's allocator rounds every tensor up to a multiple
STEPS = 2  # of each phase; the first makes the optimizer's buffers


class DeviceWatch:
    """Within, counts the live bytes on the device, and refuses what mixes devices or lets a GPU wait, by an AssertionError.

    The meta device itself raises for `.item()`, `bool()`, `.cpu()` and for a CPU tensor with axes in its arithmetic; added here
    are a CPU index and a CPU tensor without axes, and while `strict`, copies to the device that are not `non_blocking`.
    """

    def __init__(self) -> None:
        self.live = self.peak = 0
        self.strict = False
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._modes = ExitStack()

    def __enter__(self) -> DeviceWatch:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()

    def count(self, tensor: Tensor) -> None:
        """Count the memory of a tensor on the device until it is freed."""
        storage = tensor.untyped_storage()
        if not tensor.is_meta or storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


class _Operations(TorchDispatchMode):
    """Looks at every operation of torch, those of the backward pass included."""

    def __init__(self, watch: DeviceWatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, unless a GPU would wait for it."""
        kwargs = kwargs or {}
        given = _tensors_in((args, kwargs))
        on_cpu = [tensor for tensor in given if not tensor.is_meta]
        mixed = bool(on_cpu) and len(on_cpu) < len(given)
        shape = tuple(on_cpu[0].shape) if on_cpu else ()
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            waits = (mixed or (on_cpu and kwargs.get("device") == META)) and not kwargs.get("non_blocking")
            waits = waits and True not in args[2:]
            assert not (self.watch.strict and waits), f"a copy of {shape} to the device waits: make it non_blocking"
        else:
            assert not mixed, f"{func} on the device was given a tensor {shape} on the CPU"
        result = func(*args, **kwargs)
        for tensor in _tensors_in(result):
            self.watch.count(tensor)
        return result


class _Functions(TorchFunctionMode):
    """Refuses tensors made of Python's numbers on the device: torch makes them on the CPU and waits for the copy."""

    def __init__(self, watch: DeviceWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, unless it makes such a tensor."""
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == META
        assert not (self.watch.strict and made), f"torch.tensor({args[0]}) on the device waits for a copy: make it beforehand"
        return func(*args, **kwargs)


def _tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class StandInTrainer(Trainer):
    """A trainer on the meta device: it runs the steps, and has no numbers to look at or to save."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.watch = DeviceWatch()
        augmenter, model, average = self.batches.augmenter, self.state.model, self.state.average
        averaged = tensors_of(average) if average is not None else []
        stored = (self.data.images, self.data.labels, self.data.val_images)
        for tensor in (*stored, *tensors_of(model), *averaged, *self.state.slow.values()):
            self.watch.count(tensor)
        # What engines that work image by image copy from the device, once.
        black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        augmenter.__dict__ |= {"_images_here": black.expand(len(self.data.images), -1, -1, -1), "_fill_here": black[0, :, 0, 0]}

    def train_phases(self) -> None:
        """The last `STEPS` steps of the first epoch of every phase, and of the first that shows another's images again.

        Then a batch of evaluation with the config's views.
        """
        engine = self.config.engine
        with self.watch:
            for phase in self.resolved.phases:
                self.enter_phase(phase)
                repeated = [epoch for epoch in range(phase.start, phase.end) if phase.shown(epoch) != epoch]
                for epoch in (phase.start, *repeated[:1]):
                    steps = phase.steps_in(epoch, self.steps)
                    self.state.epoch, self.state.step = epoch, max(0, steps - STEPS)
                    self.fill_caches(phase)
                    self.train_epoch(phase, _NoBar())
            self.state.optimizer.zero_grad()
            self.watch.strict = True
            batch = self.data.images[: engine.eval_batch_size]
            compute_logits(
                self.state.evaluated, batch, self.batches.preprocess, self.config.views, self.state.precision, len(batch)
            )
            self.watch.strict = False

    def enter_phase(self, phase: Phase) -> None:
        """Enter a phase as any trainer does; torch's plain steps, which take the fused ones' place, refuse their flag."""
        super().enter_phase(phase)
        if not isinstance(self.state.optimizer, Muon | GuardedRAdam):
            self.state.optimizer.register_step_pre_hook(lambda optimizer, *_: setattr(optimizer, "found_inf", None))

    def _features_of(self, phase: Phase) -> FeatureCache:
        """Features without numbers; what the backbone takes while it computes them is counted for one slice of images."""
        views, side, precision = phase.settings.cached_views, phase.settings.resolution, self.state.precision
        assert views is not None
        bytes_needed(self.state.model, phase, len(self.data.images), len(self.data.val_images), self.config.side)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16

        def features(count: int, side: int) -> Tensor:
            pixels = torch.empty(min(SLICE, count), 3, side, side, device=META)
            shape = compute_features(cast(LibraryNet, self.state.model), pixels, precision).shape[1:]
            return torch.empty(count, *shape, dtype=dtype, device=META)

        kept = [features(len(self.data.images), side) for _ in range(views)]
        return FeatureCache(kept, features(len(self.data.val_images), self.config.side), phase.start, precision)

    def _answers_of(self, phase: Phase) -> list[Tensor]:
        """Answers without numbers; what the teachers take while they give them is counted for one slice of images."""
        teachers, settings = self.batches.teacher_targets[phase.index], phase.settings.distill
        assert settings is not None
        assert settings.cached_views is not None
        answer_bytes(phase, len(self.data.images), len(self.data.classes))
        count, side = len(self.data.images), self.config.augmented_at(phase.settings.resolution, self.data.side)
        teachers.answers(torch.empty(min(SLICE, count), 3, side, side, device=META), self.state.precision)
        return [torch.empty(count, len(self.data.classes), device=META) for _ in range(settings.cached_views)]

    def step(self, phase: Phase, batch: Batch, stopped: Tensor) -> Tensor:
        """One optimizer step, within which and after which nothing may wait."""
        self.watch.strict = True
        return super().step(phase, batch, stopped)

    def _stop_if_diverged(self, first_bad: Tensor, phase: Phase) -> None:
        self.watch.strict = False

    def _save(self) -> None:
        pass


class _NoBar:
    def update(self, count: int) -> None:
        """Show nothing."""


def stand_in(config: Config, classes: int, images: int, precision: str) -> StandInTrainer:
    """The trainer of a config on the meta device, for so many training images; its teachers are those of the config."""
    resolved = resolve_config(config)
    micro_batch = share_batch(config.batch_size, config.engine.micro_batch_size, 1)
    data = _data(config, classes, images, precision)
    preprocess = Preprocess(data.mean, data.std, config.side, config.interpolation)
    model = skeleton(config.model, classes)
    state = State(
        model,
        build_optimizer(model, resolved.phases[0].settings.optim),
        ExponentialAverage(model, config.ema_decay, config.ema_warmup) if config.ema_decay is not None else None,
        precision,
        totals=torch.empty(2, device=META),
        norms=torch.empty(2, device=META),
        scaling=torch.empty(2, device=META),
    )
    checkpoints = Checkpoints(Run("none"), resolved, data, 0, [], SINGLE_PROCESS)
    augmenter = Augmenter(data, config.seed, 0, config.interpolation)
    teachers = {phase.index: _teachers(phase, config, data, micro_batch) for phase in resolved.phases if phase.settings.distill}
    selecting = [phase for phase in resolved.phases if phase.settings.select]
    hard_images = {phase.index: _hard_images(phase, config, data, micro_batch) for phase in selecting}
    batches = Batches(config, data, augmenter, preprocess, teachers, hard_images, micro_batch, SINGLE_PROCESS)
    return StandInTrainer(resolved, data, state, checkpoints, batches, SINGLE_PROCESS, quiet=True)


def _data(config: Config, classes: int, images: int, precision: str) -> DataModule:
    names, ids, side = tuple(map(str, range(classes))), np.arange(images), config.read_at
    val = Images(np.zeros((1, 32, 32, 3), np.uint8), None, ids[:1], names, "none")
    on_device = torch.empty(images + config.data.val_size, side, side, 3, dtype=torch.uint8, device=META).permute(0, 3, 1, 2)
    labels = torch.empty(images, dtype=torch.int64, device=META)
    half, facts = (0.5, 0.5, 0.5), DataFacts(source="none")
    pixels = PixelStatistics((), ())
    return DataModule(
        on_device[:images], labels, ids, val, on_device[images:], names, half, half, pixels, facts, META, precision
    )


def _teachers(phase: Phase, config: Config, data: DataModule, slices: int) -> TeacherTargets:
    """The targets of a phase with teachers: the nets of their runs, or a file's probabilities of every image."""
    settings, classes = phase.settings.distill, len(data.classes)
    assert settings is not None
    nets = [_teacher(path, data) for path in settings.teachers]
    stored = [torch.empty(len(data.images), classes, device=META)] if settings.predictions else []
    return TeacherTargets(settings, nets, stored, slices, config.engine)


def _hard_images(phase: Phase, config: Config, data: DataModule, slices: int) -> HardImages:
    assert phase.settings.select is not None
    return HardImages(phase.settings.select, _teacher(phase.settings.select.proxy, data), slices, config.engine)


def _teacher(path: str, data: DataModule) -> Teacher:
    """The net of a run, or of one that an ONNX file lies in, without its numbers."""
    run = Run(Path(path).parent if path.endswith(".onnx") else path)
    config, one = run.config(), torch.empty(1, 3, 1, 1, device=META)
    preprocess = Preprocess(data.mean, data.std, config.side, config.interpolation)
    return Teacher(skeleton(config.model, len(data.classes)).eval().requires_grad_(False), preprocess, one, one, "")


def memory_needed(config: Config, classes: int, images: int) -> int:
    """Bytes of all tensors on a GPU at the fullest moment of a run, as its steps and a batch of evaluation need them.

    In bf16 where the config leaves precision open. Not in it: CUDA's own half a GiB or so, the workspaces of its convolutions
    and gaps between blocks; and what `engine.compile` saves. Raises what reading the configs of teachers raises.
    """
    precision = "bf16" if config.engine.precision == "auto" else config.engine.precision
    trainer = stand_in(config, classes, images, precision)
    trainer.train_phases()
    return trainer.watch.peak
