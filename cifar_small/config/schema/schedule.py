"""Schedules of the learning rate; `optim/schedulers.py` has the rate of each."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cifar_small.config.schema.base import Ints, Point, Section


class ScheduleSection(Section):
    """What schedules have in common."""

    def problems(self, epochs: float, base_lr: float) -> list[str]:
        """What cannot work or would have no effect in a schedule over so many epochs, each beginning with the key."""
        warmup, min_lr = getattr(self, "warmup_epochs", 0.0), getattr(self, "min_lr", 0.0)
        problems = []
        if warmup >= epochs:
            problems.append(f"warmup_epochs is {warmup:g} but the schedule spans {_epochs(epochs)}; shorten it")
        if min_lr > base_lr:
            problems.append(f"min_lr {min_lr:g} is above optim.lr {base_lr:g}")
        return problems


def _epochs(count: float) -> str:
    return f"{count:g} {'epoch' if count == 1 else 'epochs'}"


class Constant(ScheduleSection):
    """The base learning rate throughout."""

    name: Literal["constant"]
    """The base learning rate throughout."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up from 0, such as 2 or 0.5."""


class Cosine(ScheduleSection):
    """From the base learning rate to `min_lr` along half a cosine."""

    name: Literal["cosine"] = "cosine"
    """Half a cosine down to min_lr."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up from 0, such as 2 or 0.5."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the schedule, at most optim.lr."""


class MultiStep(ScheduleSection):
    """Multiply by `gamma` at each milestone, in epochs from the schedule's start."""

    name: Literal["multistep"]
    """Multiplied by gamma at each milestone."""
    milestones: Annotated[Ints, Field(min_length=1)]
    """Epochs, from the schedule's start, at which the rate drops, after the warm-up."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor by which each milestone multiplies the learning rate."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up from 0, such as 2 or 0.5."""

    def problems(self, epochs: float, base_lr: float) -> list[str]:
        """Also milestones out of order, too late, or before the base rate was used."""
        problems, milestones = super().problems(epochs, base_lr), list(self.milestones)
        if milestones != sorted(set(milestones)) or milestones[-1] >= epochs:
            problems.append(
                f"milestones {milestones} must increase and lie before the schedule's end, epoch {epochs:g}, to have an effect"
            )
        elif milestones[0] <= self.warmup_epochs:
            problems.append(
                f"milestones {milestones} count from the schedule's start: {milestones[0]} lies within warmup_epochs "
                f"{self.warmup_epochs:g}, so the rate would drop as soon as it is reached; begin later"
            )
        return problems


class CosineRestarts(ScheduleSection):
    """Half a cosine down to `min_lr`, again and again from the base learning rate (SGDR, Loshchilov & Hutter 2017)."""

    name: Literal["cosine_restarts"]
    """Half a cosine down to min_lr, again and again (SGDR)."""
    period: Annotated[float, Field(gt=0)]
    """Epochs of the first descent, after the warm-up."""
    multiplier: Annotated[int, Field(ge=1, le=100)] = 1
    """Each descent is this many times as long as the one before."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up from 0, such as 2 or 0.5."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of each descent, at most optim.lr."""

    def problems(self, epochs: float, base_lr: float) -> list[str]:
        """Also a first descent that lasts to the end."""
        problems = super().problems(epochs, base_lr)
        if self.warmup_epochs + self.period >= epochs:
            problems.append(
                f"period {self.period:g} after {self.warmup_epochs:g} epochs of warm-up never restarts within {epochs:g} "
                "epochs; shorten it, or use the cosine schedule"
            )
        return problems


class OneCycle(ScheduleSection):
    """Up to the base learning rate and down to almost nothing, each along half a cosine (Smith & Topin 2018)."""

    name: Literal["one_cycle"]
    """Up to the base learning rate and down to almost nothing."""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the steps in which the learning rate rises."""
    start_divisor: Annotated[float, Field(gt=1)] = 25.0
    """The learning rate starts at optim.lr divided by this."""
    end_divisor: Annotated[float, Field(ge=1)] = 1e4
    """The learning rate ends at its starting value divided by this."""


class PiecewiseLinear(ScheduleSection):
    """The base learning rate times a factor that is linear between points: [[0, 1], [1, 0]] falls linearly to 0."""

    name: Literal["piecewise"]
    """The base learning rate times a factor that is linear between points."""
    points: Annotated[tuple[Point, ...], Field(strict=False, min_length=2)]
    """Pairs of [share of the schedule, factor], such as [[0, 1], [1, 0]]."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warm-up from 0, such as 2 or 0.5."""

    @model_validator(mode="after")
    def _points_span(self) -> PiecewiseLinear:
        places = [place for place, _ in self.points]
        if places[0] != 0 or places[-1] != 1 or any(after <= before for before, after in pairwise(places)):
            raise ValueError(f"points lie at {places}; their shares must increase from 0 to 1")
        if not any(factor for _, factor in self.points[:-1]):
            raise ValueError("every factor before the last point is 0, so nothing would be learned")
        return self


AnySchedule = Constant | Cosine | MultiStep | CosineRestarts | OneCycle | PiecewiseLinear
Schedule = Annotated[AnySchedule, Field(discriminator="name")]
