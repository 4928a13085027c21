"""The training loop: one function a reader can see, for every recipe.

No random state lives between steps: the order of an epoch, its augmentation and each step's mixing and dropout are drawn
from generators seeded by (seed, stream, epoch, step). So a run killed anywhere continues to the same bits, and resuming
needs nothing but weights, optimiser state, averages and counters.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from cifar_small.augment import cover, crop_and_flip, draw, pad_images
from cifar_small.budget import check_budget, check_tensors, num_classes_of
from cifar_small.checkpoints import load_newest, save_checkpoint
from cifar_small.config import Config, Phase, config_dict, config_hash, recipe_hash, resolve_phases
from cifar_small.data import Images
from cifar_small.environment import autocast, describe, resolve_device, resolve_precision, set_threads
from cifar_small.errors import CheckpointError, DataError, DivergedError, Terminated
from cifar_small.files import write_json
from cifar_small.metrics import confusion_matrix, wilson_interval
from cifar_small.mixing import apply_mix, draw_mix
from cifar_small.models import build_model, set_dropout
from cifar_small.optim import build_optimizer, clip_and_check, set_learning_rate, update_optimizer
from cifar_small.plots import draw_confusion, draw_curves
from cifar_small.predict import compute_logits, load_net, load_splits, normalise, predict_images, to_tensor
from cifar_small.runs import Run, begin, locked, require_space, write_env
from cifar_small.schedules import learning_rate

# Streams of random numbers; a new one gets a new number, so that no change of one shifts another.
ORDER, AUGMENT, MIX, DROPOUT, PARITY = range(5)
CHECK_EVERY = 50  # steps between looks at the device's not-finite flag on a GPU; on a CPU the look is free


def stream_seed(*words: int) -> int:
    """A 63-bit seed that mixes (seed, stream, epoch, step)."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def _generator(*words: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(*words))


@dataclass
class State:
    """All that changes during a run; what `last.pt` holds."""

    model: nn.Module
    optimizer: torch.optim.SGD
    average: AveragedModel | None
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed within the epoch under way
    totals: Tensor = field(default_factory=lambda: torch.zeros(2))  # loss and hits summed over the epoch's images so far
    best_accuracy: float = -1.0
    best_epoch: int = 0
    stale: int = 0  # epochs since the best one
    seconds: float = 0.0  # spent so far, in all sessions
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv

    @property
    def evaluated(self) -> nn.Module:
        """The net whose predictions count: the average where there is one."""
        return self.average.module if self.average is not None else self.model

    def saved(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],  # the hyper-parameters come from the config
            "average": self.average.state_dict() if self.average is not None else None,
            "totals": self.totals,
            **{key: getattr(self, key) for key in ("epoch", "step", "best_accuracy", "best_epoch", "stale", "seconds", "rows")},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """The inverse of `saved`."""
        self.model.load_state_dict(saved["model"])
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**optimizer, "state": saved["optimizer"]})
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.totals.copy_(saved["totals"])
        for key in ("epoch", "step", "best_accuracy", "best_epoch", "stale", "seconds", "rows"):
            setattr(self, key, saved[key])


@dataclass(frozen=True)
class Problem:
    """The data of a run on its device, and how it is computed."""

    images: Tensor  # uint8 (N, 3, 32, 32), channels-last
    labels: Tensor  # int64 (N,)
    val: Images
    val_images: Tensor  # the same pixels as `val`, on the device
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    facts: dict[str, Any]  # hashes of data and split
    device: torch.device
    precision: str

    @property
    def fill(self) -> Tensor:
        """The mean colour as uint8 (3,)."""
        return (255 * torch.tensor(self.mean, device=self.device)).round().byte()


def train(config: Config, folder: str | Path, *, resume: bool = False, command: str = "", quiet: bool = False) -> dict[str, Any]:
    """Train a config into a run directory and return its summary.

    Raises ConfigError (over budget, or resumed with other settings), CheckpointError (directory in use or damaged),
    DivergedError (loss not finite) and Terminated (saved after SIGINT or SIGTERM; resume to go on).
    """
    started = time.monotonic()
    phases = resolve_phases(config)
    if (known := num_classes_of(config)) is not None:
        check_budget(config, known)  # before any data is read
    run = Run(folder)
    with locked(run), _signals() as stop:
        going_on = begin(run, config, resume)
        summary = run.summary()
        if going_on and summary and summary["epochs_planned"] == phases[-1].end:
            _say(quiet, f"{run.folder} is already complete: {summary['epochs']} epochs, val {summary['val_accuracy']:.2%}")
            return summary
        problem, state = _prepare(config, run, quiet)
        if going_on:
            _restore(run, state, config, problem, phases, quiet)
        write_env(run, describe(problem.device, problem.precision), command)
        clock = started - state.seconds
        _loop(config, run, phases, problem, state, clock, stop, quiet)
        state.seconds = time.monotonic() - clock
        return _finish(config, run, phases, problem, state, clock, quiet)


def _prepare(config: Config, run: Run, quiet: bool) -> tuple[Problem, State]:
    set_threads(config.engine)
    device = resolve_device(config.engine.device)
    precision = resolve_precision(config.engine.precision, device)
    images, val, facts = load_splits(config.data)
    assert images.labels is not None and val.labels is not None
    if config.batch_size > len(images):
        raise DataError(f"batch_size {config.batch_size} is above the {len(images):,} training images, so no step would be made; lower it")
    parameters = check_budget(config, len(images.classes))
    mean, std = _statistics(images)
    problem = Problem(
        to_tensor(images, device), torch.from_numpy(images.labels).to(device), val, to_tensor(val, device),
        images.classes, mean, std, facts, device, precision,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(images.classes))
    check_tensors(model)
    memory_format = torch.channels_last if config.engine.layout == "channels_last" else torch.contiguous_format
    model = model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    average = None
    if config.ema_decay is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
    state = State(model, build_optimizer(model, config.optim), average, totals=torch.zeros(2, device=device))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    require_space(run, 12 * size)  # last and previous with optimiser and average, best, and one being written
    budget = config.rules.max_params
    _say(quiet, f"{config.name}: {parameters:,} trainable parameters, {budget - parameters:,} below the budget of {budget:,}")
    _say(quiet, f"{len(images):,} training and {len(val):,} validation images of {config.data.source}; {device}, {precision}")
    return problem, state


def _statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of the training pixels in 0..1, from exact histograms."""
    counts = np.stack([np.bincount(images.images[..., channel].ravel(), minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    if (variance <= 0).any():
        raise DataError(f"{images.source}: a colour channel is constant (means {mean.round(3).tolist()}); expected photographs")
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def _restore(run: Run, state: State, config: Config, problem: Problem, phases: tuple[Phase, ...], quiet: bool) -> None:
    saved, warning = load_newest(run.last, run.previous)
    if warning:
        _say(False, f"warning: {warning}")
    if saved["data"] != problem.facts:
        raise CheckpointError(f"{run.folder} was trained on other data: {saved['data']} then, {problem.facts} now; use that data")
    if saved["epoch"] < phases[-1].end:
        state.optimizer = update_optimizer(state.optimizer, state.model, _phase_of(phases, saved["epoch"]).settings.optim)
    state.restore(saved)
    _say(quiet, f"resuming {run.folder} at epoch {state.epoch + 1}, step {state.step}")


def _phase_of(phases: tuple[Phase, ...], epoch: int) -> Phase:
    return next(phase for phase in phases if phase.start <= epoch < phase.end)


def _loop(
    config: Config, run: Run, phases: tuple[Phase, ...], problem: Problem, state: State, clock: float, stop: list[int], quiet: bool
) -> None:
    """Epochs until the last phase ends or patience does: train, evaluate, select, save, report."""
    parity = torch.rand(len(problem.images), generator=_generator(config.seed, PARITY)) < 0.5
    forward = torch.compile(state.model) if config.engine.compile else state.model
    padded, padded_for = problem.images, None
    images_left = (phases[-1].end - state.epoch) * (len(problem.images) // config.batch_size) * config.batch_size
    with tqdm(total=images_left, unit="img", disable=True if quiet else None, dynamic_ncols=True, smoothing=0.1) as bar:
        while state.epoch < phases[-1].end and not (config.patience and state.stale >= config.patience):
            phase = _phase_of(phases, state.epoch)
            settings = phase.settings
            if state.epoch == phase.start and state.step == 0 and phase.index > 0:
                state.optimizer = update_optimizer(state.optimizer, state.model, settings.optim)
            set_dropout(state.model, settings.dropout)
            if padded_for != (settings.augment.crop, settings.augment.pad):
                padded = pad_images(problem.images, settings.augment, problem.fill)
                padded_for = (settings.augment.crop, settings.augment.pad)
            bar.set_description(f"epoch {state.epoch + 1}/{phases[-1].end}")
            epoch_started, first_step = time.monotonic(), state.step
            lr = _train_epoch(config, run, phase, problem, padded, parity, state, forward, clock, stop, bar)
            steps = len(problem.images) // config.batch_size
            loss, hits = (state.totals / (steps * config.batch_size)).tolist()  # synchronises once an epoch
            speed = (steps - first_step) * config.batch_size / (time.monotonic() - epoch_started)
            val_loss, val_accuracy = _evaluate(config, problem, state)
            state.epoch, state.step = state.epoch + 1, 0
            state.totals.zero_()
            state.seconds = time.monotonic() - clock
            mixed = bool(settings.mixup_alpha or settings.cutmix_alpha)
            state.rows.append({
                "epoch": state.epoch, "phase": phase.index, "steps": state.epoch * steps, "lr": lr, "train_loss": loss,
                "train_accuracy": hits, "train_targets": "mixed" if mixed else "hard", "val_loss": val_loss,
                "val_accuracy": val_accuracy, "images_per_second": round(speed, 1), "seconds": round(state.seconds, 1),
            })  # fmt: skip
            _select(config, run, problem, state, val_accuracy)
            run.write_metrics(state.rows)
            _save(run, config, problem, state)
            bar.set_postfix_str(f"val {val_accuracy:.2%}, best {state.best_accuracy:.2%}")
            if bar.disable:
                left = (phases[-1].end - state.epoch) * (time.monotonic() - epoch_started)
                _say(quiet, _line(state.rows[-1], phases[-1].end, state.best_accuracy, left))
            _leave_if_asked(run, stop)


def _train_epoch(
    config: Config, run: Run, phase: Phase, problem: Problem, padded: Tensor, parity: Tensor, state: State,
    forward: Any, clock: float, stop: list[int], bar: Any,
) -> float:  # fmt: skip
    """The steps of one epoch from `state.step` on; returns the last learning rate. No host synchronisation on a GPU."""
    settings, engine, batch = phase.settings, config.engine, config.batch_size
    count = len(problem.images)
    steps = count // batch  # the remainder, other images every epoch, is left out: every batch has the same shape
    order = torch.randperm(count, generator=_generator(config.seed, ORDER, state.epoch))
    draws = draw(settings.augment, order, _generator(config.seed, AUGMENT, state.epoch), parity, state.epoch).to(problem.device)
    order = order.to(problem.device)
    bad_seen = torch.zeros((), device=problem.device)
    span = (phase.schedule_end - phase.schedule_start) * steps
    lr = 0.0
    state.model.train()
    for step in range(state.step, steps):
        lr = learning_rate(settings.schedule, settings.optim.lr, (state.epoch - phase.schedule_start) * steps + step, span, steps)
        set_learning_rate(state.optimizer, lr)
        torch.manual_seed(stream_seed(config.seed, DROPOUT, state.epoch, step))
        rows = slice(step * batch, (step + 1) * batch)
        chosen = order[rows]
        pixels = normalise(crop_and_flip(padded, chosen, draws[rows]), problem.mean, problem.std)
        pixels = cover(pixels, settings.augment, draws[rows])
        targets = F.one_hot(problem.labels[chosen], len(problem.classes)).float()
        mix = draw_mix(settings, batch, np.random.default_rng(stream_seed(config.seed, MIX, state.epoch, step)))
        pixels, targets = apply_mix(mix, pixels, targets)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        state.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=problem.device)
        for part, target in zip(pixels.split(engine.micro_batch_size or batch), targets.split(engine.micro_batch_size or batch), strict=True):
            with autocast(problem.device, problem.precision):
                logits = forward(part).float()
            part_loss = F.cross_entropy(logits, target, label_smoothing=settings.label_smoothing, reduction="sum")
            (part_loss / batch).backward()
            loss += part_loss.detach()
            # Accuracy against the mixed targets: the share of the label that the prediction names.
            state.totals[1] += target.gather(1, logits.detach().argmax(1, keepdim=True)).sum()
        bad = clip_and_check(state.optimizer, loss, settings.optim.clip_norm)
        state.optimizer.step()
        state.totals[0] += loss
        bad_seen += bad
        if problem.device.type == "cpu" or (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
            _stop_if_diverged(bad_seen, state.epoch, step, lr, problem.device, steps)
        if state.average is not None:
            state.average.update_parameters(state.model)
        state.step = step + 1
        bar.update(batch)
        due = engine.checkpoint_steps and state.step % engine.checkpoint_steps == 0 and state.step < steps
        if due or (stop and state.step < steps):
            state.seconds = time.monotonic() - clock
            _save(run, config, problem, state)
            _leave_if_asked(run, stop)
    return lr


def _stop_if_diverged(bad_seen: Tensor, epoch: int, step: int, lr: float, device: torch.device, steps: int) -> None:
    bad = int(bad_seen.item())  # a device synchronisation, every CHECK_EVERY steps on a GPU
    if not bad:
        return
    first = step - bad + 1  # weights stand still from the first bad step on, but its batch may be the only bad one
    place = f"step {first + 1}" if device.type == "cpu" else f"about step {first + 1}"
    raise DivergedError(
        f"loss or gradient is not finite at epoch {epoch + 1}, {place} of {steps} (lr {lr:.4g}); the weights were not updated and "
        "the last checkpoint is whole: lower optim.lr, add warm-up or optim.clip_norm"
    )


def _evaluate(config: Config, problem: Problem, state: State) -> tuple[float, float]:
    logits = compute_logits(
        state.evaluated, problem.val_images, problem.mean, problem.std,
        views="none", precision=problem.precision, batch_size=config.engine.eval_batch_size,
    )  # fmt: skip
    labels = torch.from_numpy(problem.val.labels).to(problem.device)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def _select(config: Config, run: Run, problem: Problem, state: State, val_accuracy: float) -> None:
    """Write `best.pt` when the selection rule takes this epoch. It is on the disk before `last.pt` counts the epoch."""
    better = val_accuracy > state.best_accuracy
    state.stale = 0 if better else state.stale + 1
    if better:
        state.best_accuracy, state.best_epoch = val_accuracy, state.epoch
    if not better and config.selection == "best":
        return
    save_checkpoint(
        run.best,
        {
            "weights": state.evaluated.state_dict(), "config": config_dict(config), "classes": list(problem.classes),
            "mean": list(problem.mean), "std": list(problem.std), "parameters": check_budget(config, len(problem.classes)),
            "epoch": state.epoch, "val_accuracy": val_accuracy, "selection": config.selection, "data": problem.facts, "lineage": [],
        },
    )  # fmt: skip


def _save(run: Run, config: Config, problem: Problem, state: State) -> None:
    saved = {**state.saved(), "config_sha256": config_hash(config), "data": problem.facts}
    save_checkpoint(run.last, saved, previous=run.previous)


def _finish(
    config: Config, run: Run, phases: tuple[Phase, ...], problem: Problem, state: State, clock: float, quiet: bool
) -> dict[str, Any]:
    """Predict val with the selected weights, draw the pictures, write the summary."""
    net = load_net(run)
    val = problem.val
    predictions = predict_images(net, val, config.views)
    predictions.meta.update(split="val", run=run.folder.name, command="")
    predictions.save(run.predictions / "val.npz")
    low, high = wilson_interval(int(predictions.correct.sum()), len(val))
    title = f"{config.name}, seed {config.seed}: {net.parameters:,} parameters"
    draw_curves(state.rows, [phase.end for phase in phases[:-1]], title, run.folder / "curves.png")
    assert val.labels is not None
    counts = confusion_matrix(val.labels, predictions.predicted, len(val.classes))
    draw_confusion(counts, val.classes, f"{title}\nval, {predictions.accuracy:.2%} right", run.folder / "confusion.png")
    summary = {
        "name": config.name, "seed": config.seed, "parameters": net.parameters, "max_params": config.rules.max_params,
        "epochs": state.epoch, "epochs_planned": phases[-1].end, "selection": config.selection, "selected_epoch": net.facts["epoch"],
        "val_accuracy": predictions.accuracy, "val_interval": [low, high], "val_images": len(val), "views": config.views,
        "val_accuracy_plain": net.facts["val_accuracy"], "seconds": round(time.monotonic() - clock, 1),
        "data": problem.facts, "config_sha256": config_hash(config), "recipe_sha256": recipe_hash(config),
        "weights_sha256": net.facts["weights_sha256"],
    }  # fmt: skip
    write_json(run.summary_file, summary)
    rule = "the best epoch on val" if config.selection == "best" else "the last epoch"
    _say(quiet, f"val {predictions.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, views {config.views}), epoch "
                f"{net.facts['epoch']} selected by: {rule}; {net.parameters:,} parameters; {summary['seconds']:,.0f} s; {run.folder}")  # fmt: skip
    return summary


def _line(row: dict[str, Any], epochs: int, best: float, seconds_left: float) -> str:
    left = time.strftime("%H:%M:%S", time.gmtime(seconds_left))
    targets = " (mixed targets)" if row["train_targets"] == "mixed" else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  lr {row['lr']:.4f}  train loss {row['train_loss']:.4f}  acc {row['train_accuracy']:.2%}"
        f"{targets}  val loss {row['val_loss']:.4f}  acc {row['val_accuracy']:.2%}  best {best:.2%}  "
        f"{row['images_per_second']:,.0f} img/s  {left} left"
    )


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        tqdm.write(text)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying; a second one interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        _say(False, f"{signal.Signals(number).name} received: saving after this step (again: stop now)")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_if_asked(run: Run, stop: list[int]) -> None:
    if stop:
        raise Terminated(f"stopped by {signal.Signals(stop[0]).name}; saved in {run.folder}: add --resume to continue")
