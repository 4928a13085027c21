"""The link that asks whether the weights of a soup are the average of those that it names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cifar_small.inference.soup import average_weights
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.records import SoupMember, parse_all, plain_all
from cifar_small.submission.audit.card import CheckResult, link
from cifar_small.submission.audit.evidence import Member
from cifar_small.wording import plural

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm, taken again from training images
CLOSE = 1e-6  # of the largest weight of a tensor: another machine may add in another order


@link("soup", "the weights are the mean of those that were averaged")
def soup(member: Member, result: CheckResult) -> str:
    """The average made again from the checkpoints of its members, tensor by tensor, but for BatchNorm's statistics."""
    state = member.checkpoint
    nets = parse_all(SoupMember, state.get("soup", []), "the soup in the checkpoint")
    result.same("nets of the soup in the record:", plain_all(member.recorded_meta.soup), plain_all(nets))
    # As they were averaged, best on val first, so that the sums have the same order.
    taken = sorted((net for net in nets if net.taken), key=lambda net: -net.val_accuracy)
    result.require(bool(taken), "nets that were averaged", "none")
    runs = [run for net in taken if (run := _run_of(net, member, result)) is not None]
    if not taken or len(runs) < len(taken):
        return ""
    states = [load_checkpoint(run.checkpoint(net.checkpoint))["weights"] for net, run in zip(taken, runs, strict=True)]
    mean = {name: value for name, value in average_weights(states).items() if name.rpartition(".")[2] not in STATISTICS}
    own = state["weights"]
    result.same("names of weights", sorted(states[0]), sorted(own))
    changed = [name for name, value in mean.items() if name in own and not _alike(own[name], value)]
    result.require(not changed, f"the mean of {plural(len(taken), 'net')} in every tensor", _listed(changed))
    return (
        f"{plural(len(mean), 'tensor')}, each the mean of {plural(len(taken), 'net')}; BatchNorm's statistics, which are taken "
        "again from training images, are not compared"
    )


def _run_of(net: SoupMember, member: Member, result: CheckResult) -> Run | None:
    """The run directory that holds the weights of a net of a soup: of those given, or beside the soup's own; else a gap."""
    beside = [member.run.folder.resolve().parent / net.run] if net.run else []
    runs = [*member.soup_runs, *map(Run, beside)]
    found = next((run for run in runs if run.weights_sha256(net.checkpoint) == net.weights_sha256), None)
    if found is None:
        others = next((f"{run.folder} holds other weights of it" for run in runs if run.name == net.run and run.is_run), "")
        why = others or "whose run directory is not at hand: give it too"
        result.gap(f"it was averaged from {net.label(folder=True)}, {why}")
    return found


def _alike(own: torch.Tensor, mean: torch.Tensor) -> bool:
    if own.shape != mean.shape or own.dtype != mean.dtype:
        return False
    if not mean.is_floating_point():
        return torch.equal(own, mean)
    largest = max(float(mean.abs().max()), torch.finfo(mean.dtype).tiny) if mean.numel() else 1.0
    return torch.allclose(own, mean, rtol=0, atol=CLOSE * largest)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"another in {', '.join(names[:3])}{more}"
