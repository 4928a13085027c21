"""All that changes during a run, and how it goes into a checkpoint and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cifar_small.runs.records import Ancestor, parse_all, plain_all

COUNTERS = ("epoch", "step", "best_accuracy", "best_epoch", "rows")
FIRST_SCALE = 2.0**16  # of the loss in fp16, as torch's GradScaler has it


def _counts_on_device(group: dict[str, object]) -> bool:
    return bool(group.get("fused") or group.get("capturable"))


@dataclass
class State:
    """All that changes during a run; what `last.pt` holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    precision: str  # of the forward pass; a resumed run keeps the one it was started in
    ancestors: list[Ancestor] = field(default_factory=list)  # whose weights the run began with
    slow: dict[str, Tensor] = field(default_factory=dict)  # Lookahead's weights by parameter name, while a phase has them
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed within the epoch under way
    scaling: Tensor = field(default_factory=lambda: torch.tensor([FIRST_SCALE, 0.0]))  # see optim.adjust_scale
    totals: Tensor = field(default_factory=lambda: torch.zeros(2))  # loss and hits summed over the epoch's images so far
    norms: Tensor = field(default_factory=lambda: torch.zeros(2))  # of gradients, their sum and number so far in the epoch
    best_accuracy: float = -1.0
    best_epoch: int = 0
    clock: float = field(default_factory=time.monotonic)  # when the run would have begun without pauses between sessions
    rows: list[dict[str, object]] = field(default_factory=list)  # rows of metrics.csv, one per epoch

    @property
    def seconds(self) -> float:
        """Time spent so far, in all sessions."""
        return time.monotonic() - self.clock

    @property
    def averaged(self) -> int:
        """How many weights the average has taken in: of steps (EMA) or of epochs (SWA); 0 where there is none."""
        return int(self.average.n_averaged) if self.average is not None else 0

    @property
    def evaluated(self) -> nn.Module:
        """The net whose predictions count: the average where there is one."""
        return self.average.module if self.average is not None and self.averaged else self.model

    def saved(self) -> dict[str, object]:
        """Tensors and plain values only."""
        return {
            "model": self.model.state_dict(),
            # By name: an index would depend on the parameter groups, which a phase may change. Hyper-parameters: the config's.
            "optimizer": {
                name: dict(self.optimizer.state[p]) for name, p in self.model.named_parameters() if self.optimizer.state[p]
            },
            "average": self.average.state_dict() if self.average is not None else None,
            "slow": self.slow,
            "scaling": self.scaling,
            "totals": self.totals,
            "norms": self.norms,
            "precision": self.precision,
            "ancestors": plain_all(self.ancestors),
            "seconds": self.seconds,
            **{key: getattr(self, key) for key in COUNTERS},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """The inverse of `saved`."""
        self.model.load_state_dict(saved["model"])
        parameters = dict(self.model.named_parameters())
        # A counter of steps stays on the CPU, where torch reads it, unless the optimizer counts on the device.
        counts = {p for group in self.optimizer.param_groups if _counts_on_device(group) for p in group["params"]}
        for name, entry in saved["optimizer"].items():
            parameter = parameters[name]
            assert all(value.shape == parameter.shape for value in entry.values() if value.ndim), name
            self.optimizer.state[parameter] = {
                key: value if key == "step" and parameter not in counts else value.to(parameter.device)
                for key, value in entry.items()
            }
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.slow = {name: value.to(parameters[name].device) for name, value in saved.get("slow", {}).items()}
        self.scaling.copy_(saved.get("scaling", self.scaling))
        self.totals.copy_(saved["totals"])
        self.norms.copy_(saved.get("norms", self.norms))
        self.precision = saved["precision"]
        self.ancestors = parse_all(Ancestor, saved.get("ancestors", []), "ancestors of the checkpoint")
        self.clock -= saved["seconds"]
        for key in COUNTERS:
            setattr(self, key, saved[key])
