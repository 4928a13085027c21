"""What a net owes to weights other than its own: carried from checkpoint to checkpoint, judged by the rules.

`ancestors` are the nets whose weights it started from, the latest first. `lineage` says the same in words, a line for each, and
adds what came through a teacher, marked so. Both are empty for a net trained from scratch. An ancestor that was trained on the
very images of the net itself makes it no less one from scratch: `foreign_lineage` is what the rules are about.
"""

from __future__ import annotations

from collections.abc import Sequence

from cifar_small.config.schema import Rules
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.runs.records import Ancestor, DataFacts, NetFacts, TeacherFacts, WeightsFacts

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


def is_own(ancestor: Ancestor, data: DataFacts | None) -> bool:
    """Was an ancestor trained on exactly the images of a net trained on `data`, none less, none more?"""
    keys = ("sha256", "val_sha256", "train_sha256")
    return data is not None and ancestor.data.train_sha256 is not None and ancestor.data.picked(*keys) == data.picked(*keys)


def without_own(lineage: Sequence[str], ancestors: Sequence[Ancestor], data: DataFacts | None) -> list[str]:
    """A lineage without the lines of ancestors trained on exactly the images of the net, which was trained on `data`."""
    own = {in_words(each) for each in ancestors if is_own(each, data)}
    others = {in_words(each) for each in ancestors if not is_own(each, data)}  # perhaps of the same name
    return [line for line in lineage if line not in own - others]


def foreign_lineage(facts: NetFacts | WeightsFacts) -> list[str]:
    """What the rules are about in a lineage: of an ensemble, all that is foreign to any of its nets."""
    nets = list(facts.nets()) if isinstance(facts, NetFacts) else [facts]
    foreign = [line for net in nets for line in without_own(net.lineage, net.ancestors, net.data)]
    known = {line for net in nets for line in net.lineage}
    return list(dict.fromkeys([*foreign, *(line for line in facts.lineage if line not in known)]))


def start_of(lineage: Sequence[str]) -> str:
    """Where a net comes from by its foreign lineage, in a word or two: scratch, pretrained, or pretrained teacher."""
    if any(THROUGH_TEACHER not in line for line in lineage):
        return "pretrained"
    return "pretrained teacher" if lineage else "scratch"


def fault_of(lineage: Sequence[str], rules: Rules) -> str | None:
    """What the rules forbid of a foreign lineage, in a few words; None: nothing."""
    if rules.pretrained or not lineage:
        return None
    if any(THROUGH_TEACHER not in line for line in lineage):
        return "pretrained not allowed"
    return "pretrained teacher not allowed" if rules.pretrained_teacher == "forbidden" else None


def check_lineage(name: str, lineage: Sequence[str], rules: Rules) -> None:
    """Refuse what the rules forbid of a foreign lineage, by raising ConfigError that names the weights."""
    if fault_of(lineage, rules) is None:
        return
    started = [line for line in lineage if THROUGH_TEACHER not in line]
    if started:
        raise ConfigError(
            f"{name} started from other weights ({'; '.join(started)}); the rules say pretrained: false, which allows those of "
            "a run from scratch on exactly the same training images alone: use such weights, or none"
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
                f"{in_words(ancestor)}, held out other val images than this run, so it may have been trained on some of this "
                "run's; train both with the same data.source, data.val_size and data.split_seed"
            )


def _same_images(data: DataFacts, other: DataFacts) -> bool:
    """Are these two the same training images? A published set is under any labels, and with its classes in any order."""
    published = [one.source.removesuffix("_coarse") for one in (data, other)]
    return data.sha256 == other.sha256 or (published[0] == published[1] and published[0] in ("cifar10", "cifar100"))
