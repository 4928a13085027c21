"""Muon: the momentum of each filter bank, made orthogonal, is its update; other parameters take Nesterov SGD or AdamW steps.

Jordan et al. 2024, kellerjordan.github.io/posts/muon. torch.optim.Muon takes matrices only; here a bank of filters (C_out,
C_in, k, k) is the matrix (C_out, C_in k k), and banks of one shape share their matrix products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cifar_small.environment import computes_in_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a quintic that drives singular values to about 1 (0.7..1.2) in few steps


def orthogonalize(matrices: Tensor, iterations: int) -> Tensor:
    """Newton-Schulz iterations towards the nearest (semi-)orthogonal matrices: (B, R, C) -> (B, R, C).

    In bfloat16, which is enough, since the result only steers a step; in float32 where the hardware has no bfloat16, in which
    it would take many times as long. Zero matrices stay zero.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if computes_in_bf16(matrices.device) else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values at most 1, where the iteration converges
    for _ in range(iterations):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps each group by its `rule`: muon, sgd (with Nesterov momentum) or adamw (Loshchilov & Hutter 2019).

    Hyper-parameters stand in the groups: lr, weight_decay and, by rule, momentum, nesterov, iterations, normalize or beta1,
    beta2, eps.
    A flag tensor set as `found_inf` (as torch's fused optimizers read it) makes the coming step leave everything alone.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there; no host synchronization."""
        assert closure is None
        rules = {"muon": self._step_filters, "sgd": self._step_sgd, "adamw": self._step_adamw}
        for group in self.param_groups:
            members = [parameter for parameter in group["params"] if parameter.grad is not None]
            rules[group["rule"]](group, members)

    def _step_filters(self, group: dict[str, Any], members: list[Tensor]) -> None:
        banks = defaultdict(list)  # by matrix shape: one batched product instead of many small ones
        for filters in members:
            assert filters.grad is not None
            momentum = self._momentum(filters, group["momentum"], filters.grad)
            update = filters.grad + group["momentum"] * momentum if group["nesterov"] else momentum
            banks[len(filters), filters[0].numel()].append((filters, update))
        for (rows, columns), bank in banks.items():
            stacked = torch.stack([update.reshape(rows, columns) for _, update in bank])
            for (filters, _), update in zip(bank, orthogonalize(stacked, group["iterations"]), strict=True):
                if group["normalize"]:
                    # A bank of zeros, as of a layer that begins as the identity, stays one until its step.
                    scaled, size = filters * (rows**0.5 / filters.norm().clamp_min(1e-12)), group["lr"]
                else:
                    # A tall matrix of orthonormal columns has smaller rows; this keeps their size that of a wide one's.
                    scaled = filters * (1 - group["lr"] * group["weight_decay"])
                    size = group["lr"] * max(1.0, rows / columns) ** 0.5
                self._write(filters, scaled - size * update.reshape(filters.shape).to(filters.dtype))

    def _step_sgd(self, group: dict[str, Any], members: list[Tensor]) -> None:
        for parameter in members:
            assert parameter.grad is not None
            gradient = parameter.grad + group["weight_decay"] * parameter
            momentum = self._momentum(parameter, group["momentum"], gradient)
            self._write(parameter, parameter - group["lr"] * (gradient + group["momentum"] * momentum))

    def _step_adamw(self, group: dict[str, Any], members: list[Tensor]) -> None:
        for parameter in members:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "mean" not in state:
                state |= {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
                state["count"] = torch.zeros((), device=parameter.device)  # there, not here: a skipped step is known there
            self._write(state["count"], state["count"] + 1)
            self._write(state["mean"], state["mean"].lerp(parameter.grad, 1 - group["beta1"]))
            self._write(state["square"], state["square"].lerp(parameter.grad**2, 1 - group["beta2"]))
            mean = state["mean"] / (1 - group["beta1"] ** state["count"])
            root = (state["square"] / (1 - group["beta2"] ** state["count"])).sqrt()
            kept = parameter * (1 - group["lr"] * group["weight_decay"])
            self._write(parameter, kept - group["lr"] * mean / (root + group["eps"]))

    def _momentum(self, parameter: Tensor, factor: float, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        self._write(state["momentum_buffer"], factor * state["momentum_buffer"] + gradient)
        buffer: Tensor = state["momentum_buffer"]
        return buffer

    def _write(self, target: Tensor, value: Tensor) -> None:
        target.copy_(value if self.found_inf is None else torch.where(self.found_inf.bool(), target, value))
