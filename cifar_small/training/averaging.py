"""Averages of weights during training: exponential over steps (EMA), plain over epochs (SWA), and Lookahead's slow weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cifar_small.config.phases import Phase
from cifar_small.config.schema import Config, PhaseSettings
from cifar_small.environment import autocast
from cifar_small.models import refresh_statistics, set_frozen_throughout
from cifar_small.optim.optimizers import look_ahead
from cifar_small.training.state import State


class ExponentialAverage(AveragedModel):
    """Exponential moving average of weights and BatchNorm statistics: decay * average + (1 - decay) * model after each step.

    warmup: a decay of at most (1 + n) / (10 + n) after n steps, as TensorFlow has it, which lets go of the first weights soon.
    torch's own average does the same, but copies its counter to the device in every step and waits for that.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = False) -> None:
        super().__init__(model, use_buffers=True)
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the model's weights; the first ones are taken as they are, as are integers such as BatchNorm's counter."""
        pairs = list(zip(tensors_of(self.module), tensors_of(model), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()] if self.n_averaged else []
        if averaged:
            count = int(self.n_averaged)  # on the CPU, so nobody waits
            decay = min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay
            torch._foreach_lerp_([mine for mine, _ in averaged], [new for _, new in averaged], 1 - decay)
        for mine, new in pairs:
            if not (averaged and mine.is_floating_point()):
                mine.copy_(new)
        self.n_averaged += 1


def tensors_of(model: nn.Module) -> list[Tensor]:
    """All numbers of a net: parameters, then buffers."""
    return [*model.parameters(), *model.buffers()]


OF_THE_FIRST = 0.05  # a larger share of the first weights in an average at the run's end is said


def average_warnings(config: Config, phases: Sequence[Phase], total: int) -> list[str]:
    """What to know at the start of a run of `total` steps: averages that keep much of its first weights.

    Lookahead is none: each of its moves starts from the slow weights, of which nothing older remains.
    """
    decay = config.ema_decay
    if decay is not None and not config.ema_warmup and total > 1 and decay ** (total - 1) > OF_THE_FIRST:
        lower = 1 - float(f"{1 - 0.01 ** (1 / (total - 1)):.2g}")
        return [
            f"warning: with ema_decay {decay:g} over {total:,} steps, {decay ** (total - 1):.0%} of the averaged weights, the "
            f"ones that count, will be those of the first step; set ema_warmup: true, or ema_decay to {lower:g} or less, which "
            "leaves 1 %"
        ]
    from_the_start = takewhile(lambda phase: phase.settings.swa, phases)
    sets = sum(phase.settings.epochs_begun // phase.settings.swa.every for phase in from_the_start if phase.settings.swa)
    if sets and config.weights is None and 1 / sets > OF_THE_FIRST:
        return [
            f"warning: swa averages from the start of the run, so one of its {sets} sets of weights is of the first epochs, "
            "hardly trained; begin with a phase without swa"
        ]
    return []


def enter_averaging(state: State, phases: Sequence[Phase], ema_decay: float | None) -> None:
    """Have the averages that the last of the phases so far asks for, and no others; those that go on over phases are kept."""
    settings = phases[-1].settings
    if ema_decay is None:
        if settings.swa is None:
            state.average = None
        elif state.average is None:
            state.model.zero_grad()  # or the copy would have the gradients too
            state.average = AveragedModel(state.model)
        if state.average is not None:
            # Where a weight of the average has moved, statistics must be taken anew.
            averaged = takewhile(lambda phase: phase.settings.swa, reversed(phases))
            set_frozen_throughout(state.average.module, [phase.settings.freeze for phase in averaged])
    if settings.lookahead is None:
        state.slow = {}
    elif not state.slow:
        state.slow = {name: value.detach().clone() for name, value in state.model.named_parameters()}


def average_step(state: State, settings: PhaseSettings, step: int, steps: int) -> None:
    """After step `step` (from 1) of `steps` in an epoch: Lookahead's move, and the weights into the exponential average."""
    if settings.lookahead is not None:
        look_ahead(state.model, state.slow, settings.lookahead, step, steps)
    if state.average is not None and settings.swa is None:
        state.average.update_parameters(state.model)


def average_epoch(state: State, phase: Phase, images: Iterator[Tensor]) -> None:
    """Before `state.epoch` counts an epoch: its weights into the average of epochs where the phase has one.

    images: normalized (B, 3, H, H), from which the average gets BatchNorm statistics of its own.
    """
    if not phase.averages(state.epoch):
        return
    assert state.average is not None
    state.average.update_parameters(state.model)
    with autocast(state.totals.device, state.precision):
        refresh_statistics(state.average.module, images)
