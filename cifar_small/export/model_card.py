"""The model card of an exported net: README.md as the Hugging Face hub reads it, every number from the run's own records."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_small.config.hashing import config_dict
from cifar_small.config.own_code import files_of
from cifar_small.config.schema import SOURCES
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.data.images import SIDE
from cifar_small.data.test_split import is_official
from cifar_small.inference.predict import Net
from cifar_small.metrics.classification import wilson_interval
from cifar_small.models.counting import footprint
from cifar_small.runs.directory import Run
from cifar_small.runs.lineage import foreign_lineage, start_of
from cifar_small.runs.records import TestReading, extension_of, members_were_chosen, readings_of
from cifar_small.wording import command_line, plural

TITLES: dict[str, str] = {name: facts.title for name, facts in SOURCES.items() if facts.title}
HUB_DATASETS: dict[str, str] = {name: facts.hub for name, facts in SOURCES.items() if facts.hub}

USE = """\
With the package cifar_small, in the folder of this card{trust}:

```python
from cifar_small.data import load_unlabelled
from cifar_small.export.weights_folder import load_exported
from cifar_small.inference.predict import predict_images

images, _ = load_unlabelled("images.npz"{read})  # data: uint8 (N, 32, 32, 3), RGB; ids; or a pickle, a folder of PNGs
print(predict_images(load_exported("."), images, views="{views}").predicted)
```

With torch alone (written by torch {torch}):

```python
import torch

net = torch.export.load("model.pt2").module()
images = torch.randint(0, 256, (4, 3, {side}, {side}), dtype=torch.uint8)  # RGB, 0 to 255: normalization is part of the net
print(net(images).argmax(1))  # places in the list of classes
```
"""


@dataclass(frozen=True)
class Accuracy:
    """One measured accuracy of these very weights."""

    split: str  # val or test
    views: str
    value: float
    images: int
    of: str = ""  # which images, where the split alone does not say it
    official: bool | None = None  # are they the official test split? None: not known

    @property
    def text(self) -> str:
        """Accuracy with n, Wilson's interval and views, in words."""
        low, high = wilson_interval(round(self.value * self.images), self.images)
        return f"{self.value:.2%} of {self.images:,} images, 95 % interval {low:.2%} to {high:.2%}, views {self.views}{self.of}"


def accuracies(net: Net, run: Run) -> list[Accuracy]:
    """What the run's records say of these weights: val, then the latest reading of test with each choice of views."""
    summary, weights = run.summary(), net.facts.weights_sha256
    if summary is not None and summary.weights_sha256 == weights:
        val = Accuracy("val", summary.views, summary.val_accuracy, summary.val_images)
    else:
        val = Accuracy("val", "none", net.facts.val_accuracy, net.config.data.val_size)
    onnx = net.onnx.sha256 if net.onnx else None
    named = [reading for reading in run.test_readings() if reading.weights_sha256 is not None]  # others may be of any weights
    whole_last = sorted(readings_of(named, weights, onnx), key=lambda reading: reading.images)  # one may be of a part
    readings = {reading.views: reading for reading in whole_last}
    return [val, *(_test_accuracy(net, views, reading) for views, reading in readings.items())]


def _test_accuracy(net: Net, views: str, reading: TestReading) -> Accuracy:
    """A reading of test, and what the hash of its images says of them."""
    found = reading.images_sha256
    official = None if found is None else is_official(net.facts.data.sha256 if net.facts.data else None, found)
    words = {
        True: "; the official test split, by the hash of its images",
        False: f"; NOT the official test split: its images have the SHA-256 {found}",
        None: f"; SHA-256 of the images {found}" if found else "; the images' hash was not recorded",
    }
    return Accuracy("test", views, reading.accuracy, reading.images, words[official], official)


def model_card(net: Net, run: Run) -> str:
    """The text of README.md: front matter, figures, how to load, how it was trained. What was not measured is said to be so."""
    config, found = net.config, accuracies(net, run)
    read = "" if net.stored == SIDE else f", side={net.stored}"
    own = ", ".join(f"`{name}`" for name in files_of(config_dict(config)))
    trust = f" (its code is {own}: read it, and if you trust it, run `{command_line('param_count', 'config.yaml')}` first)"
    use = USE.format(trust=trust if own else "", views=config.views, torch=torch.__version__, read=read, side=net.stored)
    sections = [
        f"---\n{dump_yaml(_front_matter(net, found))}---",
        f"# {config.name}, seed {config.seed}",
        _introduction(net),
        _figures(net, run, found),
        f"## Use\n\n{use}".rstrip(),
        _training(net, run),
        "## Limits\n\nMeasured on the splits named above and on nothing else: not on other data or corrupted images; neither "
        "calibration nor fairness. No license is stated; whoever publishes these weights has to.",
    ]
    home = str(Path.home()).rstrip("/")  # "/" itself, as of users without a home, would be every slash
    text = "\n\n".join(sections)
    return (re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", text) if home else text) + "\n"


def _front_matter(net: Net, found: list[Accuracy]) -> dict[str, object]:
    source, family = net.config.data.source, net.config.model.family
    dataset = HUB_DATASETS.get(source)
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {
                "name": f"{TITLES.get(source, source)}, {score.split}",
                "type": dataset or source,
                "split": "train" if score.split == "val" else "test",  # val was held out of the training part
            },
            "metrics": [
                {
                    "type": "accuracy",
                    "value": score.value,
                    "name": f"accuracy of {score.images:,} images, views {score.views}",
                }
            ],
        }
        for score in found
        if score.official is not False
    ]
    return {
        "library_name": "cifar_small",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "pytorch", "safetensors", "parameter-budget", source, family],
        **({"datasets": [dataset]} if dataset else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": net.config.name, "results": results}],
    }


def _introduction(net: Net) -> str:
    config = net.config
    title = TITLES.get(config.data.source, f"images of a {config.data.source} source")
    known = ", ".join(map(str, net.facts.lineage))
    own = f"trained from scratch{f' in steps (first {known})' if known else ''}"
    words = {"scratch": own, "pretrained": f"started from {known}"}
    size = f"{net.stored}x{net.stored}"
    origin = words.get(start_of(foreign_lineage(net.facts)), f"trained from scratch, with what it learned of {known},")
    return (
        f"A {config.model.family} for {size} RGB images of {len(net.classes)} classes, {origin} on {title}.\n\n"
        f"Classes, in the order of the logits: {', '.join(net.classes)}."
    )


def _figures(net: Net, run: Run, found: list[Accuracy]) -> str:
    budget, chosen = net.config.rules.max_params, net.facts.selection == "best" and net.facts.checkpoint == "best"
    rows = [
        ("trainable parameters", f"{net.parameters:,}; {budget - net.parameters:,} below the budget of {budget:,}"),
        ("multiply-adds of one image", f"{footprint(net.config.model, len(net.classes), net.config.side).macs:,}"),
        ("weights", _weights(net)),
    ]
    tried = members_were_chosen(net.facts.soup)
    optimistic = "its members, so optimistic" if tried else "the epoch, so slightly optimistic" if chosen else ""
    for accuracy in found:
        note = f" (val chose {optimistic})" if optimistic and accuracy.split == "val" else ""
        rows.append((f"accuracy on {accuracy.split}", accuracy.text + note))
    readings = run.test_readings()
    if len(found) == 1:
        rows.append(("accuracy on test", "not measured: the test split was not read with these weights"))
    rows.append(("readings of test in this run", f"{len(readings)}, with any of its weights and in any form"))
    if (summary := run.summary()) is not None and summary.soup:
        before = "not recorded" if summary.readings_before is None else str(summary.readings_before)
        rows.append(("readings of test before, in the runs averaged here", before))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _weights(net: Net) -> str:
    facts = net.facts
    if facts.soup:
        taken = [one.label(folder=True) for one in facts.soup if one.taken]
        return f"the mean of {len(taken)} nets: {'; '.join(taken)}; BatchNorm's statistics were taken anew"
    which = {"best": "the last" if facts.selection == "last" else "the best on val", "final": "the last"}
    text = f"{facts.checkpoint}.pt of the run, after epoch {facts.epoch}"
    if facts.checkpoint in which:
        text += f", {which[facts.checkpoint]}"
    if net.config.ema_decay is not None:
        warmup = " after a warm-up" if net.config.ema_warmup else ""
        text += f"; an exponential average over steps, decay {net.config.ema_decay:g}{warmup}"
    elif facts.averaged:
        text += f"; the mean of the weights after {facts.averaged} epochs (SWA)"
    return text


def _training(net: Net, run: Run) -> str:
    config, data, sessions, summary = net.config, net.facts.data, run.sessions(), run.summary()
    images = f"{data.train_limit:,} images" if data.train_limit is not None else "all images"
    title = TITLES.get(data.source, data.source)
    commands = dict.fromkeys(session.command for session in sessions if session.command)
    hardware = dict.fromkeys(f"{session.hardware}, {plural(session.processes, 'process', 'processes')}" for session in sessions)
    packages = ", ".join(f"{name} {version}" for name, version in _versions(run).items())
    early = f", {summary.ended_early}" if summary and summary.ended_early else ""
    time = "not recorded: the run has not ended"
    if summary is not None:
        time = f"{summary.seconds:,.0f} s for {summary.epochs_trained:g} epochs{early}"
    lines = [
        f"- data: {images} of the training part of {title} but the {config.data.val_size:,} held out as val "
        f"(SHA-256 of the data {data.sha256}, of val's indices {data.val_sha256})",
        (
            "- recipe of what was averaged: `config.yaml`"
            if net.facts.soup
            else f"- recipe: `config.yaml`; to train by it again: `{command_line('train', config='config.yaml')}`"
        )
        + (f"; but this run was {extended}, which bent its schedule" if (extended := extension_of(sessions)) else ""),
        f"- hardware: {'; then '.join(hardware) or 'not recorded'}",
        f"- time, with evaluation and pictures: {time}",
        f"- versions: {packages or 'not recorded'}",
    ]
    shown = "\n".join(commands) or "(not recorded: started from Python)"
    return "## Training\n\n" + "\n".join(lines) + f"\n\nCommand:\n\n```\n{shown}\n```"


def _versions(run: Run) -> dict[str, str]:
    """The versions of the session that ended the run."""
    sessions = run.sessions()
    if not sessions:
        return {}
    last = sessions[-1]
    commit = {"commit": last.commit + (" with changes" if last.dirty else "")} if last.commit else {}
    names: tuple[str, ...] = ("torch", "torchvision", "albumentations")
    packages = {name: last.packages[name] for name in names if name in last.packages}
    return {"cifar_small": str(last.cifar_small), **commit, "Python": str(last.python), **packages}
