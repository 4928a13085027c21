"""Train, predict and submit small image classifiers under a parameter budget.

From Python, `import cifar_small as cs`: the names below, which docs/python.md shows at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar_small.api import (
        Predictions,
        TrainedRun,
        compare,
        ensemble,
        estimate,
        load_config,
        load_predictions,
        load_run,
        param_count,
        report,
        submit,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "Predictions",
    "TrainedRun",
    "compare",
    "ensemble",
    "estimate",
    "load_config",
    "load_predictions",
    "load_run",
    "param_count",
    "report",
    "submit",
    "train",
]


def __getattr__(name: str) -> Any:
    """A name of the toolkit, whose modules are imported now and not with the package: they need torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("cifar_small.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
