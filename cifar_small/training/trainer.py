"""The training loop: one class a reader can see, for every recipe.

No random state lives between steps (see `randomness`), so a run killed anywhere continues to the same bits, and resuming
needs nothing but weights, optimiser state, averages and counters.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from cifar_small.config.hashing import config_dict, config_hash
from cifar_small.config.phases import Phase, resolve_phases
from cifar_small.config.schema import Config, PhaseSettings
from cifar_small.data.datamodule import load_datamodule
from cifar_small.environment import autocast, describe, memory_format, prepare_process
from cifar_small.errors import CheckpointError, ConfigError, DivergedError
from cifar_small.files import write_json
from cifar_small.inference.forward import compute_logits
from cifar_small.models import (
    build_model,
    fit_stem,
    refresh_statistics,
    set_dropout,
    set_frozen,
    set_training,
    statistics_kept,
)
from cifar_small.models.counting import check_budget, check_tensors, footprint, num_classes_of
from cifar_small.optim.optimizers import (
    adjust_scale,
    build_optimizer,
    climb,
    clip_and_check,
    descend,
    look_ahead,
    set_learning_rate,
    unscale,
    update_optimizer,
)
from cifar_small.optim.schedulers import learning_rate
from cifar_small.randomness import DROPOUT, MIX, numpy_generator, stream_seed
from cifar_small.runs.checkpoints import load_newest, save_checkpoint
from cifar_small.runs.directory import Run, can_resume, locked, require_space, write_start
from cifar_small.runs.keeping import copies_kept, keep_epoch, keep_final
from cifar_small.runs.lineage import Ancestor, check_unseen, lineage_of
from cifar_small.training.distillation import check_same_teachers, distilled_loss, load_teacher_targets
from cifar_small.training.distributed import (
    SINGLE_PROCESS,
    World,
    average_gradients,
    joined,
    share_batch,
    synchronize_batchnorm,
)
from cifar_small.training.initial_weights import PretrainedInit, load_pretrained, prepare_init
from cifar_small.training.signals import collected_signals, leave_if_asked
from cifar_small.training.state import FIRST_SCALE, ExponentialAverage, State
from cifar_small.training.summary import closing_line, epoch_line, summarize
from cifar_small.transforms.augmenter import Augmenter, epoch_order
from cifar_small.transforms.functional import resize
from cifar_small.transforms.mixing import Mix, apply_mix, draw_mix
from cifar_small.transforms.per_image import check_pipelines
from cifar_small.transforms.preprocess import Preprocess

STEM_IMAGES = 5000  # training images whose patches a whitening stem is fitted to
CHECK_EVERY = 50  # steps between looks at the device's not-finite count on a GPU; on a CPU the look is free


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a config into a run directory and return its summary; one rank of several when torchrun started us.

    `on_epoch` is given each epoch's row of `metrics.csv` once all is saved; what it raises ends the run, which can be resumed.

    Raises ConfigError (over budget, or resumed with other settings), CheckpointError (directory in use or damaged),
    DivergedError (loss not finite) and Terminated (saved after SIGINT or SIGTERM; resume to go on).
    """
    started = time.monotonic()
    if (known := num_classes_of(config)) is not None:
        check_budget(config, known)  # before any data is read
    run = Run(folder)
    config, start = prepare_init(config, run)
    phases = resolve_phases(config)
    check_pipelines(config)
    with joined(config.engine.device) as world, ExitStack() as held:

        def may_go_on() -> bool:
            held.enter_context(locked(run))
            return can_resume(run, config, resume)

        quiet = quiet or not world.first
        world.require_same(f"{config_hash(config)} {run.folder}", "config or run directory", "start all with the same")
        going_on = world.first_then_all(may_go_on)
        if world.first_then_all(lambda: going_on and _is_complete(run, phases)):
            summary = run.summary() or {}  # which a rank on another machine may not see
            if not quiet:
                print(f"{run.folder} is already complete: {summary['epochs']} epochs, val {summary['val_accuracy']:.2%}")
            return summary
        stop: list[int] = []
        trainer = Trainer(config, phases, run, stop, started, quiet, world, start)
        if going_on:
            trainer.restore()
        world.require_same(
            f"{trainer.problem.facts} {trainer.precision} {torch.__version__}",
            "dataset, precision or torch",
            "give all machines the same data and versions, and set engine.precision where they differ in what they can",
        )
        if world.first:
            environment = {**describe(trainer.device, trainer.precision), "processes": world.size}
            write_start(run, config, environment, command, trainer.epochs)
        with collected_signals(stop):
            trainer.fit(on_epoch)
            return trainer.finish()


def _is_complete(run: Run, phases: Sequence[Phase]) -> bool:
    summary = run.summary()
    return summary is not None and summary["epochs_planned"] == phases[-1].end and run.best.exists()


class Trainer:
    """A run under way: the problem, the state, and the loop over phases, epochs and steps."""

    def __init__(
        self,
        config: Config,
        phases: tuple[Phase, ...],
        run: Run,
        stop: list[int],
        started: float,
        quiet: bool,
        world: World = SINGLE_PROCESS,
        start: PretrainedInit | None = None,
    ) -> None:
        """Read the data and build the net; `stop` fills with signals, `started` is when the clock began.

        start: the weights it begins with, where the config names some and the run is not resumed.
        """
        prepare_process(config.engine)
        self.world = world
        self.config, self.phases, self.run, self.stop, self.quiet = config, phases, run, stop, quiet
        self.clock = started  # moved back by the seconds of earlier sessions
        self.problem = load_datamodule(config)
        self.device, self.precision, self.classes = self.problem.device, self.problem.precision, self.problem.classes
        self.parameters = check_budget(config, len(self.classes))
        self.epochs, self.batch = phases[-1].end, config.batch_size
        self.micro_batch = share_batch(config, world.size)
        self.teacher_targets, self.teachers = load_teacher_targets(config, phases, self.problem, self.micro_batch)
        # The remainder, other images every epoch, is left out: every batch has the same shape.
        self.steps = len(self.problem.images) // self.batch
        self.preprocess = Preprocess(self.problem.mean, self.problem.std, config.side, config.interpolation)
        self.ancestors: list[Ancestor] = []
        model = self._build_net(start)
        _check_phases(config, phases, model, len(self.classes))
        self.state = State(
            model,
            build_optimizer(model, phases[0].settings.optim),
            ExponentialAverage(model, config.ema_decay) if config.ema_decay is not None else None,
            totals=torch.zeros(2, device=self.device),
            scaling=torch.tensor([FIRST_SCALE, 0.0], device=self.device),
        )
        if config.engine.sync_batchnorm and world.size > 1:
            synchronize_batchnorm(model)
        self.enter(phases[0])
        self.augmenter = Augmenter(self.problem, config.seed, config.engine.workers, config.interpolation)
        self._announce()

    def _build_net(self, start: PretrainedInit | None) -> nn.Module:
        """The net on its device, its stem fitted to the training images, with the weights it starts from."""
        config = self.config
        torch.manual_seed(config.seed)
        model = build_model(config.model, len(self.classes))
        check_tensors(model)
        if self.world.first:
            # last.pt and previous.pt with two moments, average and slow weights, best.pt, one being written, what is kept.
            size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
            require_space(self.run, (16 + copies_kept(config.engine, self.epochs)) * size)
        model.to(device=self.device, memory_format=memory_format(config.engine))  # type: ignore[call-overload]
        fit_stem(model, self._stem_images(), self.preprocess)
        if start is not None:
            check_unseen(start.ancestors, self.problem.facts)
            self.ancestors = start.ancestors
            self.say(load_pretrained(model, start, self.classes))
        return model

    def _stem_images(self) -> Tensor:
        """The first training images, or evenly spread ones where these are not of all classes: folders are read one by one."""
        images, labels = self.problem.images, self.problem.labels
        if len(torch.unique(labels[:STEM_IMAGES])) == len(torch.unique(labels)):
            return images[:STEM_IMAGES]
        return images[:: -(-len(images) // STEM_IMAGES)]

    def _announce(self) -> None:
        config, problem = self.config, self.problem
        self.say(
            f"{config.name}: {self.parameters:,} trainable parameters, {config.rules.max_params - self.parameters:,} below "
            f"the budget of {config.rules.max_params:,}; {len(problem.images):,} training and {len(problem.val):,} "
            f"validation images of {config.data.source}; {self.device}, {self.precision}"
        )
        if self.teachers:
            each = (f"{one.get('run', one['name'])} ({one['parameters']:,} parameters)" for one in self.teachers)
            self.say(f"learns from {', '.join(each)}, which are not counted")

    def restore(self) -> None:
        """Go on from the newest whole checkpoint. Raises CheckpointError when there is none or the data has changed."""
        self.world.first_then_all(self._mend_checkpoint)
        if not self.run.last.exists():
            raise CheckpointError(
                f"rank {self.world.rank} does not find {self.run.last}, which rank 0 has: to resume over several machines, "
                "keep it on a disk that all of them see"
            )
        saved, _ = load_newest(self.run.last, self.run.previous)
        if saved["data"] != self.problem.facts:
            raise CheckpointError(
                f"{self.run.folder} was trained on other data: {saved['data']} then, {self.problem.facts} now; use that data"
            )
        check_same_teachers(saved.get("teachers", []), self.teachers, self.run.folder)
        # Between phases the state is that of the phase before; `fit` makes the change, as in a run that was not interrupted.
        self.enter(self._phase(saved["epoch"] - (saved["step"] == 0)))
        self.state.restore(saved)
        self.ancestors = saved.get("ancestors", [])
        self.state.totals *= self.world.first  # as `_gather_totals` leaves them
        self.clock -= self.state.seconds
        if saved["precision"] != self.precision:
            if self.world.first:
                tqdm.write(
                    f"warning: begun in {saved['precision']}, so it goes on so; this machine would take {self.precision}"
                )
            self.precision = saved["precision"]
        self.say(f"resuming {self.run.folder} at epoch {self.state.epoch + 1}, step {self.state.step}")

    def _mend_checkpoint(self) -> bool:
        """Let `last.pt` be whole again by the one before it, if it is not; is it now?"""
        _, warning = load_newest(self.run.last, self.run.previous)
        if warning:
            tqdm.write(f"warning: {warning}")
            os.replace(self.run.previous, self.run.last)  # or the next save would put the damaged file in its place
        return True

    def fit(self, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Epochs until the last phase ends or patience does: train, evaluate, select, save, report."""
        state, config = self.state, self.config
        per_epoch = self.steps * self.batch
        done = state.epoch * per_epoch + state.step * self.batch
        with (
            closing(self.augmenter),
            tqdm(
                total=self.epochs * per_epoch,
                initial=done,
                unit="img",
                disable=True if self.quiet else None,
                dynamic_ncols=True,
            ) as bar,
        ):
            while state.epoch < self.epochs and not (config.patience and state.stale >= config.patience):
                phase = self._phase(state.epoch)
                if state.epoch == phase.start and state.step == 0:
                    if phase.index > 0:
                        self.enter(phase)
                    self._say_what_trains(phase)
                bar.set_description(f"epoch {state.epoch + 1}/{self.epochs}")
                began, first_step = time.monotonic(), state.step
                lr = self.train_epoch(phase, bar)
                speed = (self.steps - first_step) * self.batch / (time.monotonic() - began)
                row = self._end_epoch(phase, lr, speed)
                bar.set_postfix_str(f"val {row['val_accuracy']:.2%}, best {state.best_accuracy:.2%}")
                if bar.disable:
                    self.say(epoch_line(row, self.epochs, state.best_accuracy, time.monotonic() - began))
                if on_epoch is not None:
                    on_epoch(row)
                if self._asked_to_stop():
                    leave_if_asked(self.stop, self.run.folder)

    def train_epoch(self, phase: Phase, bar: Any) -> float:
        """The steps of one epoch from `state.step` on; returns the last learning rate.

        On a GPU nothing here waits for the device between looks at `first_bad`.
        """
        state, settings = self.state, phase.settings
        order = epoch_order(len(self.problem.images), self.config.seed, state.epoch)
        steps = range(state.step, self.steps)
        side = self.config.augmented_at(settings.resolution)
        rngs = (numpy_generator(self.config.seed, MIX, state.epoch, step) for step in steps)
        mixes = [draw_mix(settings, self.batch, rng, side) for rng in rngs]
        parts = [self._rows(step, mix) for step, mix in zip(steps, mixes, strict=True)]
        batches = self.augmenter.epoch(settings.augment, order, state.epoch, parts, side)
        order = order.to(self.device)
        first_bad = torch.tensor(-1, device=self.device)  # the first step whose loss or gradient is not finite
        span = (phase.schedule_end - phase.schedule_start) * self.steps

        def rate(step: int) -> float:
            done = (state.epoch - phase.schedule_start) * self.steps + step
            return learning_rate(settings.schedule, settings.optim.lr, done, span, self.steps)

        set_training(state.model)
        for step, mix, rows, pixels in zip(steps, mixes, parts, batches, strict=True):
            set_learning_rate(state.optimizer, rate(step))
            bad = self._step(phase, step, mix, pixels, order[rows], first_bad >= 0)
            first_bad = torch.where((first_bad < 0) & bad, step, first_bad)
            state.step = step + 1
            checkpoint = self.config.engine.checkpoint_steps
            look = self.device.type == "cpu" or state.step % CHECK_EVERY == 0  # on a GPU, a rank's word is a synchronisation
            stop = self._asked_to_stop() if self.world.size == 1 or look else False
            save = (stop or (checkpoint and state.step % checkpoint == 0)) and state.step < self.steps
            if look or save or state.step == self.steps:
                self._stop_if_diverged(first_bad, rate)
            bar.update(self.batch)
            if save:
                self._save()
                if stop:
                    self._asked_to_stop()  # by its answer rank 0 has written; torchrun stops all when one leaves
                    leave_if_asked(self.stop, self.run.folder)
        return rate(self.steps - 1)

    def _asked_to_stop(self) -> bool:
        """Has a signal come, to any rank? Then every rank knows of it."""
        asked = self.world.any(bool(self.stop), self.device)
        if asked and not self.stop:
            self.stop.append(signal.SIGTERM)
        return asked

    def _rows(self, step: int, mix: Mix) -> slice:
        """The places of the epoch whose pixels we need in a step: our share, or, to mix it, the whole batch."""
        share = self.world.share(self.batch) if mix.kind == "none" else slice(0, self.batch)
        return slice(step * self.batch + share.start, step * self.batch + share.stop)

    def _step(self, phase: Phase, step: int, mix: Mix, pixels: Tensor, chosen: Tensor, stopped: Tensor) -> Tensor:
        """One optimiser step on augmented images (B, 3, H, H), without effect once `stopped`; was it not finite?

        chosen: int64 (B,), which images of the dataset they are; B as `_rows` has it, of which each rank uses its share.
        """
        state, settings, config, world = self.state, phase.settings, self.config, self.world
        ranks = (world.rank,) if world.size > 1 else ()
        torch.manual_seed(stream_seed(config.seed, DROPOUT, state.epoch, step, *ranks))
        targets = F.one_hot(self.problem.labels[chosen], len(self.classes)).float()
        lesson = self.teacher_targets.get(phase.index)
        if lesson is not None:
            targets = lesson.of_images(targets, chosen)
        if mix.kind != "none":
            ours = world.share(self.batch)
            pixels, targets = (tensor[ours] for tensor in apply_mix(mix, pixels, targets))
        if lesson is not None:
            targets = lesson.of_pixels(targets, pixels, self.precision)
        pixels = resize(pixels, settings.resolution, config.interpolation)
        pixels = pixels.contiguous(memory_format=memory_format(config.engine))
        state.optimizer.zero_grad(set_to_none=True)
        total = self.backward(pixels, targets, settings)
        if settings.sam is not None:
            former = climb(state.optimizer, settings.sam)
            state.optimizer.zero_grad(set_to_none=True)
            with statistics_kept(state.model):
                self.backward(pixels, targets, settings, count=False)
            descend(former)
        world.sum(total)  # so that all ranks agree on whether it is finite
        bad = clip_and_check(state.optimizer, total, settings.optim.clip_norm, stopped)
        state.optimizer.step()
        if self.precision == "fp16":
            bad = adjust_scale(state.scaling, total, bad)
        if settings.lookahead is not None:
            look_ahead(state.model, state.slow, settings.lookahead, step + 1, self.steps)
        state.totals[0] += total * world.first  # it is everybody's already; hits are each rank's own
        if state.average is not None and settings.swa is None:
            state.average.update_parameters(state.model)
        return bad

    def backward(self, pixels: Tensor, targets: Tensor, settings: PhaseSettings, count: bool = True) -> Tensor:
        """Gradients of the mean loss of our images, micro-batch by micro-batch; returns the summed loss, counts the hits."""
        total = torch.zeros((), device=self.device)
        scale = self.state.scaling[0] if self.precision == "fp16" else None
        slices = list(zip(torch.split(pixels, self.micro_batch), torch.split(targets, self.micro_batch), strict=True))
        for index, (images, target) in enumerate(slices):
            last = index + 1 == len(slices)  # whose backward pass exchanges the gradients of all
            with nullcontext() if last or self.ranks is None else self.ranks.no_sync():
                with autocast(self.device, self.precision):
                    logits = self.forward(images).float()
                if settings.distill is None:
                    loss = F.cross_entropy(logits, target, label_smoothing=settings.label_smoothing, reduction="sum")
                else:
                    loss = distilled_loss(logits, target, settings.distill, settings.label_smoothing)
                mean = loss / len(pixels)  # ranks' gradients are averaged
                torch.autograd.backward(mean if scale is None else mean * scale)
            total += loss.detach()
            if count:  # against mixed targets: the share of the label that the prediction names
                self.state.totals[1] += target.gather(1, logits.detach().argmax(1, keepdim=True)).sum()
        if scale is not None:
            unscale(self.state.model, scale)
        return total

    def _stop_if_diverged(self, first_bad: Tensor, rate: Callable[[int], float]) -> None:
        step = int(first_bad.item())  # a device synchronisation, every CHECK_EVERY steps on a GPU
        if step >= 0:
            raise self._diverged(
                f"loss or gradient is not finite at epoch {self.state.epoch + 1}, step {step + 1} of {self.steps}", rate(step)
            )

    def _diverged(self, what: str, lr: float) -> DivergedError:
        kept = "the last checkpoint is whole" if self.run.last.exists() else "no epoch was completed, so nothing was kept"
        return DivergedError(
            f"{what} (lr {lr:.4g}); expected finite numbers: the weights were not updated, {kept}; lower optim.lr, add warm-up "
            "or set optim.clip_norm, in a new --output"
        )

    def _end_epoch(self, phase: Phase, lr: float, speed: float) -> dict[str, Any]:
        """Evaluate, select and save; returns the epoch's row of `metrics.csv`."""
        state = self.state
        self._gather_totals()
        loss, hits = (state.totals / (self.steps * self.batch)).tolist()  # synchronises once an epoch
        self._average_epoch(phase)
        val_loss, val_accuracy = self._evaluate()
        if not math.isfinite(val_loss):
            raise self._diverged(f"the loss on val is not finite after epoch {state.epoch + 1}", lr)
        state.epoch, state.step = state.epoch + 1, 0
        state.totals.zero_()
        row = {
            "epoch": state.epoch,
            "phase": phase.index,
            "steps": state.epoch * self.steps,
            "lr": lr,
            "train_loss": loss,
            "train_accuracy": hits,
            "train_targets": "mixed" if phase.settings.mixes else "hard",
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "images_per_second": round(speed, 1),
            "seconds": round(time.monotonic() - self.clock, 1),
        }
        state.rows.append(row)
        self._select(val_accuracy)
        if self.world.first:
            keep_epoch(self.run, self.config.engine, state.epoch, self._weights())
            self.run.write_metrics(state.rows)
        self._save()
        return row

    def _average_epoch(self, phase: Phase) -> None:
        """Take the epoch's weights into the average where the phase has one of epochs, with BatchNorm statistics of its own."""
        state, swa = self.state, phase.settings.swa
        if swa is None or (state.epoch + 1 - phase.start) % swa.every:
            return
        assert state.average is not None
        state.average.update_parameters(state.model)
        with autocast(self.device, self.precision):
            refresh_statistics(state.average.module, self._plain_batches())

    def _plain_batches(self) -> Iterator[Tensor]:
        """The epoch's training images as evaluation would see them, in the slices the net trains on; of each our share.

        Not augmented: the statistics shall be those of images as they are predicted, of their size and without random numbers.
        """
        problem, ours = self.problem, self.world.share(self.batch)
        order = epoch_order(len(problem.images), self.config.seed, self.state.epoch).to(self.device)
        for batch in torch.split(order[: self.steps * self.batch], self.batch):
            for rows in torch.split(batch[ours], self.micro_batch):
                pixels = self.preprocess(problem.images[rows])
                yield pixels.contiguous(memory_format=memory_format(self.config.engine))

    def _evaluate(self) -> tuple[float, float]:
        """Loss and accuracy on val, without views, of the net that counts."""
        problem, size, count = self.problem, self.config.engine.eval_batch_size, len(self.problem.val)
        net = self.state.evaluated
        self.world.broadcast(*net.buffers())  # each rank has BatchNorm statistics of its own; rank 0's count
        images = problem.val_images[self.world.share(count)]
        part = compute_logits(net, images, self.preprocess, "none", self.precision, size)
        logits = self.world.gather(part, count)
        labels = torch.from_numpy(problem.val.labels).to(self.device)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()

    def _select(self, val_accuracy: float) -> None:
        """Write `best.pt` when the selection rule takes this epoch. It is on the disk before `last.pt` counts the epoch."""
        state = self.state
        better = val_accuracy > state.best_accuracy
        state.stale = 0 if better else state.stale + 1
        if better:
            state.best_accuracy, state.best_epoch = val_accuracy, state.epoch
        if (not better and self.config.selection == "best") or not self.world.first:
            return
        save_checkpoint(self.run.best, self._weights())

    def _weights(self) -> dict[str, Any]:
        """The weights that count after the epoch just completed, with all that prediction needs."""
        state, problem = self.state, self.problem
        return {
            "weights": state.evaluated.state_dict(),
            "averaged": state.averaged,
            "config": config_dict(self.config),
            "classes": list(self.classes),
            "mean": list(problem.mean),
            "std": list(problem.std),
            "parameters": self.parameters,
            "epoch": state.epoch,
            "val_accuracy": state.rows[-1]["val_accuracy"],
            "selection": self.config.selection,
            "data": problem.facts,
            "ancestors": self.ancestors,
            "teachers": self.teachers,
            "lineage": lineage_of(self.ancestors, self.teachers),
        }

    def _save(self) -> None:
        self._gather_totals()
        if not self.world.first:
            return
        self.state.seconds = time.monotonic() - self.clock
        content = {
            **self.state.saved(),
            "config_sha256": config_hash(self.config),
            "data": self.problem.facts,
            "precision": self.precision,
            "ancestors": self.ancestors,
            "teachers": self.teachers,
        }
        save_checkpoint(self.run.last, content, previous=self.run.previous)

    def _gather_totals(self) -> None:
        """Let rank 0 hold the sums of all ranks, the others nothing."""
        if self.world.size > 1:
            self.world.sum(self.state.totals)
            self.state.totals *= self.world.first

    def finish(self) -> dict[str, Any]:
        """Predict val with the selected weights, draw the pictures, write the summary; rank 0 alone."""
        if not self.world.first:
            return {}
        keep_final(self.run, self.config.engine, self._weights())
        summary = summarize(self.run, self.config, self.phases, self.problem, self.state.rows, self.precision)
        summary |= {"seconds": round(time.monotonic() - self.clock, 1), "teachers": self.teachers}
        write_json(self.run.summary_file, summary)
        self.say(closing_line(summary, self.run))
        return summary

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if not self.quiet:
            tqdm.write(text)

    def enter(self, phase: Phase) -> None:
        """Let a phase's parameters train, by its optimiser, with its dropout."""
        set_frozen(self.state.model, phase.settings.freeze)
        set_dropout(self.state.model, phase.settings.dropout)
        if self.config.ema_decay is None:
            self._start_or_end_average(phase)
        self.state.optimizer = update_optimizer(self.state.optimizer, self.state.model, phase.settings.optim)
        self.forward = self._wrapped()
        if phase.settings.lookahead is None:
            self.state.slow = {}
        elif not self.state.slow:
            self.state.slow = {name: value.detach().clone() for name, value in self.state.model.named_parameters()}

    def _start_or_end_average(self, phase: Phase) -> None:
        """Have an average of epochs' weights in a phase that has one, and none in another."""
        if phase.settings.swa is None:
            self.state.average = None
        elif self.state.average is None:
            self.state.model.zero_grad()  # or the copy would have the gradients too
            self.state.average = AveragedModel(self.state.model)
        if self.state.average is not None:
            set_frozen(self.state.average.module, phase.settings.freeze)  # a frozen BatchNorm's statistics are not taken anew

    def _say_what_trains(self, phase: Phase) -> None:
        """A line for each phase of a run that freezes anything; the budget counts the whole net all the same."""
        if not any(one.settings.freeze for one in self.phases):
            return
        trained = sum(p.numel() for p in self.state.model.parameters() if p.requires_grad)
        frozen = f"; frozen: {', '.join(phase.settings.freeze)}" if phase.settings.freeze else ""
        self.say(f"phase {phase.index + 1}: {trained:,} of {self.parameters:,} parameters train{frozen}")

    def _wrapped(self) -> nn.Module:
        """The net as the loop calls it: compiled and, among ranks, with averaged gradients of what trains now."""
        model = self.state.model
        self.ranks: DistributedDataParallel | None = None
        if self.world.size > 1:
            model = self.ranks = average_gradients(model, self.device)
        if not self.config.engine.compile:
            return model
        mode = None if self.config.engine.compile is True else self.config.engine.compile
        # A phase may have another resolution, dropout or frozen layers: each is compiled for its own shapes, and what was
        # compiled before does not count against torch's limit of recompilations, beyond which it would run eagerly.
        torch.compiler.reset()
        return torch.compile(model, mode=mode, dynamic=False)  # type: ignore[return-value]

    def _phase(self, epoch: int) -> Phase:
        return next(phase for phase in self.phases if phase.start <= epoch < phase.end)


def _check_phases(config: Config, phases: Sequence[Phase], model: nn.Module, num_classes: int) -> None:
    """Raise ConfigError now for a phase that could not train when its turn comes."""
    seen: set[int] = set()
    for phase in phases:
        set_frozen(model, phase.settings.freeze)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"phases.{phase.index}.freeze freezes every parameter; leave some to train")
        side = phase.settings.resolution
        if side in seen:
            continue
        seen.add(side)
        try:
            footprint(config.model, num_classes, side)
        except RuntimeError as error:
            raise ConfigError(
                f"phases.{phase.index}.resolution {side} is too small for this net ({error}); use more pixels"
            ) from None
    set_frozen(model, ())
