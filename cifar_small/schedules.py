"""Learning-rate schedules as pure functions of the step.

`learning_rate(schedule, base_lr, step, steps, steps_per_epoch)` is the rate used by optimiser step `step` (0-based) of a
schedule that spans `steps` steps. The rate of a step depends on nothing else, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import bisect
import math

from cifar_small.schema import Constant, Cosine, MultiStep, PiecewiseLinear


def learning_rate(
    schedule: Constant | Cosine | MultiStep | PiecewiseLinear, base_lr: float, step: int, steps: int, steps_per_epoch: int
) -> float:
    """The learning rate of one step.

    Warm-up rises linearly so that its last step uses `base_lr`: (step + 1) / warm-up steps. After it, cosine spans the
    remaining steps and would reach `min_lr` at step `steps`, as torch's CosineAnnealingLR does; milestones count epochs from
    the start of the schedule, warm-up included; piecewise points are shares of the steps after the warm-up.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return base_lr * ((step + 1) / warmup)
    if isinstance(schedule, Cosine):
        progress = (step - warmup) / (steps - warmup)
        return schedule.min_lr + (base_lr - schedule.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    if isinstance(schedule, MultiStep):
        passed = sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
        return float(base_lr * schedule.gamma**passed)
    if isinstance(schedule, PiecewiseLinear):
        return base_lr * _interpolate(schedule.points, (step - warmup) / (steps - warmup))
    return base_lr


def _interpolate(points: tuple[tuple[float, float], ...], place: float) -> float:
    right = bisect.bisect_right([share for share, _ in points[:-1]], place)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (place - x0) / (x1 - x0)
