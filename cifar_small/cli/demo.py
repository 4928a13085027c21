"""The whole way on images that come with scikit-learn: budget, two nets, views, ensemble, submission, check, score."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifar_small.config.hashing import dump_config
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.schema import Config
from cifar_small.data import load_test, load_unlabelled, write_unlabelled
from cifar_small.errors import ConfigError, UserError
from cifar_small.evaluation.compare import compare
from cifar_small.evaluation.entries import Entry
from cifar_small.files import write_atomic
from cifar_small.inference.ensemble import combine
from cifar_small.inference.predict import predict
from cifar_small.reporting.comparison_tables import scores_table
from cifar_small.reporting.param_table import print_param_table
from cifar_small.reporting.tables import to_text
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.submission.submission_file import read_csv, submit
from cifar_small.training.train import train

MARKER = ".cifar_small_demo"
IMAGES, BUDGET = 360, 200_000
COMMON: dict[str, object] = {
    "rules": {"max_params": BUDGET, "rows": IMAGES},
    "data": {"source": "digits", "val_size": 200},
    "batch_size": 64,
    "optim": {"name": "sgd", "lr": 0.1, "weight_decay": 5.0e-4},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "augment": {"crop": 2, "flip": "none"},  # a mirrored digit is another sign
    "label_smoothing": 0.1,
    "views": "shift",
    "engine": {"threads": 1},  # nets this small are no faster on two, and much slower beside other work
}
NETS: dict[str, dict[str, object]] = {
    "demo_resnet": {
        "model": {"family": "resnet", "widths": [16, 32, 64], "blocks": [1, 1, 1], "strides": [2, 2, 2]},
        "phases": [{"epochs": 12}],
    },
    "demo_resnet_mixup": {
        "model": {"family": "resnet", "widths": [16, 32, 64], "blocks": [2, 1, 1], "strides": [2, 2, 2], "preact": True},
        "phases": [{"epochs": 9, "mixup_alpha": 0.2}, {"epochs": 3, "mixup_alpha": 0.0}],
    },
}
TOO_WIDE: dict[str, object] = {"model": {"family": "wideresnet", "depth": 10, "widen_factor": 3}, "phases": [{"epochs": 12}]}


def run_demo(folder: Path, command: str) -> None:
    """Write everything of the demonstration under `folder`, which a later demonstration replaces.

    Raises UserError for a folder that holds anything else.
    """
    started = time.monotonic()
    configs = _prepare(folder)
    images = load_test(COMMON_DATA)
    _step(1, "An unlabelled file, in the competition's format")
    shuffled = np.random.default_rng(0).permutation(len(images))
    file = folder / "digits_nolabel.pkl"
    write_unlabelled(file, images.images[shuffled], np.arange(len(images)))
    assert images.labels is not None
    withheld = images.labels[shuffled]
    print(f"{len(images)} handwritten digits, 32x32 RGB, labels withheld -> {file}")

    _step(2, "Which nets are legal? (cifar-small param_count CONFIG..., before training)")
    print_param_table(configs)
    for path in configs:
        if "too_wide" in path.stem:
            _show_refusal(path)

    _step(3, "Train two nets from scratch (cifar-small train --config ...)")
    runs = []
    for name in NETS:
        run = Run(folder / "runs" / name)
        train(_config(name, NETS[name]), run.folder, command=f"cifar-small train --config {folder}/configs/{name}.yaml")
        runs.append(run)

    _step(4, "Predict the file with test-time augmentation (cifar-small predict RUN --split submit --file ...)")
    for run in runs:
        target, _, notes = predict(run, "submit", file=file, command=command)
        for note in notes:
            print(f"note: {note}")
        print(f"{run.name} -> {target}")

    _step(5, "Ensemble by the mean of the logits (cifar-small ensemble A.npz B.npz --output ...)")
    members = [load_predictions(run.predictions / "submit.npz") for run in runs]
    joined_file = folder / "ensemble.npz"
    combine(members).save(joined_file)
    joined = load_predictions(joined_file)
    each = " + ".join(f"{member.meta.parameters:,}" for member in members)
    print(f"parameters {each} = {joined.meta.parameters:,} -> {joined_file}")

    _step(6, "Write the submission and validate it (cifar-small submit, cifar-small check)")
    output = folder / "submission" / "submission.csv"
    submit(joined, output, command=command)
    unlabelled, _ = load_unlabelled(file, rows=IMAGES)
    rules = _config("demo_resnet", NETS["demo_resnet"]).rules
    answers, faults = read_csv(output.read_bytes(), unlabelled.ids, joined.classes, rules)
    verdict = "; ".join(faults) or f"valid, {len(unlabelled)} rows"
    print(f"{output}: {verdict}; its record: {output.with_suffix('.json')}")

    _step(7, "Score it against the withheld labels")
    total = len(withheld)
    right = sum(answers.get(image) == label for image, label in zip(unlabelled.ids.tolist(), withheld.tolist(), strict=True))
    print(f"{right} of {total} right: {right / total:.2%}")

    _step(8, "Compare (with so few images, most differences are noise: look at the intervals)")
    named = [("ensemble", joined), *((run.name, member) for run, member in zip(runs, members, strict=True))]
    entries = [Entry(name, {"test": replace(one, labels=withheld)}) for name, one in named]
    print(to_text([scores_table(compare(entries, "test"))]))
    _goodbye(folder, runs, time.monotonic() - started)


def _prepare(folder: Path) -> list[Path]:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name an empty or new folder with --output")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise UserError(f"{folder} holds other files; name an empty folder with --output")
    if folder.exists():
        shutil.rmtree(folder)
    write_atomic(folder / MARKER, b"")
    paths = []
    for name, own in (NETS | {"demo_too_wide": TOO_WIDE}).items():
        path = folder / "configs" / f"{name}.yaml"
        write_atomic(path, dump_config(_config(name, own)).encode())
        paths.append(path)
    return paths


def _config(name: str, own: dict[str, object]) -> Config:
    return parse_config({"name": name, **COMMON, **own}, name)


COMMON_DATA = _config("demo_resnet", NETS["demo_resnet"]).data


def _show_refusal(path: Path) -> None:
    try:
        train(load_config(path), path.parent / "never")
    except ConfigError as error:
        print(f"cifar-small train --config {path} refuses: {error}")


def _step(number: int, title: str) -> None:
    print(f"\n{number}. {title}")


def _goodbye(folder: Path, runs: list[Run], seconds: float) -> None:
    program = "cifar-small" if shutil.which("cifar-small") else Path(sys.executable).with_name("cifar-small")
    print(f"""
Done in {seconds:.0f} s. Where everything is:
  {folder}/configs/                 the configs, resolved
  {runs[0].folder}/         a run: config.yaml env.json metrics.csv summary.json best.pt curves.png confusion.png predictions/
  {folder}/submission/              the CSV and the record of what made it

Next, on CIFAR-10 (170 MB, downloaded when first needed; or set CIFAR_SMALL_DATA to the folder that has it):
  {program} param_count
  {program} train --config resnet_hour
  {program} predict runs/resnet_hour-seed0 --split submit --file cifar_test_nolabel.pkl
  {program} submit runs/resnet_hour-seed0/predictions/submit.npz --output submissions/mine/submission.csv""")
