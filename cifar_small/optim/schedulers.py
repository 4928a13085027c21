"""Learning-rate schedules as pure functions of the step.

`learning_rate(schedule, base_lr, step, steps, steps_per_epoch)` is the rate used by optimizer step `step` (0-based) of a
schedule that spans `steps` steps. The rate of a step depends on nothing else, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import bisect
import math
from typing import assert_never

from cifar_small.config.phases import Phase
from cifar_small.config.schema.schedule import (
    AnySchedule,
    Constant,
    Cosine,
    CosineRestarts,
    MultiStep,
    OneCycle,
    PiecewiseLinear,
)


def learning_rate(schedule: AnySchedule, base_lr: float, step: int, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Warm-up rises linearly so that its last step uses `base_lr`: (step + 1) / warm-up steps. After it, cosine spans the
    remaining steps and would reach `min_lr` at step `steps`, as torch's CosineAnnealingLR does; restarts follow torch's
    CosineAnnealingWarmRestarts; milestones count epochs from the start of the schedule, warm-up included; piecewise points are
    shares of the steps after the warm-up. one_cycle has its own rise and is torch's OneCycleLR.
    """
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, base_lr, step, steps)
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return base_lr * ((step + 1) / warmup)
    step, steps = step - warmup, steps - warmup  # from here on, of the part after the warm-up
    match schedule:
        case Constant():
            return base_lr
        case Cosine():
            return _half_cosine(base_lr, schedule.min_lr, step / steps)
        case CosineRestarts():
            length, place = schedule.period * steps_per_epoch, float(step)
            if math.isclose(length, round(length)):  # 1.1 * 390 is 429.00000000000006, whose step 429 would still be of before
                length = float(round(length))
            if schedule.multiplier == 1:
                place %= length
            while place >= length:
                place, length = place - length, length * schedule.multiplier
            return _half_cosine(base_lr, schedule.min_lr, place / length)
        case MultiStep():
            passed = sum(step + warmup >= milestone * steps_per_epoch for milestone in schedule.milestones)
            return float(base_lr * schedule.gamma**passed)
        case PiecewiseLinear():
            return base_lr * _interpolate(schedule.points, step / steps)
        case unknown:
            assert_never(unknown)


def rate_at(phase: Phase, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step `step` of an epoch (both 0-based) of a phase."""
    done = (epoch - phase.schedule_start) * steps_per_epoch + step
    span = phase.schedule_steps(steps_per_epoch)
    return learning_rate(phase.settings.schedule, phase.settings.optim.lr, done, span, steps_per_epoch)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(schedule: OneCycle, base_lr: float, step: int, steps: int) -> float:
    first, top = base_lr / schedule.start_divisor, schedule.rise * steps - 1
    if step < top:
        return _half_cosine(first, base_lr, step / top)
    return _half_cosine(base_lr, first / schedule.end_divisor, (step - top) / (steps - 1 - top))


def _interpolate(points: tuple[tuple[float, float], ...], place: float) -> float:
    right = bisect.bisect_right([share for share, _ in points[:-1]], place)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (place - x0) / (x1 - x0)
