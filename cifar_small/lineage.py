"""What a net owes to weights other than its own: carried from checkpoint to checkpoint, judged by the rules.

`ancestors` are the nets whose weights it started from, the latest first: plain values with `name`, the `data` they were trained
on (`source` and, for a run of this toolkit, the hashes of images and split) and `weights_sha256`. `lineage` says the same in
words, a line for each, and adds what came through a teacher, marked so. Both are empty for a net trained from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.schema import Rules

Ancestor = dict[str, Any]
THROUGH_TEACHER = " (through teacher "  # in a line of a lineage: known from a teacher's answers, not from weights


def ancestor(name: str, data: Mapping[str, Any], weights_sha256: str) -> Ancestor:
    """A net whose weights another one starts from."""
    return {"name": name, "data": dict(data), "weights_sha256": weights_sha256}


def in_words(one: Ancestor) -> str:
    """An ancestor in words: `name, trained on source`."""
    return f"{one['name']}, trained on {one['data']['source']}"


def check_lineage(name: str, lineage: Sequence[str], rules: Rules) -> None:
    """Refuse what the rules forbid, by raising ConfigError that names the weights."""
    if rules.pretrained:
        return
    started = [one for one in lineage if THROUGH_TEACHER not in one]
    if started:
        raise ConfigError(
            f"{name} started from other weights ({'; '.join(started)}); the rules say pretrained: false; "
            "submit a run trained from scratch"
        )
    if lineage and rules.pretrained_teacher == "forbidden":
        raise ConfigError(
            f"{name} learned from a pretrained teacher ({'; '.join(lineage)}); the rules say pretrained_teacher: forbidden; "
            "submit a run without it, or one whose teachers were trained from scratch"
        )


def check_unseen(ancestors: Sequence[Ancestor], data: Mapping[str, Any]) -> None:
    """Refuse an ancestor that was trained on validation images of this run, by raising CheckpointError.

    data: the hashes of images and split, as `predict.load_splits` gives them.
    """
    for one in ancestors:
        same_split = one["data"].get("val_sha256") == data["val_sha256"]
        if _same_images(one["data"], data) and not same_split:
            raise CheckpointError(
                f"{in_words(one)}, held out other val images than this run does, so it has seen some of this run's; "
                "train both with the same data.source, data.val_size and data.split_seed"
            )


def _same_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Are these two the same training images? CIFAR-100 with its fine and its coarse labels is."""
    cifar100 = {"cifar100", "cifar100_coarse"}
    return one.get("sha256") == other["sha256"] or {one["source"], other["source"]} == cifar100
