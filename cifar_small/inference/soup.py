"""Soups: the weights of several runs, or of epochs kept of one, averaged into one net, in a run directory of its own.

Wortsman et al. 2022, arXiv 2203.05482. A soup has the parameters and the cost of one net. What is chosen is chosen on val, and
the record names every net that went in or was tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from cifar_small.config.hashing import config_dict
from cifar_small.config.resolved import resolve_config
from cifar_small.data.datamodule import to_tensor
from cifar_small.environment import autocast, machine_facts, memory_format, prepare_process, resolve_device, resolve_precision
from cifar_small.errors import CheckpointError, UserError
from cifar_small.files import write_json
from cifar_small.inference.ensemble import Verdict
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.predict import Net, load_net, load_own_splits, predict_images, relocate_config
from cifar_small.metrics.classification import wilson_interval
from cifar_small.models import refresh_statistics, set_frozen_throughout
from cifar_small.randomness import ORDER, torch_generator
from cifar_small.runs.checkpoints import save_checkpoint
from cifar_small.runs.directory import Run, write_start
from cifar_small.runs.records import SoupMember, Summary, plain_all
from cifar_small.wording import differing, differing_classes

T = TypeVar("T")
REFRESH_IMAGES = 10_000  # training images that BatchNorm statistics are taken from, at most
REFRESH_BATCH = 500

Method = Literal["uniform", "greedy"]


def make_soup(
    runs: Sequence[Run],
    output: Run,
    method: Method = "uniform",
    *,
    checkpoints: Sequence[str] = (),
    device: str | None = None,
    data_root: str | None = None,
    command: str = "",
) -> tuple[Summary, Verdict]:
    """Average weights of runs into a run directory; returns its summary and the comparison with the best of them.

    checkpoints: of each run, such as `epoch-0010`, so that a run may be there more than once; empty: the selected ones.
    uniform takes all runs; greedy the best on val, and then each other, in the order of val accuracy, with which the soup's
    accuracy on val (without views) is not lower. Raises UserError for fewer than two nets, an `output` in use, or a greedy soup
    of one; CheckpointError for runs that differ in architecture, classes, normalization, rules or data, or share weights.
    """
    started = time.monotonic()
    if output.folder.exists() and any(output.folder.iterdir()):
        raise UserError(f"{output.folder} is not empty; choose a new or an empty folder for the soup")
    nets = [load_net(run, name) for run, name in zip(runs, checkpoints or ["best"] * len(runs), strict=True)]
    _check(runs, nets)
    config = relocate_config(nets[0].config, device, data_root)
    config = config.model_copy(update={"name": f"{config.name[:95]}_soup"})
    freezes = [phase.settings.freeze for net in nets for phase in resolve_config(net.config).phases]
    averager = WeightAverager(replace(nets[0], config=config), freezes)
    order = sorted(range(len(nets)), key=lambda index: -nets[index].facts.val_accuracy)
    taken = order if method == "uniform" else _choose(averager, nets, order)
    if len(taken) == 1:
        raise UserError(
            f"{_place(runs[taken[0]], nets[taken[0]])} alone is better on val than averaged with any of the others: use it as "
            "it is; nothing was written"
        )
    members = [_facts(run, net, index in taken) for index, (run, net) in enumerate(zip(runs, nets, strict=True))]
    content = averager.average([nets[index] for index in taken]) | {"soup": plain_all(members)}
    # Of all runs together, those left out too: it took them to make it.
    summaries = [summary for run in {run.folder.resolve(): run for run in runs}.values() if (summary := run.summary())]
    epochs, seconds = sum(summary.epochs for summary in summaries), sum(summary.seconds for summary in summaries)
    write_start(output, config, {**machine_facts(averager.device, averager.precision), "processes": 1}, command, epochs)
    save_checkpoint(output.best, content)
    predictions = predict_images(replace(load_net(output), config=config), averager.val, config.views, progress=True)
    predictions = predictions.with_meta(split="val", run=output.name, command=command)
    val_sha256 = predictions.save(output.predictions / "val.npz")
    correct, images = int(predictions.correct.sum()), len(predictions.ids)
    summary = Summary.build(
        config,
        predictions.meta,
        correct=correct,
        images=images,
        interval=wilson_interval(correct, images),
        epochs=epochs,
        epochs_planned=epochs,
        seconds=round(seconds + time.monotonic() - started, 1),
        val_predictions_sha256=val_sha256,
    )
    write_json(output.summary_file, summary.plain())  # last: a soup without it is not whole
    alone = [predict_images(replace(net, config=config), averager.val, config.views, progress=True).correct for net in nets]
    best = int(np.argmax([right.sum() for right in alone]))
    verdict = Verdict.between("soup", predictions.correct, members[best].label(folder=True), alone[best])
    apart = "" if share_start([nets[index] for index in taken]) else "its members share no start"
    return summary, replace(verdict, apart=apart)


def share_start(nets: Sequence[Net]) -> bool:
    """Did all nets begin with the same weights: those of one ancestor, which may be one of them, or of one seed's draw?

    Only then do their weights mean the same, so that an average of them is a net.
    """

    def starts(net: Net) -> set[str]:
        hashes = {net.facts.weights_sha256, *(ancestor.weights_sha256 for ancestor in net.facts.ancestors)}
        return hashes if net.facts.ancestors else {*hashes, f"seed {net.config.seed}"}

    return all(starts(nets[0]) & starts(net) for net in nets[1:])


def _place(run: Run, net: Net) -> str:
    """Where a member lies: its run directory, or the file of a checkpoint that is not the selected one."""
    return str(run.folder if net.facts.checkpoint == "best" else run.checkpoint(net.facts.checkpoint))


class WeightAverager:
    """The net that weights are averaged into, with training images to refresh its statistics and val images to judge it."""

    def __init__(self, net: Net, freezes: Sequence[tuple[str, ...]]) -> None:
        """Read the data of a net, whose own weights stay as they are. Raises CheckpointError if it is not what it was.

        freezes: what each phase of each of the nets froze, as `freeze` in a config says it.
        """
        prepare_process(net.config.engine)
        self.net, engine = net, net.config.engine
        self.device = resolve_device(engine.device)
        self.precision = resolve_precision(engine.precision, self.device)
        train, self.val = load_own_splits(net)
        self.model = deepcopy(net.model).to(device=self.device, memory_format=memory_format(engine))  # type: ignore[call-overload]
        set_frozen_throughout(self.model, freezes)  # a BatchNorm that never trained keeps its statistics
        self.val_images = to_tensor(self.val, self.device)
        batch = min(REFRESH_BATCH, len(train))  # not the engine's: the variance within smaller batches would be another
        count = min(REFRESH_IMAGES, len(train)) // batch * batch  # batches of one size
        # In random order, since a source may hold its images class by class; the same for every soup of this data.
        chosen = torch.randperm(len(train), generator=torch_generator(0, ORDER))[:count]
        self.batches = torch.split(to_tensor(train.take(chosen.numpy()), self.device), batch)

    def average(self, nets: Sequence[Net]) -> dict[str, Any]:
        """Average the weights of nets and refresh the statistics; returns what `best.pt` holds, accuracy on val included."""
        net, model = self.net, self.model
        model.load_state_dict(average_weights([net.model.state_dict() for net in nets]))
        pixels = (net.preprocess(batch) for batch in self.batches)
        with autocast(self.device, self.precision):
            refresh_statistics(model, (batch.contiguous(memory_format=torch.channels_last) for batch in pixels))
        size = net.config.engine.eval_batch_size
        logits = compute_logits(model, self.val_images, net.preprocess, "none", self.precision, size)
        assert self.val.labels is not None
        labels = torch.from_numpy(self.val.labels).to(self.device)
        return {
            "weights": model.state_dict(),
            "config": config_dict(net.config),
            "classes": list(net.classes),
            "mean": list(net.mean),
            "std": list(net.std),
            **({"pixels": net.pixels.plain()} if net.pixels else {}),
            "parameters": net.parameters,
            "epoch": max(net.facts.epoch for net in nets),
            "val_accuracy": (logits.argmax(1) == labels).float().mean().item(),
            "selection": net.config.selection,
            "data": net.facts.data.plain(),
            "ancestors": plain_all(_distinct(ancestor for net in nets for ancestor in net.facts.ancestors)),
            "lineage": _distinct(line for net in nets for line in net.facts.lineage),
            "teachers": plain_all(_distinct(teacher for net in nets for teacher in net.facts.teachers)),
        }


def _distinct(values: Iterable[T]) -> list[T]:
    """Each of these once, in order."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def average_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each floating-point entry, taken in float64; what is counted in whole numbers is the first one's."""

    def mean(key: str, value: Tensor) -> Tensor:
        return torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)

    return {key: mean(key, value) if value.is_floating_point() else value.clone() for key, value in states[0].items()}


def _choose(averager: WeightAverager, nets: Sequence[Net], order: Sequence[int]) -> list[int]:
    """The members of a greedy soup, tried in this order."""
    taken, accuracy = [order[0]], nets[order[0]].facts.val_accuracy
    for index in order[1:]:
        tried = averager.average([nets[position] for position in [*taken, index]])["val_accuracy"]
        if tried >= accuracy:
            taken, accuracy = [*taken, index], tried
    return taken


def _check(runs: Sequence[Run], nets: Sequence[Net]) -> None:
    if len(nets) < 2:
        raise UserError(f"a soup needs at least two runs, or two kept checkpoints of one, got {len(nets)}")
    first, where = nets[0], _place(runs[0], nets[0])
    places = [_place(run, net) for run, net in zip(runs, nets, strict=True)]
    for number, (place, net) in enumerate(zip(places, nets, strict=True)):
        ours, theirs = (member.config.model.model_dump() for member in (net, first))
        if ours != theirs:
            shapes = differing(theirs, ours, "model.")
            raise CheckpointError(f"{where} and {place} are of different nets ({shapes}); only one shape can be averaged")
        if difference := _difference(first, net):
            raise CheckpointError(f"{where} and {place} differ in {difference}; runs of the same data and rules are needed")
        for earlier, other_net in zip(places[:number], nets, strict=False):
            if other_net.facts.weights_sha256 == net.facts.weights_sha256:
                raise CheckpointError(f"{earlier} and {place} hold the same weights; leave one out")


def _difference(first: Net, net: Net) -> str:
    """What keeps two nets of one shape from being averaged, in words; empty if nothing does."""
    if net.classes != first.classes:
        return f"classes: {differing_classes(first.classes, net.classes)}"
    if (net.mean, net.std) != (first.mean, first.std):
        said = [f"mean {_rounded(each.mean)}, std {_rounded(each.std)}" for each in (first, net)]
        return f"normalization: {said[0]} and {said[1]}; input.mean and input.std set one for all"
    if net.preprocess != first.preprocess:
        said = [f"{each.preprocess.side}x{each.preprocess.side} {each.preprocess.interpolation}" for each in (first, net)]
        return f"input size: {said[0]} and {said[1]}"
    if net.config.rules != first.config.rules:
        rules, others = (each.config.rules.model_dump() for each in (first, net))
        return f"rules: {differing(rules, others, 'rules.')}"
    if net.facts.data != first.facts.data:
        return f"data: {first.facts.data.unlike(net.facts.data)}"
    return ""


def _rounded(values: Sequence[float]) -> str:
    """A value for each channel, in as few digits as the eye needs."""
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def _facts(run: Run, net: Net, taken: bool) -> SoupMember:
    return SoupMember(
        name=net.config.name,
        seed=net.config.seed,
        run=run.name,
        parameters=net.facts.parameters,
        epoch=net.facts.epoch,
        val_accuracy=net.facts.val_accuracy,
        weights_sha256=net.facts.weights_sha256,
        config_sha256=net.facts.config_sha256,
        lineage=net.facts.lineage,
        taken=taken,
        test_readings=len(run.test_readings()),
        **({} if net.facts.checkpoint == "best" else {"checkpoint": net.facts.checkpoint}),
    )
