"""Runs on labelled stand-ins for other sources: which recipe is robust, not only accurate.

A set of shifted images is made once and cached; a run's predictions of it are a file of their own. So both can go on where
they stopped, and what estimates accuracy without labels can be held against the truth.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from cifar_small.config.hashing import recipe_hash
from cifar_small.data import Images
from cifar_small.data.evaluation_sets import SEVERITIES, corrupted_kinds, load_corrupted, load_pair
from cifar_small.data.images import SIDE
from cifar_small.data.readers import read_npy
from cifar_small.data.test_split import more_copies_than_chance, part_of
from cifar_small.environment import no_bar, resolve_device, resolve_precision
from cifar_small.errors import DataError, UserError
from cifar_small.files import sha256_bytes, write_atomic
from cifar_small.inference.predict import Net, load_own_splits, load_own_test, predict_images, views_or, write_predictions
from cifar_small.metrics.significance import holm, mean_difference, seed_difference
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import ShiftFacts, recipe_of
from cifar_small.transforms.shifts import KINDS, MCE_KINDS, VERSION, find_kind, shifted
from cifar_small.wording import differing_classes, plural

CLEAN = "clean"
SPLIT = "shift"  # of predictions of shifted images, so that nothing takes them for val or test


@dataclass(frozen=True)
class ShiftSet:
    """Labelled images of one shift: what they are, and how to have them."""

    facts: ShiftFacts
    load: Callable[[], Images]


@dataclass(frozen=True)
class ShiftMatrix:
    """Which predictions are right: by run and set, (N,) of the same images for all runs."""

    runs: tuple[str, ...]
    recipes: Mapping[str, tuple[str, int]]  # of each run, the name of its recipe and its seed
    sets: tuple[ShiftFacts, ...]
    correct: Mapping[tuple[str, str], npt.NDArray[np.bool_]]

    def accuracy(self, run: str, shift: ShiftFacts) -> float:
        """As a share."""
        return float(self.correct[run, shift.name].mean())

    def kinds(self) -> dict[str, list[ShiftFacts]]:
        """The severities of each kind, in order."""
        found: dict[str, list[ShiftFacts]] = {}
        for shift in self.sets:
            found.setdefault(shift.kind, []).append(shift)
        return found


def load_base(nets: Sequence[Net], split: Literal["val", "test"], count: int | None) -> Images:
    """The labelled images that shifts are made from: val, the same of all runs, or test; count: a stratified part of them.

    Raises UserError where the runs hold out different images.
    """
    first = nets[0].facts.data
    for net in nets:
        if net.classes != nets[0].classes or net.facts.data.sha256 != first.sha256:
            raise UserError(f"{net.config.name} was trained on other data than {nets[0].config.name}; expected the same data")
        if split == "val" and net.facts.data.val_sha256 != first.val_sha256:
            raise UserError(
                f"{net.config.name} and {nets[0].config.name} hold out different val images; expected the same of all runs"
            )
    if nets[0].stored != SIDE:
        side = nets[0].stored
        raise UserError(
            f"{nets[0].config.name} was trained on pictures read at {side}x{side}; shifts are of 32x32 "
            "images: expected a run whose input.size is 32"
        )
    base = load_own_test(nets[0]) if split == "test" else load_own_splits(nets[0])[1]
    return _part(base, count)


def _part(images: Images, count: int | None) -> Images:
    """A stratified part of labelled images, the same for the same labels; None: all of them. Raises UserError."""
    if count is None or count == len(images):
        return images
    if not len(images.classes) <= count < len(images):
        raise UserError(
            f"{count:,} images of {len(images):,}; expected {len(images.classes)} to {len(images):,}", remedy="images"
        )
    return part_of(images, count)


def made_sets(
    base: Images, split: str, kinds: Sequence[str] | None, severities: Sequence[int] | None, seed: int, cache: Path
) -> list[ShiftSet]:
    """The images as they are, then each kind at each severity, made when first loaded and cached. Raises UserError.

    kinds, severities: None: all; a kind that has no such severity is left out.
    """
    if unknown := [one for one in severities or () if not 1 <= one <= SEVERITIES]:
        raise UserError(f"there is no severity {unknown[0]}; expected 1 to {SEVERITIES}")
    facts = [ShiftFacts(kind=CLEAN, severity=0, family=CLEAN, base=split, base_sha256=base.sha256, seed=seed, version=VERSION)]
    for kind in kinds or KINDS:
        known = find_kind(kind)
        chosen = [one for one in severities or range(1, known.severities + 1) if one <= known.severities]
        facts += [facts[0].updated(kind=kind, severity=one, family=known.family) for one in chosen]
    if len(facts) == 1:
        raise UserError(f"no kind has a severity of {', '.join(map(str, severities or ()))}; expected 1 to 5")
    return [ShiftSet(one, _maker(base, one, cache)) for one in facts]


def _maker(base: Images, facts: ShiftFacts, cache: Path) -> Callable[[], Images]:
    def load() -> Images:
        if facts.kind == CLEAN:
            return base
        key = sha256_bytes(repr(sorted(facts.plain().items())).encode())[:12]
        path = cache / f"{facts.name}-{key}.npy"
        if (kept := _kept(path, base.images.shape)) is not None:
            return replace(base, images=kept, source=f"{base.source} {facts.name}")
        pixels = shifted(facts.kind, facts.severity, base.images, facts.seed)
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        write_atomic(path, buffer.getvalue())
        return replace(base, images=pixels, source=f"{base.source} {facts.name}")

    return load


def _kept(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The images of a file of the cache; None where it is missing or damaged, so that it has to be made."""
    try:
        pixels = read_npy(path) if path.exists() else None
    except DataError:
        return None
    return pixels if pixels is not None and pixels.shape == shape and pixels.dtype == np.uint8 else None


def official_sets(
    folder: Path,
    classes: tuple[str, ...],
    severities: Sequence[int] | None,
    kinds: Sequence[str] | None = None,
    count: int | None = None,
) -> list[ShiftSet]:
    """The kinds in a folder of CIFAR-10-C, or those of them that are asked for; count: a stratified part of their images.

    Raises UserError for a severity that there is not.
    """
    sets = []
    if unknown := [one for one in severities or () if not 1 <= one <= SEVERITIES]:
        raise UserError(f"there is no severity {unknown[0]}; CIFAR-10-C has 1 to {SEVERITIES}")
    for kind in corrupted_kinds(folder):
        if kinds is not None and kind not in kinds:
            continue
        family = KINDS[kind].family if kind in KINDS else "other"
        for severity in severities or range(1, SEVERITIES + 1):
            load = partial(_official, folder, kind, severity, classes, count)
            facts = ShiftFacts(kind=kind, severity=severity, family=family, base="files", base_sha256=load().sha256)
            sets.append(ShiftSet(facts, load))
    return sets


def _official(folder: Path, kind: str, severity: int, classes: tuple[str, ...], count: int | None) -> Images:
    return _part(load_corrupted(folder, kind, severity, classes), count)


def pair_set(argument: str, classes: tuple[str, ...]) -> ShiftSet:
    """`NAME=FILE.npz` or `NAME=IMAGES.npy,LABELS.npy` as a set. Raises UserError or DataError."""
    name, equals, rest = argument.partition("=")
    paths = [Path(part) for part in rest.split(",")]
    if not equals or not name.replace("_", "").replace(".", "").isalnum() or len(paths) > 2:
        raise UserError(f"{argument!r} names no labelled set; expected NAME=FILE.npz or NAME=IMAGES.npy,LABELS.npy")
    if name == CLEAN or name in KINDS:
        raise UserError(f"{argument!r}: {name} is a kind of shift already; give the set another name")
    images = load_pair(paths[0], paths[1] if len(paths) == 2 else None, classes)
    facts = ShiftFacts(kind=name, severity=0, family="source", base="files", base_sha256=images.sha256)
    return ShiftSet(facts, lambda: images)


def check_pair(net: Net, one: ShiftSet, split: str) -> None:
    """Refuse a pair that holds images which the net has trained on or chosen with, or test images whose use is not recorded.

    Raises DataError and UserError.
    """
    images, (train, val) = one.load(), load_own_splits(net)
    kind, count = one.facts.kind, plural(len(images), "image")
    if copies := more_copies_than_chance(images, train, val):
        raise DataError(
            f"{kind}: {copies:,} of {count} are among those that {net.config.name} was trained or selected on, pixel by pixel; "
            "expected images that it never saw"
        )
    if split == "test":
        return
    try:
        test = load_own_test(net)
    except DataError:  # where none is at hand
        return
    if copies := more_copies_than_chance(images, test):
        raise UserError(
            f"{kind}: {copies:,} of {count} are of the test split, and the runs' records have to say so", remedy="split=test"
        )


def predict_shifts(
    runs: Sequence[tuple[Run, Net]],
    sets: Sequence[ShiftSet],
    folder: Path,
    *,
    views: str | None = None,
    precision: str | None = None,
    command: str = "",
    overwrite: bool = False,
) -> ShiftMatrix:
    """Predict every set with every run into `folder`/RUN/SET.npz; what lies there already is taken as it is.

    precision: fp32 or bf16 (None: as the config says); nets that are ONNX files have their own. Test images read for it are
    recorded in each run's directory. Raises UserError where a file is of something else.
    """
    names = [run.name for run, _ in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two run directories are called {twice[0]}; rename one")
    correct: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
    with tqdm(total=len(runs) * len(sets), unit="set", disable=no_bar()) as bar:
        for one in sets:
            bar.set_description(one.facts.name)
            images: Images | None = None
            for name, (run, net) in zip(names, runs, strict=True):
                path, chosen = folder / name / f"{one.facts.name}.npz", views_or(net.config, views)
                known = None if overwrite or not path.exists() else _known(path, one.facts, net, chosen, precision)
                if known is None:
                    images = images or one.load()
                    known = _predict(run, net, images, one.facts, chosen, precision, path, command)
                correct[name, one.facts.name] = known.correct
                bar.update()
    return ShiftMatrix(tuple(names), _recipes(names, runs), tuple(one.facts for one in sets), correct)


def _recipes(names: Sequence[str], runs: Sequence[tuple[Run, Net]]) -> dict[str, tuple[str, int]]:
    """The recipe of each run, by the name of its config, and its seed; other recipes under one name are told apart."""
    first: dict[str, str] = {}  # the recipe that has each name
    called: dict[str, str] = {}
    recipes = [recipe_hash(net.config) + (recipe_of(run.record()) if run.summary() else "") for run, net in runs]
    for name, recipe, (_, net) in zip(names, recipes, runs, strict=True):
        title = net.config.name
        mine = first.setdefault(title, recipe) == recipe
        called.setdefault(recipe, title if mine else f"{title} of {name}")
    return {name: (called[recipe], net.config.seed) for name, recipe, (_, net) in zip(names, recipes, runs, strict=True)}


def _known(path: Path, facts: ShiftFacts, net: Net, views: str, precision: str | None) -> Predictions:
    """Predictions made before. Raises UserError where they are of other weights, views or images."""
    found = load_predictions(path)
    meta = found.meta
    onnx = (meta.onnx and meta.onnx.sha256, net.onnx and net.onnx.sha256)
    engine = net.config.engine
    precision = precision or resolve_precision(engine.precision, resolve_device(engine.device))
    differs = [
        what
        for what, same in (
            ("weights", meta.weights_sha256 == net.facts.weights_sha256),
            ("views", meta.views == views),
            ("images", meta.shift == facts),
            ("form of the net", onnx[0] == onnx[1]),
            ("precision", net.onnx is not None or meta.precision == precision),
        )
        if not same
    ]
    if differs:
        raise UserError(f"{path} was predicted with other {', '.join(differs)}; choose another folder", remedy="overwrite")
    return found


def _predict(
    run: Run, net: Net, images: Images, facts: ShiftFacts, views: str, precision: str | None, path: Path, command: str
) -> Predictions:
    if images.classes != net.classes:
        raise DataError(f"{images.source} and {run.folder}, as trained, have {differing_classes(images.classes, net.classes)}")
    made = predict_images(net, images, views, precision=precision)
    made = made.with_meta(split=SPLIT, shift=facts, run=run.name, command=command)
    write_predictions(run, made, path, reads_test=facts.kind == CLEAN and facts.base == "test")
    return made


def load_matrix(folder: Path) -> Iterator[tuple[str, Predictions]]:
    """The predictions in a folder that `predict_shifts` wrote, with the name of the run. Raises DataError where it has none."""
    paths = sorted(folder.glob("*/*.npz"))
    found = 0
    for path in paths:
        predictions = load_predictions(path)
        if predictions.meta.shift is not None and predictions.labels is not None:
            found += 1
            yield path.parent.name, predictions
    if not found:
        raise DataError(f"{folder} has no predictions of shifted images; expected RUN/KIND-SEVERITY.npz as shift writes them")


def mean_error(matrix: ShiftMatrix, run: str) -> float | None:
    """The mean over `MCE_KINDS` of the mean error over their severities; None where a kind is missing. 0 to 1.

    Source: Hendrycks & Dietterich (2019), without their division by another net's errors.
    """
    known = matrix.kinds()
    errors = [np.mean([1 - matrix.accuracy(run, shift) for shift in known[kind]]) for kind in MCE_KINDS if kind in known]
    return float(np.mean(errors)) if len(errors) == len(MCE_KINDS) else None


@dataclass(frozen=True)
class ShiftTest:
    """Two recipes on one kind of shift; differences are the second minus the first, as shares, mean over severities."""

    kind: str
    first: str
    second: str
    difference: float
    low: float  # of the 95 % interval
    high: float
    p: float
    p_holm: float  # corrected for all tests of the matrix
    by: str  # what varies: seeds, or the images of two single runs


def recipe_runs(matrix: ShiftMatrix) -> dict[str, dict[int, str]]:
    """The run of each seed of each recipe, in the order given; runs of one recipe and seed stay apart under their own names."""
    found: dict[str, dict[int, str]] = {}
    for run in matrix.runs:
        recipe, seed = matrix.recipes[run]
        if seed in found.get(recipe, {}):
            recipe = run
        found.setdefault(recipe, {})[seed] = run
    return found


def recipe_tests(matrix: ShiftMatrix) -> list[ShiftTest]:
    """Each recipe against the first on every kind: over their seeds where both have two or more, else over the images.

    Over seeds: Student's t, paired where both have the same seeds. Over images: of each image's share of severities it is right
    at, since the severities of one image are no independent images.
    """
    recipes = recipe_runs(matrix)
    first, *others = recipes
    tests = []
    for second in others:
        for kind, shifts in matrix.kinds().items():
            pair = (recipes[first], recipes[second])
            found: tuple[float, float, float, float] | None
            if min(len(runs) for runs in pair) > 1:
                shared = pair[0].keys() == pair[1].keys()
                means = [
                    [float(np.mean([matrix.accuracy(runs[seed], one) for one in shifts])) for seed in sorted(runs)]
                    for runs in pair
                ]
                found, by = seed_difference(*means, paired=shared), "the same seeds" if shared else "seeds"
            else:
                right = [
                    np.mean([np.mean([matrix.correct[run, one.name] for one in shifts], 0) for run in runs.values()], 0)
                    for runs in pair
                ]
                found, by = mean_difference(right[1] - right[0]), "images"
            if found is not None:
                tests.append(ShiftTest(kind, first, second, *found, found[3], by))
    return [replace(test, p_holm=p) for test, p in zip(tests, holm([test.p for test in tests]), strict=True)]
