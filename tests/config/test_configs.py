"""Every file under configs/: it reads, its net is within its budget and has the parameters its header states, and it trains."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.augment import RECIPES as AUGMENTATIONS
from benchmarks.loops import Stopwatch, TrainerLoop, synthetic

from cifar_small.cli.options import split_overrides
from cifar_small.config.hashing import config_hash, recipe_hash
from cifar_small.config.loading import load_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.renamed import RECIPES
from cifar_small.config.schema import AlbumentationsAugment, Augment, Config, LibraryModel
from cifar_small.models.counting import check_budget, footprint
from cifar_small.transforms.per_image import build_transform

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
CONFIGS = [path for path in FILES if not re.search(r"^config: ", path.read_text(), re.MULTILINE)]  # the others are sweeps
PUBLISHED = [path for path in CONFIGS if path.parent.name == "published"]
RECORDS = [path for path in sorted((ROOT / "submissions").rglob("*.json")) if "run" in json.loads(path.read_text())]
LARGE = 300e6  # multiply-adds of an image
BATCH, STEPS = 4, 2


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def classes_of(config: Config) -> int:
    classes = config.data.num_classes
    assert classes is not None
    return classes


def test_all_kinds_of_configs_are_found() -> None:
    assert {path.parent.name for path in CONFIGS} == {"configs", "levels", "published", "robust", "speed", "sweeps", "transfer"}
    assert len(PUBLISHED) >= 12
    assert {path.stem for path in CONFIGS if path.parent.name == "configs"} >= {
        "resnet_hour", "resnet_5m", "resnet_5m_cifar100", "wrn_5m", "wrn_28_10_cifar100", "smoke",
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_builds_within_its_budget(path: Path) -> None:
    config, text = load_config(path), path.read_text()
    count = check_budget(config, classes_of(config))  # which raises for a net over its rules' budget
    stated = re.search(r"^# parameters:? +([\d,]+)", text, re.MULTILINE | re.IGNORECASE)
    assert stated is not None
    assert int(stated[1].replace(",", "")) == count
    assert config.name == path.stem
    if path.parent.name != "sweeps":
        assert f"cifar-small train --config {named(path)}\n" in text
    for phase in resolve_phases(config):
        if not isinstance(phase.settings.augment, Augment):
            build_transform(phase.settings.augment)
    for mentioned in re.findall(r"configs/[\w./*-]+\.yaml", text):
        assert list(ROOT.glob(mentioned)), f"{mentioned} is not there"


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_trains_two_steps_in_every_phase(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real net at its full width, random images in batches of 4; a large net sees them at 8x8, or it would take minutes."""
    monkeypatch.setattr("cifar_small.training.build.require_space", lambda run, needed: None)  # nothing is saved here
    config = load_config(path)
    changes = {"batch_size": BATCH, "engine.device": "cpu", "engine.precision": "fp32", "engine.threads": 1}
    if config.engine.micro_batch_size:
        changes["engine.micro_batch_size"] = BATCH // 2
    if footprint(config.model, classes_of(config), config.side).macs > LARGE:
        changes["resolution"] = 32 if isinstance(config.model, LibraryModel) else 8
    if config.weights is not None:
        changes["weights"] = "null"  # which are not there either
    if config.distill is not None:
        changes["distill"] = "null"  # its teachers are other runs, which are not there
    config = load_config(path, [(key, str(value)) for key, value in changes.items()])
    ours = TrainerLoop(synthetic(config, STEPS * BATCH, tmp_path), tmp_path)
    trainer, model = ours.trainer, ours.trainer.state.model
    assert (trainer.steps, len(trainer.data.classes)) == (STEPS, classes_of(config))
    for phase in trainer.resolved.phases:
        ours.phase, trainer.state.epoch = phase, phase.start
        trainer.enter_phase(phase)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        ours.run(Stopwatch(ours.device, STEPS - 1))  # raises DivergedError for what is not finite
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter).all(), name
            moved = not torch.equal(parameter, before[name])
            assert moved or parameter.ndim == 1 or not parameter.requires_grad, name
            assert parameter.requires_grad or not moved, name


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_configs_carry_their_record(path: Path) -> None:
    text = path.read_text()
    for word in ("Purpose", "Source", "Command", "Parameters", "Claimed by that report", "Ours", "Beside it"):
        assert re.search(rf"^# {word}: +\S", text, re.MULTILINE), word
    for word in ("As in the report", "Different"):
        assert re.search(rf"^# {word}: +\S", text, re.MULTILINE), word
    ours = re.search(r"^# Ours: +(.*?)^# Beside", text, re.MULTILINE | re.DOTALL)
    assert ours is not None
    names = {RECIPES.get(name, name) for name in (recorded(record)["summary"]["name"] for record in RECORDS)}
    assert ("n = " in ours[1]) == (path.stem in names)  # a figure of ours is one of the records'
    assert path.stem in names or ours[1] == "not run\n"
    beside = re.search(r"^# Beside it: +(.*?)^#\n", text, re.MULTILINE | re.DOTALL)
    assert beside is not None
    runs = [recorded(record) for record in RECORDS]
    figures = {run["summary"]["name"]: run["test_readings"] for run in runs}
    named = [part for part in re.split(r";\s", beside[1]) if "configs/" in part]
    assert len(named) == 2
    for part in named:  # a config of ours with its figure, or without one, which is said
        name = re.search(r"configs/(?:speed/)?(\w+)\.yaml", part)
        assert name is not None
        if "not run" not in part:
            assert f"test {100 * figures[name[1]][0]['accuracy']:.2f} % (n = 1)" in part
        else:
            assert name[1] not in figures


def recorded(path: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(path.read_text())["run"]
    return run


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.relative_to(ROOT / "submissions").as_posix())
def test_a_record_s_own_config_has_the_recorded_hashes(path: Path) -> None:
    summary, config = recorded(path)["summary"], load_config(path.with_name("config.yaml"))
    assert config_hash(config) == summary["config_sha256"]
    assert recipe_hash(config) == summary["recipe_sha256"]


def test_a_recorded_command_still_makes_its_recipe() -> None:
    """So a config with a record is not changed; another recipe is another config."""
    found, gone = set(), set()
    for path in RECORDS:
        run = recorded(path)
        words = shlex.split(run["sessions"][0]["command"])
        assert words[:3] == ["cifar-small", "train", "--config"]
        old = Path(words[3])
        file = ROOT / old if old.parent.name != "prior" else ROOT / "configs" / "published" / f"{RECIPES[old.stem]}.yaml"
        if not file.exists():  # given up for a better one; the record holds its config
            gone.add(old.stem)
            continue
        overrides = [(key, value) for key, value in split_overrides(words[4:]) if key != "output"]
        assert recipe_hash(load_config(file, overrides)) == run["summary"]["recipe_sha256"]
        found.add(file.stem)
    assert len(RECORDS) >= 29
    assert gone == {f"cifar10_{name}" for name in ("90", "90_4min", "90_20px", "90_22px", "94_2views", "94_24px", "95")}
    assert len(found) >= 10


def test_the_benchmarks_heavy_recipe_is_run_04s() -> None:
    augment = load_config(ROOT / "configs/published/wrn_28_10_progressive_cifar100.yaml").augment
    assert isinstance(augment, AlbumentationsAugment)
    assert list(augment.pipeline) == AUGMENTATIONS["heavy"]["albumentations"]["pipeline"]


def test_the_runs_of_one_study_share_their_augmentation() -> None:
    run02, run04, run05 = (
        [
            phase.settings.augment
            for phase in resolve_phases(load_config(ROOT / f"configs/published/wrn_28_10_{name}_cifar100.yaml"))
        ]
        for name in ("restarts", "progressive", "two_stage")
    )
    assert run02[0] == run04[0] == run05[0]
    assert run05[-1] == run04[1]
