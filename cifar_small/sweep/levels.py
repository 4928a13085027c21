"""Two published reports on transfer learning, level by level.

A level is a list of this program's own commands, which are called one after the other. Each is printed first, so that it can be
repeated or changed by hand.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cifar_small.config.loading import load_config
from cifar_small.config.published import PUBLISHED
from cifar_small.config.schema import Config
from cifar_small.config.shipped import find_config
from cifar_small.errors import ConfigError, UserError
from cifar_small.evaluation.compare import epochs_text
from cifar_small.evaluation.entries import SPLITS, EntryRow, collect_rows, load_entries
from cifar_small.files import write_atomic
from cifar_small.inference.onnx_session import require_extra
from cifar_small.models.counting import check_budget
from cifar_small.models.pretrained import locate
from cifar_small.reporting.comparison_tables import score_text
from cifar_small.reporting.tables import Table, to_markdown
from cifar_small.runs.directory import Run
from cifar_small.runs.records import NetFacts

Call = Callable[[Sequence[str]], int]  # runs a command line and returns its exit code
CONFIGS = Path("configs/levels")  # in any folder: these are shipped
CLASSES = 10
SMOKE = {  # a few hundred images that come with scikit-learn, at 64 px, from random weights
    "weights": "null",
    "input.size": "64",
    "data": "{source: digits, val_size: 100, train_limit: 200}",
    "rules.rows": "null",
    "batch_size": "20",
}


@dataclass(frozen=True)
class PlannedRun:
    """One training of a level's config."""

    claimed: str  # test accuracy in %, as the report gives it
    settings: tuple[str, ...] = ()  # changes of the level's config: key, value, ...; {NAME} is the directory of that run


@dataclass(frozen=True)
class PlannedEnsemble:
    """An ensemble of several runs, by a method of `cifar-small ensemble`."""

    claimed: str
    method: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Level:
    """What a level trains, combines and evaluates."""

    title: str
    runs: Mapping[str, PlannedRun]
    beside: tuple[str, ...] = ()  # runs of earlier levels that it is compared with
    ensembles: Mapping[str, PlannedEnsemble] = field(default_factory=dict)
    views: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)  # a name for a run with other views; and the claim
    steps: tuple[str, ...] = ()  # further commands; {NAME}: the directory of that run, {here}: the level's folder


NO_AUGMENTATION = ("augment", "{{crop: 0, flip: none}}")
POLICY_ALONE = (  # level 1's recipe with RandAugment and nothing else of level 2
    *(
        "augment",
        "{{crop: 4, pad: reflect, flip: random, brightness: 0.2, contrast: 0.2, saturation: 0.2, policy: randaugment}}",
    ),
    *("label_smoothing", "0", "phases.1.mixup_alpha", "0", "phases.1.cutmix_alpha", "0", "phases.1.epochs", "15"),
)
LADDERS: dict[str, dict[int, Level]] = {
    "resnet18_ladder": {
        1: Level("A new head for an ImageNet ResNet18", {"baseline": PlannedRun("93.91")}),
        2: Level(
            "AdamW, cosine and label smoothing, without and with augmentation",
            {"plain": PlannedRun("95.04", NO_AUGMENTATION), "augmented": PlannedRun("95.84")},
        ),
        3: Level("Attention to the feature map", {"attention": PlannedRun("95.51")}, beside=("augmented",)),
        4: Level(
            "A soft vote of ResNet18 and EfficientNet-B0",
            {"efficientnet_b0": PlannedRun("97.16")},
            beside=("augmented",),
            ensembles={"soft_vote": PlannedEnsemble("97.27", "logits", ("augmented", "efficientnet_b0"))},
        ),
        5: Level(
            "A small student, int8, latency and uncertainty",
            {"student": PlannedRun("88.35", ("distill.teachers", "[{efficientnet_b0}]"))},
            beside=("efficientnet_b0",),
            steps=(
                "quantize {student} --backend dynamic",
                "bench {student} --dynamic --rounds {rounds} --seconds {seconds} --output {here}/latency.md --overwrite",
                "uncertainty {student} --passes {passes} --output {here}/uncertainty --overwrite",
            ),
        ),
    },
    "resnet50_ladder": {
        1: Level("ResNet50, first its head, then everything", {"resnet50": PlannedRun("96.34")}),
        2: Level(
            "RandAugment, then mixing, then views",
            {"randaugment": PlannedRun("96.56", POLICY_ALONE), "mixed": PlannedRun("96.56")},
            beside=("resnet50",),
            views={"mixed_views": ("mixed", "flip_shift", "96.88")},
        ),
        3: Level("EfficientNet-B2 at 144 px", {"efficientnet_b2": PlannedRun("96.20")}, beside=("resnet50",)),
        4: Level(
            "A majority vote with ConvNeXt-Tiny, and the soft vote it should have been",
            {"convnext_tiny": PlannedRun("98.48")},
            beside=("resnet50", "efficientnet_b2"),
            ensembles={
                "vote": PlannedEnsemble("97.58", "vote", ("resnet50", "efficientnet_b2", "convnext_tiny")),
                "soft_vote": PlannedEnsemble("", "probabilities", ("resnet50", "efficientnet_b2", "convnext_tiny")),
            },
        ),
    },
}


# EfficientNet-Lite in place of nets whose weights cannot be had; members of one vote get different ones.
STAND_INS: dict[str, dict[str, str]] = {
    "resnet18_ladder": {
        "timm/resnet18": "timm/tf_efficientnet_lite0",
        "timm/efficientnet_b0": "timm/tf_efficientnet_lite2",
        "timm/mobilenet_v3_small": "timm/tf_efficientnet_lite0",
    },
    "resnet50_ladder": {
        "timm/resnet50": "timm/tf_efficientnet_lite1",
        "timm/efficientnet_b2": "timm/tf_efficientnet_lite2",
        "timm/convnext_tiny": "timm/tf_efficientnet_lite0",
    },
}


@dataclass(frozen=True)
class Plan:
    """How the levels of a ladder are run."""

    ladder: str
    numbers: tuple[int, ...]
    output: Path
    configs: Path = CONFIGS
    weights: Path | None = None  # a folder of files for `weights: imagenet`
    smoke: bool = False
    test: bool = False  # also read the test split, once for each run
    overrides: tuple[tuple[str, str], ...] = ()  # of every run, by dotted key
    lite: bool = False  # EfficientNet-Lite in place of the report's nets

    @property
    def levels(self) -> dict[int, Level]:
        """Those that are run."""
        return {number: LADDERS[self.ladder][number] for number in self.numbers}

    def folder(self, number: int) -> Path:
        """Where everything of a level goes."""
        return self.output / f"{self.ladder}_level{number}"

    def config(self, number: int) -> Path:
        """The config of a level's runs."""
        return self.configs / f"{self.ladder}_level{number}.yaml"

    def names(self, number: int) -> dict[str, str]:
        """The values of the names in a level's commands."""
        runs = {
            run: str(self.folder(level_number) / run)
            for level_number, level in LADDERS[self.ladder].items()
            for run in level.runs
        }
        thorough = {"rounds": "5", "seconds": "0.3", "passes": "20"}
        quick = {"rounds": "1", "seconds": "0.02", "passes": "4"}
        return {**runs, **(quick if self.smoke else thorough), "here": str(self.folder(number))}


def run_levels(plan: Plan, call: Call) -> int:
    """Train and evaluate the levels in order; what is trained already stays. Returns 0, or the exit code of what failed.

    Raises UserError, before anything trains, for a missing config, library or file of weights, or an earlier level to be run.
    """
    _require_earlier(plan)
    if any("bench" in step for level in plan.levels.values() for step in level.steps):
        require_extra()
    training = {number: _training(plan, number) for number in plan.numbers}
    for number, level in plan.levels.items():
        print(f"\n{plan.ladder}, level {number}: {level.title}", flush=True)
        for line in [*training[number], *_evaluation(plan, number)]:
            print(f"$ {shlex.join(['cifar-small', *line])}", flush=True)
            if code := call(line):
                return code
    summary = plan.output / f"{plan.ladder}.md"
    write_atomic(summary, f"{to_markdown([levels_table(plan)])}\n".encode())
    print(f"\n{summary}: every run beside what the report claims of it")
    return 0


def _training(plan: Plan, number: int) -> list[list[str]]:
    """The command lines that train a level's runs. Raises ConfigError for what cannot be trained."""
    path, names, lines = plan.config(number), plan.names(number), []
    if not find_config(path).is_file():
        raise ConfigError(f"{path} does not exist; expected a folder with the configs of the levels", remedy="configs")
    for name, run in LADDERS[plan.ladder][number].runs.items():
        settings = [part.format_map(names) for part in run.settings]
        changes = dict(zip(settings[::2], settings[1::2], strict=True))
        if plan.lite:
            changes |= _stand_in(plan, load_config(path))
        changes |= (_smoke(load_config(path)) if plan.smoke else {}) | dict(plan.overrides)
        config = load_config(path, list(changes.items()))
        check_budget(config, CLASSES)  # which needs the net's library
        if config.weights == "imagenet" and plan.weights is not None:
            changes["weights"] = str(_file_of(config, plan.weights))
        elif config.weights == "imagenet" and not Run(names[name]).begun:
            locate(PUBLISHED[config.model.family])
        elif plan.weights is not None:
            raise ConfigError(
                f"a folder of ImageNet weights has no effect on {name}, whose weights are {config.weights or 'random'}"
            )
        output = ["--config", str(path), "--output", names[name], "--resume"]
        lines.append(["train", *output, *(part for key, value in changes.items() for part in (f"--{key}", value))])
    return lines


def _stand_in(plan: Plan, config: Config) -> dict[str, str]:
    """The settings that put EfficientNet-Lite in place of a config's net, at a size of its own unless one was asked for."""
    family = STAND_INS[plan.ladder].get(config.model.family)
    if family is None:
        known = ", ".join(STAND_INS[plan.ladder])
        raise ConfigError(f"no EfficientNet-Lite stands in for {config.model.family}; expected one of {known}")
    side = nearest_side(family, config.side)
    if side == config.side or "input" in dict(plan.overrides):  # one of input.size replaces this one
        return {"model.family": family}
    return {"model.family": family, "input.size": str(side)}


def nearest_side(family: str, side: int) -> int:
    """The size next to `side` at which an EfficientNet-Lite is padded as at its published size; the smaller of two as near.

    It is padded by the size that each layer sees and halves it five times, so these are 32 pixels apart.
    """
    return side + (PUBLISHED[family].size - side + 16) % 32 - 16


def _smoke(config: Config) -> dict[str, str]:
    return {**SMOKE, **{f"phases.{index}.epochs": "1" for index in range(len(config.phases))}}


def _file_of(config: Config, folder: Path) -> Path:
    """The file in a folder that holds the published weights of a config's net. Raises ConfigError that says how to name it."""
    if not folder.is_dir():
        raise ConfigError(f"the folder of weights {folder} does not exist; expected files such as resnet50.pth in it")
    published = PUBLISHED[config.model.family]
    library, _, net = published.family.partition("/")
    own = Path(published.source).name + (".safetensors" if published.on_hub else "")
    names = [own, *(f"{stem}{ending}" for stem in (f"{library}_{net}", net) for ending in (".safetensors", ".pth"))]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    listed = f"{', '.join(names[:-1])} or {names[-1]}"
    raise ConfigError(f"{folder} has no weights of {published.family}; expected a file called {listed}")


def _require_earlier(plan: Plan) -> None:
    """Raise ConfigError that names the levels to run first, where a level needs the runs of another."""
    for number, level in plan.levels.items():
        needed = {*level.beside, *(name for ensemble in level.ensembles.values() for name in ensemble.members)} - {*level.runs}
        for earlier, other in LADDERS[plan.ladder].items():
            missing = [run for run in other.runs if run in needed and not _is_done(plan.folder(earlier) / run)]
            if missing and not (earlier in plan.numbers and earlier < number):
                raise ConfigError(
                    f"level {number} of {plan.ladder} needs {', '.join(missing)} of level {earlier}, not found under "
                    f"{plan.output}; run level {earlier} first",
                    remedy=f"level={earlier}",
                )


def _is_done(folder: Path) -> bool:
    return Run(folder).summary_file.exists()


def _is_there(path: Path) -> bool:
    return path.is_file() or _is_done(path)


def _evaluation(plan: Plan, number: int) -> list[list[str]]:
    """The command lines that follow the training."""
    level, names, here = LADDERS[plan.ladder][number], plan.names(number), plan.folder(number)
    splits = SPLITS if plan.test else SPLITS[:1]
    lines = []
    for run in level.runs:
        for split in splits:
            predictions = Path(names[run]) / "predictions" / f"{split}.npz"
            if split == "test" and not predictions.exists():  # each reading of test is on record, so there is one
                lines.append(["predict", names[run], "--split", "test"])
            lines.append(["evaluate", str(predictions), "--output", str(here / f"{run}_{split}_evaluation"), "--overwrite"])
    for name, (run, views, _) in level.views.items():
        for split in splits:
            answers = here / f"{name}-{split}.npz"
            if split == "val" or not answers.exists():
                line = ["predict", names[run], "--split", split, "--views", views, "--output", str(answers)]
                lines.append(line + ["--overwrite"] * (split == "val"))
    for name, ensemble in level.ensembles.items():
        for split in splits:
            members = [f"{names[member]}/predictions/{split}.npz" for member in ensemble.members]
            target = str(here / f"{name}-{split}.npz")
            lines.append(["ensemble", *members, "--method", ensemble.method, "--output", target, "--overwrite"])
    lines += [[part.format_map(names) for part in shlex.split(step)] for step in level.steps]
    for split in splits:
        files = ["--output", str(here / f"comparison_{split}.md"), "--plot", str(here / f"comparison_{split}.png")]
        lines.append(["compare", *entries_of(plan, number), "--split", split, *files, "--overwrite"])
    return lines


def entries_of(plan: Plan, number: int) -> list[str]:
    """What a level compares, as `cifar-small compare` takes it: runs beside it, its own, and what they say together."""
    level, names, here = LADDERS[plan.ladder][number], plan.names(number), plan.folder(number)
    named = [f"{run}={names[run]}" for run in (*level.beside, *level.runs)]
    splits = SPLITS if plan.test else SPLITS[:1]
    return named + [f"{name}={here / f'{name}-{split}.npz'}" for name in (*level.views, *level.ensembles) for split in splits]


def levels_table(plan: Plan) -> Table:
    """A row for every run and ensemble of all levels that are there, with what the report claims of it."""
    header = (
        "level",
        "run",
        "claimed test %",
        "val %",
        "test %",
        "net",
        "parameters",
        "start",
        "data",
        "px",
        "epochs",
        "minutes",
    )
    rows = []
    for number, level in LADDERS[plan.ladder].items():
        claims = {name: run.claimed for name, run in level.runs.items() if _is_done(Path(plan.names(number)[name]))}
        claims |= {name: claim for name, (_, _, claim) in level.views.items()}
        claims |= {name: ensemble.claimed for name, ensemble in level.ensembles.items()}
        arguments = [one for one in entries_of(plan, number) if _is_there(Path(one.partition("=")[2]))]
        found = {entry.name: entry for entry in load_entries(arguments)} if arguments else {}
        for name, row in zip(found, collect_rows(found.values()), strict=True):
            if name in claims:
                sides = {str((part.config or {}).get("input", {}).get("size") or 32) for part in found[name].parts}
                nets = " + ".join(_net_text(plan, part) for part in found[name].parts)
                cells = _cells(row, nets, " + ".join(sorted(sides)))
                rows.append((str(number), name, claims[name], *cells))
    if not rows:
        raise UserError(f"no run of {plan.ladder} is done under {plan.output}")
    notes: tuple[str, ...] = (
        "claimed: by the report, on CIFAR-10's test images, from ImageNet weights",
        "val and test: in % with Wilson's 95 % interval; which differences are more than chance: comparison_val.md",
    )
    if any(" for timm/" in row[header.index("net")] for row in rows):
        notes += ("px: a stand-in takes the size nearest to the report's that it is padded at as trained, or input.size",)
    return Table(f"{plan.ladder}, level by level", header, tuple(rows), notes, plan.ladder)


def _net_text(plan: Plan, net: NetFacts) -> str:
    """A net of a row, and, where it stands in for the report's, which that is."""
    family = str((net.config or {}).get("model", {}).get("family"))
    for number, level in LADDERS[plan.ladder].items():
        if net.run in level.runs and find_config(plan.config(number)).is_file():
            original = load_config(plan.config(number)).model.family
            return f"{family} for {original}" if STAND_INS[plan.ladder].get(original) == family else family
    return family


def _cells(row: EntryRow, net: str, side: str) -> tuple[str, ...]:
    scores = [score_text(row.scores.get(split)) for split in SPLITS]
    minutes = "" if row.minutes is None else f"{row.minutes:.1f}"
    start = "; ".join(row.lineage) or "random weights"
    return (*scores, net, f"{row.parameters:,}", start, row.data, side, epochs_text(row.epochs), minutes)
