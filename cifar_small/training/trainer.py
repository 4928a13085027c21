"""The training loop of every recipe: fit -> train_epoch -> step -> backward.

No random state lives between steps (see `randomness`), so a run killed anywhere continues to the same bits, and resuming
needs nothing but weights, optimizer state, averages and counters.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from cifar_small.config.phases import Phase, graph_of
from cifar_small.config.resolved import ResolvedConfig
from cifar_small.config.schema import PhaseSettings
from cifar_small.data.datamodule import DataModule
from cifar_small.environment import autocast, compiled, no_bar, peak_gpu_memory
from cifar_small.errors import DivergedError
from cifar_small.models import LibraryNet, set_dropout, set_frozen, set_training, statistics_kept
from cifar_small.models.convolutions import FastConvolutions
from cifar_small.optim.optimizers import (
    adjust_scale,
    clip_and_check,
    move_back,
    move_uphill,
    set_learning_rate,
    unscale,
    update_optimizer,
)
from cifar_small.optim.schedulers import rate_at
from cifar_small.randomness import DROPOUT, stream_seed
from cifar_small.training.averaging import average_epoch, average_step, enter_averaging
from cifar_small.training.batches import Batch, Batches
from cifar_small.training.checkpointing import Checkpoints
from cifar_small.training.distillation import distilled_loss
from cifar_small.training.distributed import World, average_gradients
from cifar_small.training.feature_cache import FeatureCache, fill_cache, same_backbone
from cifar_small.training.selection import out_of_patience, select, validate
from cifar_small.training.signals import leave_if_asked
from cifar_small.training.state import State
from cifar_small.training.summary import epoch_line
from cifar_small.training.teacher_cache import fill_answers
from cifar_small.training.view_cache import remove_cache

OnEpoch = Callable[[dict[str, object]], None]
CHECK_EVERY = 50  # steps between looks at the device's not-finite count on a GPU; on a CPU the look is free


@dataclass
class Trainer:
    """A run under way, as `training.build.build_trainer` puts it together."""

    resolved: ResolvedConfig
    data: DataModule
    state: State
    checkpoints: Checkpoints
    batches: Batches
    world: World
    stop: list[int] = field(default_factory=list)  # signals received
    quiet: bool = False
    cache: FeatureCache | None = field(default=None, init=False)  # of a phase that trains on features, from its first epoch on
    graph: tuple[object, ...] = field(default=(), init=False)  # what `forward` was compiled for

    def __post_init__(self) -> None:
        self.config, self.device = self.resolved.config, self.data.device
        eager_on_cpu = self.device.type == "cpu" and not self.config.engine.compile  # a compiled net keeps torch's gradients
        self.convolutions = FastConvolutions() if eager_on_cpu else nullcontext()
        self.batch, self.steps, self.micro_batch = self.config.batch_size, self.batches.steps, self.batches.micro_batch
        self.enter_phase(self.resolved.phases[0])

    @property
    def ended(self) -> bool:
        """Is no epoch left to train?"""
        return self.state.epoch >= self.resolved.epochs or out_of_patience(self.state, self.resolved)

    def fit(self, on_epoch: OnEpoch | None = None) -> None:
        """Epochs until the last phase ends or patience does: train, evaluate, select, save, report."""
        state, resolved, epochs = self.state, self.resolved, self.resolved.epochs
        with closing(self.batches.augmenter), self._progress_bar() as bar:
            while not self.ended:
                phase = resolved.phase_at(state.epoch)
                if state.epoch == phase.start and state.step == 0:
                    self._start_phase(phase)
                bar.set_description(f"epoch {state.epoch + 1}/{epochs}")
                self.fill_caches(phase)  # which is no part of the epoch's speed
                began, first_step = time.monotonic(), state.step
                lr = self.train_epoch(phase, bar)
                speed = (state.step - first_step) * self.batch / (time.monotonic() - began)
                row = self._end_epoch(phase, lr, speed)
                bar.set_postfix_str(f"val {row['val_accuracy']:.2%}, best {state.best_accuracy:.2%}")
                self.say(epoch_line(row, resolved.phases, state.best_accuracy, time.monotonic() - began))
                if on_epoch is not None:
                    on_epoch(row)
                self._leave_if_asked()

    def train_epoch(self, phase: Phase, bar: Any) -> float:
        """The steps of one epoch from `state.step` on; returns the last learning rate.

        On a GPU nothing here waits for the device between looks at `first_bad`.
        """
        state, steps = self.state, phase.steps_in(self.state.epoch, self.steps)
        set_training(state.model)
        first_bad = torch.tensor(-1, device=self.device)  # the first step whose loss or gradient is not finite
        for batch in self._batches(phase):
            set_learning_rate(state.optimizer, rate_at(phase, state.epoch, batch.step, self.steps))
            bad = self.step(phase, batch, first_bad >= 0)
            first_bad = torch.where((first_bad < 0) & bad, batch.step, first_bad)
            state.step = batch.step + 1
            look = self.device.type == "cpu" or state.step % CHECK_EVERY == 0  # on a GPU, a rank's word is a synchronization
            stop = self._asked_to_stop() if self.world.size == 1 or look else False
            every = self.config.engine.checkpoint_steps
            save = (stop or (every and state.step % every == 0)) and state.step < steps
            if look or save or state.step == steps:
                self._stop_if_diverged(first_bad, phase)
            bar.update(self.batch)
            if save:
                self._save()
                if stop:
                    self._leave_if_asked()  # rank 0 has written when all have answered; torchrun stops all when one leaves
        return rate_at(phase, state.epoch, steps - 1, self.steps)

    def _batches(self, phase: Phase) -> Iterator[Batch]:
        """The batches of the epoch that are left, of pixels or, where a phase caches them, of the backbone's features."""
        if self.cache is None:
            return self.batches.epoch(phase, self.state.epoch, self.state.step)
        return self.batches.cached_epoch(phase, self.state.epoch, self.state.step, self.cache.of)

    def fill_caches(self, phase: Phase) -> None:
        """Compute, unless they are there, the features or the teachers' answers that a phase caches."""
        teachers = self.batches.teacher_targets.get(phase.index)
        if teachers is not None and teachers.to_be_filled:
            teachers.stored = self._answers_of(phase)
        if phase.settings.cached_views is not None and self.cache is None:
            self.cache = self._features_of(phase)
            set_training(self.state.model)
            self.graph = ()  # so that the next phase has the whole net again
            self.forward = cast(LibraryNet, self.state.model).classify

    def _features_of(self, phase: Phase) -> FeatureCache:
        state, leave = self.state, self._leave_if_asked  # between steps all is saved, but for the view under way
        return fill_cache(self.checkpoints.run, state.model, self.batches, phase, state.precision, leave)

    def _answers_of(self, phase: Phase) -> list[Tensor]:
        return fill_answers(self.checkpoints.run, self.batches, phase, self.state.precision, self._leave_if_asked)

    def step(self, phase: Phase, batch: Batch, stopped: Tensor) -> Tensor:
        """One optimizer step, without effect once `stopped`; was its loss or gradient not finite?"""
        state, settings, world = self.state, phase.settings, self.world
        ranks = (world.rank,) if world.size > 1 else ()
        seed = stream_seed(self.config.seed, DROPOUT, state.epoch, batch.step, *ranks)
        pixels, targets = self.batches.inputs(phase, state.epoch, batch, state.precision)
        state.optimizer.zero_grad(set_to_none=True)
        total = self.backward(pixels, targets, settings, seed)
        if settings.sam is not None:
            former = move_uphill(state.optimizer, settings.sam)
            state.optimizer.zero_grad(set_to_none=True)
            with statistics_kept(state.model):
                self.backward(pixels, targets, settings, seed, count=False)
            move_back(former)
        world.sum(total)  # so that all ranks agree on whether it is finite
        bad = clip_and_check(state.optimizer, total, settings.optim.clip_norm, stopped, state.norms)
        state.optimizer.step()
        if state.precision == "fp16":
            bad = adjust_scale(state.scaling, total, bad)
        state.totals[0] += total * world.first  # it is everybody's already; hits are each rank's own
        average_step(state, settings, batch.step + 1, phase.steps_in(state.epoch, self.steps))
        return bad

    def backward(self, pixels: Tensor, targets: Tensor, settings: PhaseSettings, seed: int, count: bool = True) -> Tensor:
        """Gradients of the mean loss of our images, micro-batch by micro-batch; returns the summed loss, counts the hits.

        seed: of dropout and stochastic depth; SAM's two passes share it, or their gradients would be of different nets.
        """
        torch.manual_seed(seed)
        state = self.state
        total = torch.zeros((), device=self.device)
        scale = state.scaling[0] if state.precision == "fp16" else None
        slices = list(zip(torch.split(pixels, self.micro_batch), torch.split(targets, self.micro_batch), strict=True))
        for index, (images, target) in enumerate(slices):
            last = index + 1 == len(slices)  # whose backward pass exchanges the gradients of all
            with nullcontext() if last or self.ranks is None else self.ranks.no_sync():
                with autocast(self.device, state.precision), self.convolutions:
                    logits = self.forward(images).float()
                if settings.distill is None:
                    loss = F.cross_entropy(logits, target, label_smoothing=settings.label_smoothing, reduction="sum")
                else:
                    loss = distilled_loss(logits, target, settings.distill, settings.label_smoothing)
                mean = loss / len(pixels)  # ranks' gradients are averaged
                torch.autograd.backward(mean if scale is None else mean * scale)
            total += loss.detach()
            if count:  # against mixed targets: the share of the label that the prediction names
                state.totals[1] += target.gather(1, logits.detach().argmax(1, keepdim=True)).sum()
        if scale is not None:
            unscale(state.model, scale)
        return total

    def enter_phase(self, phase: Phase) -> None:
        """Let a phase's parameters train, by its optimizer, with its dropout, on all ranks."""
        state, settings = self.state, phase.settings
        self.cache = None
        set_frozen(state.model, settings.freeze)
        set_dropout(state.model, settings.dropout)
        enter_averaging(state, self.resolved.phases[: phase.index + 1], self.config.ema_decay)
        state.optimizer = update_optimizer(state.optimizer, state.model, settings.optim)
        self.world.broadcast(*state.model.buffers())  # statistics that freeze now must be alike; older DDPs do not see to it
        self.ranks = average_gradients(state.model, self.device) if self.world.size > 1 else None
        graph = (self.ranks, *graph_of(settings))
        if graph != self.graph:
            self.graph, self.forward = graph, compiled(state.model if self.ranks is None else self.ranks, self.config.engine)

    def _start_phase(self, phase: Phase) -> None:
        """Enter a phase at its start, with a line about it in a run that freezes anything."""
        if phase.index > 0:
            self.enter_phase(phase)
        if any(each.settings.freeze for each in self.resolved.phases):
            trained = sum(p.numel() for p in self.state.model.parameters() if p.requires_grad)
            frozen = f"; frozen: {', '.join(phase.settings.freeze)}" if phase.settings.freeze else ""
            # The budget counts the whole net all the same.
            self.say(f"phase {phase.index + 1}: {trained:,} of {self.checkpoints.parameters:,} parameters train{frozen}")

    def _end_epoch(self, phase: Phase, lr: float, speed: float) -> dict[str, object]:
        """Evaluate, select and save; returns the epoch's row of `metrics.csv`."""
        state = self.state
        self.world.collect(state.totals)
        steps = phase.steps_in(state.epoch, self.steps)
        loss, hits = (state.totals / (steps * self.batches.trained(phase))).tolist()  # synchronizes once an epoch
        norm, counted = state.norms.tolist()
        average_epoch(state, phase, self.batches.plain(state.epoch))
        val_loss, val_accuracy = self._evaluate()
        if not math.isfinite(val_loss):
            raise self._diverged(f"the loss on val is not finite after epoch {state.epoch + 1}", lr, updated=True)
        state.epoch, state.step = state.epoch + 1, 0
        state.totals.zero_()
        state.norms.zero_()
        row = {
            "epoch": state.epoch,
            "phase": phase.index,
            "steps": (state.epoch - 1) * self.steps + steps,
            "lr": lr,
            "train_loss": loss,
            "train_accuracy": hits,
            "train_targets": "mixed" if phase.settings.mixes else "hard",
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "gradient_norm": norm / max(counted, 1),
            "images_per_second": round(speed, 1),
            "gpu_gib": round(peak_gpu_memory(self.device), 3),
            "seconds": round(state.seconds, 1),
        }
        state.rows.append(row)
        self.checkpoints.end_epoch(state, selected=select(state, val_accuracy, self.config.selection))
        self._save()
        if state.epoch == phase.end and phase.settings.caches:
            remove_cache(self.checkpoints.run)
            if phase.index in self.batches.teacher_targets:
                self.batches.teacher_targets[phase.index].stored = []
        return row

    def _evaluate(self) -> tuple[float, float]:
        """Loss and accuracy on val, without views, of the net that counts."""
        if self.cache is not None and same_backbone(self.state.evaluated, self.state.model):
            labels = torch.from_numpy(self.data.val.labels).to(self.device)
            return self.cache.validate(self.state.evaluated, labels, self.config.engine.eval_batch_size)
        size = self.config.engine.eval_batch_size
        return validate(self.state.evaluated, self.data, self.batches.preprocess, self.state.precision, size, self.world)

    def _save(self) -> None:
        self.world.collect(self.state.totals)
        self.checkpoints.save(self.state)

    def restore(self) -> None:
        """Continue from the newest whole checkpoint. Raises CheckpointError when there is none or the data has changed."""
        saved = self.checkpoints.load()
        # Between phases the state is that of the phase before; `fit` makes the change, as in a run that was not interrupted.
        self.enter_phase(self.resolved.phase_at(saved["epoch"] - (saved["step"] == 0)))
        default = self.state.precision
        self.state.restore(saved)
        self.state.totals *= self.world.first  # as `World.collect` leaves them
        if self.state.precision != default and self.world.first:
            tqdm.write(
                f"warning: this run was started in {self.state.precision}; continuing in {self.state.precision} (this "
                f"machine's default is {default})"
            )
        self.say(f"resuming {self.checkpoints.run.folder} at epoch {self.state.epoch + 1}, step {self.state.step}")

    def tell_extension(self, before: ResolvedConfig) -> None:
        """Say what the learning rate will do in a run that was planned shorter: its schedule now spans more epochs."""
        state, now = self.state, self.resolved
        if before.epochs >= now.epochs or state.epoch >= now.epochs:
            return
        epoch, step = divmod(state.epoch * self.steps + state.step - 1, self.steps)  # the last one done
        was = rate_at(before.phase_at(epoch), epoch, step, self.steps)
        rate = rate_at(now.phase_at(state.epoch), state.epoch, state.step, self.steps)
        last = now.phases[-1].steps_in(now.epochs - 1, self.steps) - 1
        end = rate_at(now.phases[-1], now.epochs - 1, last, self.steps)
        self.say(
            f"extended from {before.epochs} to {now.epochs} epochs: the schedule now spans all of them, so the learning rate "
            f"goes on from {rate:.3g}, after {was:.3g}, and ends at {end:.3g}"
        )

    def _stop_if_diverged(self, first_bad: Tensor, phase: Phase) -> None:
        step = int(first_bad.item())  # a device synchronization, every CHECK_EVERY steps on a GPU
        if step >= 0:
            epoch = self.state.epoch
            raise self._diverged(
                f"loss or gradient is not finite at epoch {epoch + 1}, step {step + 1} of {phase.steps_in(epoch, self.steps)}",
                rate_at(phase, epoch, step, self.steps),
            )

    def _diverged(self, what: str, lr: float, *, updated: bool = False) -> DivergedError:
        there = self.checkpoints.run.last.exists()
        kept = "the last checkpoint is whole" if there else "no epoch was completed, so nothing was kept"
        weights = "" if updated else "the weights were not updated, "
        norm = self.state.rows[-1].get("gradient_norm") if self.state.rows else None  # rows of older versions have none
        usual = "" if norm is None else f" (the gradient's norm was {norm:.3g}, the mean of the last whole epoch)"
        return DivergedError(
            f"{what} (lr {lr:.4g}); expected finite numbers: {weights}{kept}; lower optim.lr, add warm-up "
            f"or set optim.clip_norm{usual}, in a new run directory",
            remedy="output",
        )

    def _asked_to_stop(self) -> bool:
        """Has a signal come, to any rank? Then every rank knows of it."""
        asked = self.world.any(bool(self.stop), self.device)
        if asked and not self.stop:
            self.stop.append(signal.SIGTERM)
        return asked

    def _leave_if_asked(self) -> None:
        if self._asked_to_stop():
            leave_if_asked(self.stop, self.checkpoints.run.folder)

    def _progress_bar(self) -> Any:
        done = self.state.epoch * self.steps + self.state.step
        return tqdm(
            total=self.resolved.steps(self.steps) * self.batch,
            initial=done * self.batch,
            unit="img",
            disable=no_bar(not self.quiet),
            dynamic_ncols=True,
        )

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if not self.quiet:
            tqdm.write(text)
