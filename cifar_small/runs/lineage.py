"""What a net owes to weights other than its own: carried from checkpoint to checkpoint, judged by the rules.

`ancestors` are the nets whose weights it started from, the latest first. `lineage` says the same in words, a line for each, and
adds what came through a teacher, marked so. Both are empty for a net trained from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

from cifar_small.config.schema import Rules
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.runs.records import Ancestor, DataFacts, TeacherFacts

THROUGH_TEACHER = " (through teacher "  # in a line of a lineage: known from a teacher's answers, not from weights


def ancestor(name: str, data: DataFacts, weights_sha256: str, lineage: Sequence[str] = ()) -> Ancestor:
    """A net whose weights another one starts from; of its lineage what came through its teachers is kept."""
    taught = [line for line in lineage if THROUGH_TEACHER in line]
    own = Ancestor(name=name, data=data, weights_sha256=weights_sha256)
    return own.updated(taught=taught) if taught else own


def in_words(ancestor: Ancestor) -> str:
    """An ancestor in words: `name, trained on source`."""
    return f"{ancestor.name}, trained on {ancestor.data.source}"


def through_teacher(line: str, teacher: str) -> str:
    """A line of a teacher's lineage, as it stands in that of its pupil."""
    return f"{line}{THROUGH_TEACHER}{teacher})"


def lineage_of(ancestors: Sequence[Ancestor], teachers: Sequence[TeacherFacts]) -> list[str]:
    """The lineage of a net that started from `ancestors` and learned from `teachers`."""
    inherited = {through_teacher(line, teacher.label()) for teacher in teachers for line in teacher.lineage}
    inherited.update(line for ancestor in ancestors for line in ancestor.taught)
    return [*(in_words(ancestor) for ancestor in ancestors), *sorted(inherited)]


def start_of(lineage: Sequence[str]) -> str:
    """Where a net comes from, in a word or two: scratch, pretrained, or pretrained teacher."""
    if any(THROUGH_TEACHER not in line for line in lineage):
        return "pretrained"
    return "pretrained teacher" if lineage else "scratch"


def fault_of(lineage: Sequence[str], rules: Rules) -> str | None:
    """What the rules forbid of a lineage, in a few words; None: nothing."""
    if rules.pretrained or not lineage:
        return None
    if any(THROUGH_TEACHER not in line for line in lineage):
        return "pretrained not allowed"
    return "pretrained teacher not allowed" if rules.pretrained_teacher == "forbidden" else None


def check_lineage(name: str, lineage: Sequence[str], rules: Rules) -> None:
    """Refuse what the rules forbid, by raising ConfigError that names the weights."""
    if fault_of(lineage, rules) is None:
        return
    started = [line for line in lineage if THROUGH_TEACHER not in line]
    if started:
        raise ConfigError(
            f"{name} started from other weights ({'; '.join(started)}); the rules say pretrained: false; "
            "submit a run trained from scratch"
        )
    raise ConfigError(
        f"{name} learned from a pretrained teacher ({'; '.join(lineage)}); the rules say pretrained_teacher: forbidden; "
        "submit a run without it, or one whose teachers were trained from scratch"
    )


def check_unseen(ancestors: Sequence[Ancestor], data: DataFacts) -> None:
    """Refuse an ancestor that was trained on validation images of this run, by raising CheckpointError."""
    for ancestor in ancestors:
        if _same_images(ancestor.data, data) and ancestor.data.val_sha256 != data.val_sha256:
            raise CheckpointError(
                f"{in_words(ancestor)}, held out other val images than this run, so it was trained on some of this run's; "
                "train both with the same data.source, data.val_size and data.split_seed"
            )


def _same_images(data: DataFacts, other: DataFacts) -> bool:
    """Are these two the same training images? CIFAR-100 with its fine and its coarse labels is."""
    cifar100 = {"cifar100", "cifar100_coarse"}
    return data.sha256 == other.sha256 or {data.source, other.source} == cifar100
