"""Names that recipes, views and keys had before; files keep them, and reading a file brings them up to date.

Hashes of a configuration are taken over the former names, so that those in older records and checkpoints stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VIEWS = {"r3": "flips_shift_blur"}
LADDER_NAMES = {"r1": "resnet18_ladder", "r2": "resnet50_ladder"}
RECIPES = {
    "r3_resnet_4443": "resnet_4443_two_runs",
    "r4_resnet44_128": "resnet44_width_128",
    "r4_resnet44_190": "resnet44_width_190",
    "r4_resnet_443": "resnet_443_width_256",
    "r5_resnet18_cifar100": "resnet18_one_cycle_cifar100",
    "r5_resnet18_dropout_cifar100": "resnet18_one_cycle_dropout_cifar100",
    "r5_resnet34_cifar100": "resnet34_one_cycle_cifar100",
    "r5_resnet34_dropout_cifar100": "resnet34_one_cycle_dropout_cifar100",
    "r5_wrn_28_10_cifar100": "wrn_28_10_one_cycle_cifar100",
    "r5_wrn_28_10_cifar100_run02": "wrn_28_10_restarts_cifar100",
    "r5_wrn_28_10_cifar100_run04": "wrn_28_10_progressive_cifar100",
    "r5_wrn_28_10_cifar100_run05": "wrn_28_10_two_stage_cifar100",
    **{f"r1_level{level}": f"resnet18_ladder_level{level}" for level in range(1, 6)},
    **{f"r2_level{level}": f"resnet50_ladder_level{level}" for level in range(1, 5)},
}
_FORMER = {key: {new: old for old, new in names.items()} for key, names in (("name", RECIPES), ("views", VIEWS))}


def with_current_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A config, a summary or the facts of a prediction with the present names of its recipe (`name`), `views` and keys."""
    return _renamed_keys(_replaced(plain, {"name": RECIPES, "views": VIEWS}), "normalise", "normalize")


def with_former_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the names that hashes are taken over."""
    return _renamed_keys(_replaced(plain, _FORMER), "normalize", "normalise")


def _replaced(plain: Mapping[str, Any], names: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    replaced = dict(plain)
    for key, table in names.items():
        value = plain.get(key)
        if isinstance(value, str) and value in table:
            replaced[key] = table[value]
    return replaced


def _renamed_keys(plain: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The same with another name for a key of `optim`, at the top level and in phases; where both stand, both stay."""

    def renamed(section: Any) -> Any:
        optim = section.get("optim") if isinstance(section, Mapping) else None
        if not isinstance(optim, Mapping) or old not in optim or new in optim:
            return section
        return {**section, "optim": {new if key == old else key: value for key, value in optim.items()}}

    result: dict[str, Any] = renamed(plain)
    if isinstance(phases := plain.get("phases"), list | tuple):
        result = {**result, "phases": [renamed(phase) for phase in phases]}
    return result
