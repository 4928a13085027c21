"""Learning-rate schedules: literal lists, and step by step against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LinearLR, MultiStepLR, OneCycleLR

from cifar_small.config.schema.schedule import Constant, Cosine, CosineRestarts, MultiStep, OneCycle, PiecewiseLinear
from cifar_small.optim.schedulers import learning_rate


def rates(schedule: Any, base: float, steps: int, steps_per_epoch: int) -> list[float]:
    return [learning_rate(schedule, base, step, steps, steps_per_epoch) for step in range(steps)]


def constant(warmup: float = 0.0) -> Constant:
    return Constant(name="constant", warmup_epochs=warmup)


def cosine(warmup: float = 0.0, min_lr: float = 0.0) -> Cosine:
    return Cosine(name="cosine", warmup_epochs=warmup, min_lr=min_lr)


def multistep(milestones: list[int], gamma: float = 0.1, warmup: float = 0.0) -> MultiStep:
    return MultiStep(name="multistep", milestones=milestones, gamma=gamma, warmup_epochs=warmup)


def piecewise(*points: tuple[float, float], warmup: float = 0.0) -> PiecewiseLinear:
    return PiecewiseLinear(name="piecewise", points=points, warmup_epochs=warmup)


def restarts(period: float, multiplier: int = 1, warmup: float = 0.0, min_lr: float = 0.0) -> CosineRestarts:
    return CosineRestarts(name="cosine_restarts", period=period, multiplier=multiplier, warmup_epochs=warmup, min_lr=min_lr)


LITERAL = {
    "restarts": (restarts(1), 2.0, 2, [2.0, 1.0, 2.0, 1.0, 2.0]),
    "restarts, longer each time": (restarts(1, 2), 1.0, 1, [1.0, 1.0, 0.5, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
    "restarts, warm-up, to min_lr": (restarts(2, 1, 1, 0.2), 1.0, 1, [1.0, 1.0, 0.6, 1.0, 0.6]),
    "one cycle": (OneCycle(name="one_cycle", rise=0.5, start_divisor=2, end_divisor=2), 1.0, 1, [0.5, 1.0, 0.625, 0.25]),
    "linear to 0": (piecewise((0, 1), (1, 0)), 0.4, 2, [0.4, 0.3, 0.2, 0.1]),
    "triangle": (piecewise((0, 0.2), (0.4, 1), (1, 0.1)), 2.0, 5, [0.4, 1.2, 2.0, 1.4, 0.8]),
    "piecewise, warm-up": (piecewise((0, 1), (0.5, 1), (1, 0), warmup=1), 1.0, 2, [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]),
    "constant": (constant(), 0.4, 2, [0.4] * 6),
    "constant, warm-up": (constant(2), 0.4, 2, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]),
    "constant, half an epoch of warm-up": (constant(0.5), 0.4, 4, [0.2, 0.4, 0.4, 0.4]),
    "cosine": (cosine(), 2.0, 2, [2.0, 1.7071067811865475, 1.0, 0.2928932188134525]),
    "cosine to min_lr": (cosine(min_lr=0.2), 1.0, 1, [1.0, 0.882842712474619, 0.6, 0.317157287525381]),
    "cosine, warm-up": (cosine(1), 1.0, 2, [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
    "cosine, warm-up, to min_lr": (cosine(2, 0.2), 1.0, 1, [0.5, 1.0, 1.0, 0.882842712474619, 0.6, 0.317157287525381]),
    "multistep": (multistep([1, 3]), 1.0, 2, [1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
    "multistep, gamma": (multistep([2], 0.5), 0.8, 1, [0.8, 0.8, 0.4, 0.4]),
    "multistep, warm-up": (multistep([2, 3], 0.5, 1.0), 0.8, 2, [0.4, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]),
}


@pytest.mark.parametrize("case", LITERAL)
def test_literal_rates(case: str) -> None:
    schedule, base, steps_per_epoch, expected = LITERAL[case]
    assert rates(schedule, base, len(expected), steps_per_epoch) == pytest.approx(expected, rel=1e-12)


def torch_rates(make: Any, base: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("base", "min_lr", "steps"), [(0.1, 0.0, 90), (0.4, 1e-3, 37), (1.0, 1.0, 5), (0.05, 0.0, 1)])
def test_cosine_is_torchs(base: float, min_lr: float, steps: int) -> None:
    expected = torch_rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=steps, eta_min=min_lr), base, steps)
    assert rates(cosine(min_lr=min_lr), base, steps, 7) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    late = rates(cosine(2, min_lr), base, steps + 14, 7)[14:]
    assert late == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("milestones", "gamma", "per_epoch"), [([3, 6, 8], 0.1, 5), ([1], 0.5, 1), ([2, 9], 0.2, 3)])
def test_multistep_is_torchs(milestones: list[int], gamma: float, per_epoch: int) -> None:
    in_steps = [milestone * per_epoch for milestone in milestones]
    expected = torch_rates(lambda optimizer: MultiStepLR(optimizer, in_steps, gamma), 0.3, 10 * per_epoch)
    assert rates(multistep(milestones, gamma), 0.3, 10 * per_epoch, per_epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [2, 5, 12])
def test_warm_up_is_torchs_linear_one(warmup: int) -> None:
    expected = torch_rates(lambda o: LinearLR(o, start_factor=1 / warmup, total_iters=warmup - 1), 0.3, warmup + 4)
    assert rates(constant(warmup), 0.3, warmup + 4, 1) == pytest.approx(expected, rel=1e-12)


schedules = st.one_of(
    st.builds(constant, st.floats(0, 3)),
    st.builds(cosine, st.floats(0, 3), st.floats(0, 0.5)),
    st.builds(
        lambda m, g, w: multistep(sorted(m), g, w), st.sets(st.integers(1, 9), min_size=1), st.floats(0.01, 1), st.floats(0, 3)
    ),
)


@settings(deadline=None, max_examples=150)
@given(schedule=schedules, base=st.floats(0.5, 100), per_epoch=st.integers(1, 9), epochs=st.integers(4, 12))
def test_rates_lie_between_zero_and_base(schedule: Any, base: float, per_epoch: int, epochs: int) -> None:
    found = rates(schedule, base, epochs * per_epoch, per_epoch)
    warmup = round(schedule.warmup_epochs * per_epoch)
    assert all(0 < rate <= base * (1 + 1e-12) for rate in found)
    assert found[:warmup] == sorted(found[:warmup])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    if warmup:
        assert found[warmup - 1] == pytest.approx(base, rel=1e-15)  # the last warm-up step uses the base rate itself
        assert found[0] == pytest.approx(base / warmup, rel=1e-12)
    floor = schedule.min_lr if isinstance(schedule, Cosine) else 0.0
    assert min(found[warmup:]) >= floor * (1 - 1e-12)


@given(period=st.integers(1, 9), multiplier=st.integers(1, 3), steps=st.integers(1, 40), min_lr=st.floats(0, 0.1))
@settings(max_examples=40, deadline=None)
def test_restarts_are_torchs(period: int, multiplier: int, steps: int, min_lr: float) -> None:
    expected = torch_rates(lambda o: CosineAnnealingWarmRestarts(o, period, multiplier, min_lr), 0.3, steps)
    assert rates(restarts(period, multiplier, 0, min_lr), 0.3, steps, 1) == pytest.approx(expected, rel=1e-9)


@given(rise=st.floats(0.1, 0.9), steps=st.integers(12, 60), start=st.floats(1.5, 50), end=st.floats(1, 1e5))
@settings(max_examples=40, deadline=None)
def test_one_cycle_is_torchs(rise: float, steps: int, start: float, end: float) -> None:
    def make(optimizer: torch.optim.Optimizer) -> OneCycleLR:
        return OneCycleLR(
            optimizer, 0.3, total_steps=steps, pct_start=rise, cycle_momentum=False, div_factor=start, final_div_factor=end
        )

    schedule = OneCycle(name="one_cycle", rise=rise, start_divisor=start, end_divisor=end)
    assert rates(schedule, 0.3, steps, 1) == pytest.approx(torch_rates(make, 0.3, steps), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_of_few_steps_is_finite_and_ends_below_the_base(steps: int) -> None:
    found = rates(OneCycle(name="one_cycle"), 1.0, steps, 1)
    assert all(0 < rate <= 1 for rate in found)
    assert steps < 3 or found[-1] == pytest.approx(1 / 25e4)


def test_one_cycle_takes_a_rise_of_a_single_step() -> None:
    """torch's raises ZeroDivisionError for 10 steps of which a tenth rise; see docs/surprises.md."""
    with pytest.raises(ZeroDivisionError):
        torch_rates(lambda o: OneCycleLR(o, 0.3, total_steps=10, pct_start=0.1), 0.3, 10)
    found = rates(OneCycle(name="one_cycle", rise=0.1), 0.3, 10, 1)
    assert len(found) == 10
    assert all(0 < rate <= 0.3 for rate in found)
    assert found == sorted(found[:1]) + sorted(found[1:], reverse=True)


def test_very_short_periods_take_no_time() -> None:
    assert len(rates(restarts(1e-9), 1.0, 1000, 100)) == 1000


def test_a_restart_at_a_whole_step_is_one_however_its_place_rounds() -> None:
    """1.1 epochs of 390 steps are 429 steps, and 429.00000000000006 in floating point."""
    found = rates(restarts(1.1), 1.0, 860, 390)
    assert [found[step] for step in (0, 429, 858)] == [1.0, 1.0, 1.0]
    assert max(found[428], found[857]) < 1e-4


def test_a_cosine_that_is_extended_falls_to_its_new_end() -> None:
    """A run of 10 epochs that is continued to 20: no length is kept from before."""
    then = rates(cosine(), 0.1, 20, 1)[10:]
    assert then == sorted(then, reverse=True)
    assert then[0] == pytest.approx(0.05)
    assert then[-1] < 0.001
