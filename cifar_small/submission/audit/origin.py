"""The link that asks where weights come from: the lineage in a checkpoint, and the runs that it started from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cifar_small.config.loading import parse_config
from cifar_small.errors import CheckpointError
from cifar_small.files import sha256_file
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.lineage import THROUGH_TEACHER, check_unseen, fault_of, in_words, is_own, lineage_of, without_own
from cifar_small.runs.records import Ancestor, DataFacts, TeacherFacts, parse, parse_all
from cifar_small.submission.audit.card import CheckResult, link
from cifar_small.submission.audit.evidence import Member


@link("from scratch", "no weights from elsewhere, unless the rules allow them")
def from_scratch(member: Member, result: CheckResult) -> str:
    """The lineage in the weights: as recorded, what its ancestors and teachers give, and allowed by the rules."""
    state = member.checkpoint
    lineage = state["lineage"]
    ancestors = parse_all(Ancestor, state.get("ancestors", []), "the ancestors in the checkpoint")
    teachers = parse_all(TeacherFacts, state.get("teachers", []), "the teachers in the checkpoint")
    data = parse(DataFacts, state["data"], "the data of the checkpoint")
    result.same("lineage in the record", lineage, member.recorded_meta.lineage)
    if "soup" not in state:
        result.same("lineage of its ancestors and teachers", lineage_of(ancestors, teachers), lineage)
    try:
        check_unseen(ancestors, data)
    except CheckpointError as error:
        result.require(False, "no ancestor that was trained on its val images", str(error))
    weights = member.config.weights
    result.require(weights is None or bool(ancestors), f"an ancestor, as the config starts from {weights}", "none")
    rules = f"pretrained: false, pretrained_teacher: {member.rules.pretrained_teacher}"
    foreign = without_own(lineage, ancestors, data)
    result.require(fault_of(foreign, member.rules) is None, f"no other weights ({rules})", f"lineage {foreign}")
    proved = [] if member.rules.pretrained else _prove_own(member, ancestors, data, result)
    if foreign:
        return f"from {', '.join(foreign)}, which the rules allow"
    return f"from scratch through {', '.join(proved)}" if proved else "the checkpoint names no other weights"


def _prove_own(member: Member, ancestors: Sequence[Ancestor], data: DataFacts, result: CheckResult) -> list[str]:
    """Look into the runs of ancestors that were trained on the same images; returns what was found of each.

    That they were says the checkpoint that started from them; only theirs shows it, and that nothing stands before it.
    """
    at_hand, named = list(member.ancestor_runs), member.config
    proved = []
    for ancestor in ancestors:
        if not is_own(ancestor, data):
            continue
        if named.starts_from_run:
            at_hand.append(Run(str(named.weights)))
        found = [run for run in at_hand if run.best.exists() and sha256_file(run.best) == ancestor.weights_sha256]
        if not found:
            result.gap(f"it started from {in_words(ancestor)}, whose run directory is not at hand: give it too")
            continue
        state = load_checkpoint(found[0].best)
        _compare_ancestor(ancestor, ancestors, state, result)
        named = parse_config(state["config"], str(found[0].best))
        proved.append(f"{ancestor.name} in {found[0].folder}, trained on the same images")
    return proved


def _compare_ancestor(ancestor: Ancestor, ancestors: Sequence[Ancestor], state: dict[str, Any], result: CheckResult) -> None:
    """What its own checkpoint says of an ancestor against what its descendant says."""
    result.same(f"data of {ancestor.name}", ancestor.data.plain(), parse(DataFacts, state["data"], ancestor.name).plain())
    known = {each.weights_sha256 for each in ancestors}
    for former in parse_all(Ancestor, state.get("ancestors", []), f"the ancestors of {ancestor.name}"):
        result.require(
            former.weights_sha256 in known, f"{in_words(former)} among the ancestors, as {ancestor.name} says", "not"
        )
    taught = [line for line in state["lineage"] if THROUGH_TEACHER in line]
    result.same(f"what {ancestor.name} learned from teachers:", ancestor.taught, taught)
