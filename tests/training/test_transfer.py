"""Fine-tuning: weights of files and runs, what they bring, freezing as a phase, and the lineage that the rules judge."""

from __future__ import annotations

import copy
import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save
from synthetic import made
from torch.nn import functional as F

import cifar_small.training.trainer as train_module
from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import SGD, Adam, Config, Data, MuonSettings, Rules
from cifar_small.data import load_test, write_unlabelled
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.inference.ensemble import combine
from cifar_small.inference.predict import load_net
from cifar_small.models import build_model, in_backbone, refresh_statistics, set_frozen, set_frozen_throughout, set_training
from cifar_small.optim.optimizers import build_optimizer, parameter_groups, set_learning_rate, update_optimizer
from cifar_small.reporting.timeline import phase_rows
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.lineage import ancestor, check_lineage, check_unseen, foreign_lineage, in_words, start_of, without_own
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.records import DataFacts
from cifar_small.submission.submission_file import check_rules, submit
from cifar_small.training.build import build_trainer
from cifar_small.training.initial_weights import prepare_init, with_input_of_weights
from cifar_small.training.state import State
from cifar_small.training.train import train

Tiny = Callable[..., Config]
RULES = {"max_params": 100_000, "rows": 360, "pretrained": True}
SMALL = {"source": "digits", "val_size": 200, "train_limit": 128}
FEWER = {**SMALL, "train_limit": 100}  # other training images: an ancestor on SMALL is foreign to a run on these
FREEZING: list[dict[str, Any]] = [
    {"epochs": 2, "freeze": "backbone", "optim": {"name": "adamw", "lr": 0.01}},
    {"epochs": 2, "freeze": "none", "optim": {"lr": 0.002, "backbone_lr_factor": 0.25}},
]


@pytest.fixture(scope="module")
def ancestor_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, from scratch."""
    folder = tmp_path_factory.mktemp("ancestor") / "digits-seed0"
    train(parse_config(tiny_raw(name="digits", data=SMALL)), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four classes of colored noise, as a data section."""
    rng, labels = np.random.default_rng(0), np.arange(160) % 4
    images = np.clip(rng.normal(60 + 40 * labels[:, None, None, None], 30, (160, 32, 32, 3)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "four.npz"
    names = np.array(["north", "east", "south", "west"])
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels, classes=names)
    return {"source": "npz", "root": str(path), "val_size": 32}


def model_of(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    return load_checkpoint(folder / name)["model" if name != "best.pt" else "weights"]


# ---------------------------------------------------------------------------------------------------------------- freezing


def test_freeze_backbone_and_none_are_written_without_brackets(tiny: Tiny) -> None:
    config = tiny(phases=[*FREEZING, {"epochs": 1, "freeze": "layer1"}, {"epochs": 1, "freeze": ["conv1", "bn1"]}])
    assert [phase.settings.freeze for phase in resolve_phases(config)] == [("backbone",), (), ("layer1",), ("conv1", "bn1")]
    assert phase_rows(resolve_phases(config))["freeze"] == ["backbone", "-", "layer1", "conv1, bn1"]
    assert tiny(freeze="backbone") == tiny(freeze=["backbone"])


@pytest.mark.parametrize(
    "model",
    [
        {"family": "resnet", "widths": [4, 6, 8], "blocks": [1, 1, 1], "dropout": 0.1},
        {"family": "wideresnet", "depth": 10, "widen_factor": 1},
        {"family": "whitened_resnet", "stages": [{"width": 4, "branch": [[3, 4]]}]},
    ],
)
def test_the_backbone_of_every_family_is_all_but_the_classifier(model: dict[str, Any]) -> None:
    net = build_model(parse_config(tiny_raw(model=model)).model, 5)
    set_frozen(net, ("backbone",))
    assert {name for name, p in net.named_parameters() if p.requires_grad} <= {"fc.weight", "fc.bias"}
    assert net.fc.weight.requires_grad
    with pytest.raises(ConfigError, match="freeze 'head' matches no parameter"):
        set_frozen(net, ("head",))


def test_a_batchnorm_frozen_as_a_whole_evaluates_and_its_statistics_stay() -> None:
    net = build_model(parse_config(tiny_raw()).model, 10)
    images = torch.randn(8, 3, 32, 32)
    set_frozen(net, ("layer1.0.bn1", "layer2.0.bn1.weight"))
    set_training(net)
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(images)
    kept = {name for name, value in net.named_buffers() if torch.equal(value, before[name])}
    assert kept == {f"layer1.0.bn1.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}
    set_frozen(net, ())
    set_training(net)
    assert all(module.training for module in net.modules())


def test_what_phases_freeze_by_different_names_is_frozen_throughout() -> None:
    """The first parts of a backbone, then all of it: what never trains keeps its statistics in a soup and in SWA."""
    net = build_model(parse_config(tiny_raw()).model, 10)
    set_frozen_throughout(net, [("conv1", "bn1", "layer1"), ("backbone",)])
    frozen = {name.split(".")[0] for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    before = {name: value.clone() for name, value in net.named_buffers()}
    refresh_statistics(net, [torch.randn(8, 3, 32, 32)])
    kept = {name.split(".")[0] for name, value in net.named_buffers() if torch.equal(value, before[name])}
    assert kept == {"bn1", "layer1"}


def test_head_first_then_everything(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(phases=FREEZING, data=SMALL)
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    count = sum(p.numel() for p in build_model(config.model, 10).parameters())
    head = 32 * 10 + 10
    assert f"phase 1: {head:,} of {count:,} parameters train; frozen: backbone\n" in said
    assert f"phase 2: {count:,} of {count:,} parameters train\n" in said
    assert Run(tmp_path / "run").summary().parameters == count  # of the whole net, whatever is frozen

    short = tiny(phases=FREEZING[:1], data=SMALL)
    train(short, tmp_path / "head", quiet=True)
    torch.manual_seed(0)
    fresh = build_model(config.model, 10).state_dict()
    after = model_of(tmp_path / "head")
    changed = {name for name in fresh if not torch.equal(fresh[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}  # and no statistic of a BatchNorm
    moved = model_of(tmp_path / "run")
    assert not any(torch.equal(moved[name], after[name]) for name in fresh if name.endswith(("weight", "running_mean")))
    optimizer = load_checkpoint(tmp_path / "run" / "last.pt")["optimizer"]
    steps = {name: int(entry["step"]) for name, entry in optimizer.items()}
    assert steps == {name: 8 if name.startswith("fc.") else 4 for name, _ in build_model(config.model, 10).named_parameters()}


ENGINE = {"device": "cpu", "precision": "fp32", "threads": 1, "checkpoint_steps": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of a run that freezes and thaws."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(parse_config(tiny_raw(phases=FREEZING, data=SMALL, engine=ENGINE, ema_decay=0.9)), folder, quiet=True)
    return fingerprint(folder)


@pytest.mark.parametrize("saves", [1, 4, 5])
def test_freezing_and_thawing_resume_to_the_same_bits(
    saves: int, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the frozen phase, at its end, and within the next; two steps an epoch, a checkpoint after each."""
    config = parse_config(tiny_raw(phases=FREEZING, data=SMALL, engine=ENGINE, ema_decay=0.9))
    train_until_save(config, tmp_path / "run", saves, monkeypatch)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert fingerprint(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("settings", [SGD(lr=0.1, backbone_lr_factor=0.1), Adam(name="adamw", lr=0.1, backbone_lr_factor=0.1)])
def test_the_backbone_may_learn_at_a_rate_of_its_own(settings: SGD | Adam) -> None:
    net = build_model(parse_config(tiny_raw()).model, 10)
    optimizer = build_optimizer(net, settings)
    set_learning_rate(optimizer, 0.04)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(rates[id(p)] == pytest.approx(0.004 if in_backbone(name) else 0.04) for name, p in net.named_parameters())
    assert len(rates) == len(list(net.parameters()))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decays[id(p)] == (settings.weight_decay if p.ndim > 1 else 0) for p in net.parameters())
    assert len(parameter_groups(net, settings.model_copy(update={"backbone_lr_factor": 1.0}))) == 2


def test_every_step_keeps_the_ratio_of_rates_down_to_the_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, original = [], train_module.clip_and_check

    def watched(optimizer: Any, *arguments: Any) -> Any:
        rates.append(sorted({(group["lr_factor"], group["lr"]) for group in optimizer.param_groups}))
        return original(optimizer, *arguments)

    monkeypatch.setattr(train_module, "clip_and_check", watched)
    schedule = {"name": "cosine", "min_lr": 0.02}
    raw = tiny_raw(optim={"lr": 0.1, "backbone_lr_factor": 0.1}, schedule=schedule, phases=[{"epochs": 2}])
    train(parse_config(raw), tmp_path / "run", quiet=True)
    cosine = [0.02 + 0.08 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert len(rates) == 8
    for found, rate in zip(rates, cosine, strict=True):
        assert found == [(0.1, pytest.approx(0.1 * rate)), (1.0, pytest.approx(rate))]


@pytest.mark.parametrize(
    "settings", [SGD(lr=0.01), Adam(name="adam", lr=0.01), Adam(name="radam", lr=0.01), MuonSettings(name="muon")]
)
def test_what_thaws_starts_as_if_its_optimizer_were_new(settings: SGD | Adam | MuonSettings) -> None:
    """Adam's correction for its first steps is counted for each parameter, so those that join later get theirs too."""
    net = build_model(parse_config(tiny_raw()).model, 10)

    def step(optimizer: torch.optim.Optimizer) -> None:
        net(torch.randn(4, 3, 32, 32)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    set_frozen(net, ("backbone",))
    first = build_optimizer(net, settings)
    for _ in range(3):
        step(first)
    State(net, first, None, "fp32").saved()  # looks at the state of every parameter, frozen ones included
    set_frozen(net, ())
    second = update_optimizer(first, net, settings)
    twin = copy.deepcopy(net)
    third = build_optimizer(twin, settings)
    images = torch.randn(4, 3, 32, 32)
    for one, optimizer in ((net, second), (twin, third)):
        F.cross_entropy(one(images), torch.arange(4)).backward()
        optimizer.found_inf = torch.tensor(0.0)  # as `clip_and_check` leaves it
        optimizer.step()
    pairs = zip(net.named_parameters(), twin.parameters(), strict=True)
    same = {name: torch.equal(one, other) for (name, one), other in pairs}
    assert {name for name in same if not same[name]} == {"fc.weight", "fc.bias"}  # which had trained before


# -------------------------------------------------------------------------------------------------- weights of another run


def fine_tuning(weights: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {"name": "tuned", "rules": RULES, "weights": str(weights), "batch_size": 32, **changes}
    return parse_config(tiny_raw(**settings))


def test_a_run_on_other_data_starts_from_the_weights_of_another(
    ancestor_run: Path, other_data: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fine_tuning(ancestor_run, data=other_data, phases=[{"epochs": 1, "freeze": "backbone"}])
    summary = train(config, tmp_path / "run")
    before, after = model_of(ancestor_run, "best.pt"), model_of(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before if in_backbone(name))
    assert after["fc.weight"].shape == (4, 32)
    said = capsys.readouterr().out
    assert f"initialized from {ancestor_run}: " in said
    assert "classifier re-initialized" in said

    digits, net = load_net(Run(ancestor_run)), load_net(Run(tmp_path / "run"))
    assert (net.mean, net.std) == (digits.mean, digits.std)  # normalization comes with the weights
    assert list(Run(tmp_path / "run").config().input.mean or ()) == list(digits.mean)
    (one,) = net.facts.ancestors
    assert in_words(one) == "digits seed 0, trained on digits"
    assert one.data == digits.facts.data
    assert one.weights_sha256 == digits.facts.weights_sha256
    assert summary.lineage == load_predictions(tmp_path / "run" / "predictions" / "val.npz").meta.lineage == [in_words(one)]

    third = fine_tuning(tmp_path / "run", name="third", data=other_data, phases=[{"epochs": 1}])
    train(third, tmp_path / "third", quiet=True)
    lineage = load_net(Run(tmp_path / "third")).facts.lineage
    assert lineage == ["tuned seed 0, trained on npz", "digits seed 0, trained on digits"]


def test_the_head_comes_along_on_the_same_classes(ancestor_run: Path, tmp_path: Path) -> None:
    config = fine_tuning(ancestor_run, data=SMALL, phases=[{"epochs": 1, "freeze": "fc"}])
    train(config, tmp_path / "run", quiet=True)
    before, after = model_of(ancestor_run, "best.pt"), model_of(tmp_path / "run")
    assert torch.equal(before["fc.weight"], after["fc.weight"])
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])


def test_a_fine_tuning_resumes_where_its_ancestor_is_gone(
    ancestor_run: Path, other_data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ancestor_run, copy)
    config = fine_tuning(copy, data=other_data, phases=[{"epochs": 3}])
    train(config, tmp_path / "whole", quiet=True)
    train_until_save(config, tmp_path / "killed", 2, monkeypatch)
    shutil.rmtree(copy)
    train(config, tmp_path / "killed", resume=True, quiet=True)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    lineages = [load_net(Run(tmp_path / name)).facts.lineage for name in ("killed", "whole")]
    assert lineages[0] == lineages[1] != []
    with pytest.raises(CheckpointError, match=r"copy does not exist: expected a run directory"):
        train(config, tmp_path / "new", quiet=True)
    with pytest.raises(ConfigError, match=f"weights: {copy} -> {ancestor_run}"):
        train(fine_tuning(ancestor_run, data=other_data, phases=[{"epochs": 3}]), tmp_path / "killed", resume=True, quiet=True)


def test_the_size_of_another_run_comes_along(other_data: dict[str, Any], tmp_path: Path) -> None:
    large = tiny_raw(data=SMALL, input={"size": 40, "interpolation": "bicubic"}, phases=[{"epochs": 1}])
    train(parse_config(large), tmp_path / "large", quiet=True)
    config = fine_tuning(tmp_path / "large", data=other_data, phases=[{"epochs": 1, "resolution": 36}])
    train(config, tmp_path / "run", quiet=True)
    resolved = Run(tmp_path / "run").config()
    assert (resolved.side, resolved.interpolation) == (40, "bicubic")
    with pytest.raises(ConfigError, match="resolution 48 is above the 40 pixels of evaluation"):
        train(config.model_copy(update={"phases": ({"epochs": 1, "resolution": 48},)}), tmp_path / "other", quiet=True)


def test_a_run_of_another_architecture_is_refused_before_anything_is_written(
    ancestor_run: Path, other_data: dict[str, Any], tmp_path: Path
) -> None:
    wider = {"family": "resnet", "widths": [8, 16, 24], "blocks": [1, 1, 1], "strides": [2, 2, 2]}
    with pytest.raises(CheckpointError, match=r"to another architecture than model: of \d+ tensors \d+ of another shape"):
        train(fine_tuning(ancestor_run, data=other_data, model=wider), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_ancestor_that_has_seen_our_val_images_is_refused(ancestor_run: Path, tmp_path: Path) -> None:
    """Otherwise the best epoch would be chosen on images that the weights know."""
    config = fine_tuning(ancestor_run, data={**SMALL, "split_seed": 1})
    with pytest.raises(CheckpointError, match="digits seed 0, trained on digits, held out other val images than this run,"):
        train(config, tmp_path / "run", quiet=True)
    fine = DataFacts(source="cifar100", sha256="a", val_sha256="1")
    coarse = DataFacts(source="cifar100_coarse", sha256="b", val_sha256="2")
    with pytest.raises(CheckpointError, match="held out other val images"):
        check_unseen([ancestor("x", fine, "")], coarse)
    ten, other = (DataFacts(source="cifar10", sha256=sha256, val_sha256=sha256) for sha256 in ("c", "d"))
    with pytest.raises(CheckpointError, match="so it may have been trained on some"):
        check_unseen([ancestor("x", ten, "")], other)  # data.classes in another order: the same images under another hash
    check_unseen([ancestor("x", fine, "")], ten)
    check_unseen([ancestor("x", DataFacts(source="imagenet"), "")], coarse)


# ------------------------------------------------------------------------------------------------------- weights of a file


def test_a_file_of_our_own_layout_fits_our_own_net(ancestor_run: Path, tmp_path: Path, tiny: Tiny) -> None:
    torch.save(model_of(ancestor_run, "best.pt"), tmp_path / "weights.pth")
    config = fine_tuning(tmp_path / "weights.pth", data=SMALL, phases=[{"epochs": 1, "freeze": "backbone"}])
    train(config, tmp_path / "run", quiet=True)
    before, after = model_of(ancestor_run, "best.pt"), model_of(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before if in_backbone(name))
    assert not torch.equal(before["fc.weight"], after["fc.weight"])  # a file says nothing of its classes
    assert load_net(Run(tmp_path / "run")).facts.lineage == ["weights.pth, trained on unknown data"]


def test_the_input_in_a_config_json_beside_a_file_is_taken(tmp_path: Path) -> None:
    torch.save({"model_ema": {"a": torch.ones(1)}}, tmp_path / "weights.pth")
    told = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {**told, "crop_pct": 0.9}}))
    bare = fine_tuning(tmp_path / "weights.pth", data=SMALL)
    config, init = prepare_init(bare, Run(tmp_path / "run"))
    assert init is not None
    assert init.name == "weights.pth (model_ema)"
    assert (config.input.size, config.input.mean, config.input.std) == (64, (0.5,) * 3, (0.5,) * 3)
    assert config.input.interpolation == "bicubic"
    own = fine_tuning(tmp_path / "weights.pth", data=SMALL, input={"size": 32})
    assert prepare_init(own, Run(tmp_path / "run"))[0].input.size == 32  # what the config says comes first
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**told, "std": [1, 1, 0]}}))
    with pytest.raises(
        CheckpointError, match=r"config\.json names an input that cannot be given .*std \[1\.0, 1\.0, 0\.0\] must be"
    ):
        prepare_init(bare, Run(tmp_path / "run"))


def test_what_a_config_json_says_comes_before_what_the_net_was_published_with(tmp_path: Path) -> None:
    """Other weights of one net may expect other pixels; what the file leaves open is as published."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, path)
    raw = {"name": "x", "model": {"family": "timm/efficientnet_b0", "stem": "imagenet"}, "weights": str(path), "data": SMALL}
    raw |= {"phases": [{"epochs": 1}], "rules": {"pretrained": True, "max_params": 10**8}}
    published = with_input_of_weights(parse_config(raw)).input
    assert published.mean == pytest.approx((0.485, 0.456, 0.406))
    (tmp_path / "config.json").write_text(json.dumps({"input_size": [3, 128, 128], "mean": [0.5] * 3, "std": [0.5] * 3}))
    found = with_input_of_weights(parse_config(raw)).input
    assert (found.size, found.mean, found.std) == (128, (0.5,) * 3, (0.5,) * 3)
    assert found.interpolation == published.interpolation


def test_a_librarys_net_trains_from_a_file_and_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cifar_small.config.schema import LibraryModel
    from cifar_small.models.counting import skeleton

    model = {"family": "torchvision/mobilenet_v3_small", "head": "se"}
    torch.manual_seed(5)
    source = build_model(LibraryModel.model_validate({**model, "head": "plain"}), 10)
    state = {name.removeprefix("backbone."): value for name, value in source.state_dict().items() if in_backbone(name)}
    torch.save(state, tmp_path / "weights.pth")
    config = parse_config(
        tiny_raw(
            rules={**RULES, "max_params": 2_000_000},
            model=model,
            weights=str(tmp_path / "weights.pth"),
            input={"size": 48},
            data={**SMALL, "val_size": 40, "train_limit": 64},
            batch_size=32,
            phases=[{"epochs": 1, "freeze": "backbone"}, {"epochs": 1, "freeze": "none", "optim": {"lr": 0.01}}],
        )
    )
    train(config, tmp_path / "run", quiet=True)
    net = load_net(Run(tmp_path / "run"))
    assert net.config.input.interpolation == "bilinear"
    assert list(net.mean) == [0.485, 0.456, 0.406]
    assert net.parameters == sum(p.numel() for p in skeleton(config.model, 10).parameters())
    assert main(["predict", str(tmp_path / "run"), "--split", "val", "--views", "flip"]) == 0
    assert "val accuracy" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 2


# ------------------------------------------------------------------------------------------------------------------- rules

IMAGENET = "torchvision/resnet18 imagenet, trained on imagenet"
TAUGHT = f"{IMAGENET} (through teacher big (seed 0))"


@pytest.mark.parametrize(
    ("lineage", "rules", "message"),
    [
        ([IMAGENET], {}, r"net started from other weights \(torchvision/resnet18 imagenet, trained on imagenet\)"),
        ([TAUGHT], {}, r"net learned from a pretrained teacher .*through teacher big.*teacher: forbidden"),
        ([IMAGENET, TAUGHT], {"pretrained_teacher": "allowed"}, "started from other weights"),
        ([TAUGHT], {"pretrained_teacher": "allowed"}, None),
        ([IMAGENET, TAUGHT], {"pretrained": True}, None),
        ([], {}, None),
    ],
)
def test_the_rules_decide_about_ancestors_and_teachers(
    lineage: list[Any], rules: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    if message is None:
        check_lineage("net", lineage, Rules(**rules))
        submit(made(lineage=lineage, rules=rules), tmp_path / "a.csv")
        return
    with pytest.raises(ConfigError, match=message):
        check_lineage("net", lineage, Rules(**rules))
    with pytest.raises(ConfigError, match=message):
        submit(made(lineage=lineage, rules=rules), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_rules_of_before_hash_as_before() -> None:
    assert "pretrained_teacher" not in Rules().model_dump()
    assert Rules(pretrained_teacher="allowed").model_dump()["pretrained_teacher"] == "allowed"


def test_an_ensemble_inherits_each_ancestor_once() -> None:
    members = [made(seed=1, lineage=[IMAGENET, TAUGHT]), made(seed=2, lineage=[IMAGENET]), made(seed=3)]
    joined = combine(members)
    assert joined.meta.lineage == [IMAGENET, TAUGHT]
    with pytest.raises(ConfigError, match="started from other weights"):
        check_rules(joined)


def test_submit_judges_the_checkpoint_not_what_the_predictions_say(
    ancestor_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predictions file whose lineage was emptied by hand, of a run whose config forbids what its checkpoint records."""
    train(fine_tuning(ancestor_run, data=FEWER, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    run = Run(tmp_path / "run")
    net = load_net(run)
    strict = net.config.model_copy(update={"rules": Rules(max_params=100_000, rows=None), "weights": None})
    monkeypatch.setattr("cifar_small.submission.submission_file.load_net", lambda *_: replace(net, config=strict))
    cleaned = made(lineage=[], weights_sha256=net.facts.weights_sha256, parameters=net.parameters)
    with pytest.raises(ConfigError, match="tuned started from other weights"):
        submit(cleaned, tmp_path / "out" / "a.csv", run=run)
    assert not (tmp_path / "out").exists()


def test_the_record_of_a_submission_names_the_ancestors(ancestor_run: Path, tmp_path: Path) -> None:
    train(fine_tuning(ancestor_run, data=SMALL, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    run = Run(tmp_path / "run")
    lineage = run.summary().lineage
    facts = {"weights_sha256": load_net(run).facts.weights_sha256, "lineage": lineage}
    submit(made(rules=RULES, **facts), tmp_path / "out" / "a.csv", run=run)
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["predictions"]["lineage"] == record["run"]["summary"]["lineage"] == lineage
    assert lineage == ["digits seed 0, trained on digits"]


SCRATCH_ALONE = {**RULES, "pretrained": False}


def test_a_run_on_the_very_same_images_is_no_weights_from_elsewhere(
    ancestor_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fine_tuning(ancestor_run, name="longer", data=SMALL, rules=SCRATCH_ALONE, phases=[{"epochs": 1}])
    train(config, tmp_path / "longer", quiet=True)
    again = fine_tuning(tmp_path / "longer", name="again", data=SMALL, rules=SCRATCH_ALONE, phases=[{"epochs": 1}])
    train(again, tmp_path / "again", quiet=True)
    facts = load_net(Run(tmp_path / "again")).facts
    assert facts.lineage == ["longer seed 0, trained on digits", "digits seed 0, trained on digits"]
    assert foreign_lineage(facts) == []
    assert main(["compare", str(tmp_path / "again"), "--format", "markdown"]) == 0
    assert "| yes | scratch |" in capsys.readouterr().out

    taught = {"distill": {"teachers": [str(tmp_path / "again")]}, "phases": [{"epochs": 1}]}  # a teacher from scratch
    train(parse_config(tiny_raw(name="pupil", data=SMALL, rules=SCRATCH_ALONE, **taught)), tmp_path / "pupil", quiet=True)
    assert load_net(Run(tmp_path / "pupil")).facts.lineage == []


@pytest.mark.parametrize("elsewhere", ["fewer images", "an ancestor of its own"])
def test_a_run_that_saw_other_images_is_refused_by_the_rules(
    elsewhere: str, ancestor_run: Path, other_data: dict[str, Any], tmp_path: Path
) -> None:
    data, start = FEWER, ancestor_run
    if elsewhere == "an ancestor of its own":  # itself on the same images, but begun from others
        data, start = other_data, tmp_path / "tuned"
        train(fine_tuning(ancestor_run, data=other_data, phases=[{"epochs": 1}]), start, quiet=True)
    config = fine_tuning(start, name="next", data=data, rules=SCRATCH_ALONE, phases=[{"epochs": 1}])
    with pytest.raises(ConfigError, match=r"next started from other weights \(digits seed 0, trained on digits\)"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_own_ancestor_does_not_whitewash_another_of_the_same_name() -> None:
    own, other = (
        DataFacts(source="digits", sha256="a", val_sha256="b", train_sha256="c"),
        DataFacts(source="digits", sha256="x"),
    )
    lineage = ["net seed 0, trained on digits"]
    assert without_own(lineage, [ancestor("net seed 0", own, "1")], own) == []
    assert without_own(lineage, [ancestor("net seed 0", own, "1"), ancestor("net seed 0", other, "2")], own) == lineage
    assert (
        without_own(lineage, [ancestor("net seed 0", DataFacts(source="digits"), "1")], DataFacts(source="digits")) == lineage
    )


def test_a_trainer_without_weights_has_no_lineage(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(data=SMALL, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    assert load_net(Run(tmp_path / "run")).facts.lineage == []


def test_a_checkpoint_of_ours_is_no_file_of_weights_where_its_lineage_would_be_lost(ancestor_run: Path, tmp_path: Path) -> None:
    for name in ("last.pt", "best.pt"):
        with pytest.raises(CheckpointError, match="is a checkpoint of a run; set weights to the run directory"):
            train(fine_tuning(ancestor_run / name, data=SMALL), tmp_path / "run", quiet=True)
    assert main(["export", str(ancestor_run), "--output", str(tmp_path / "exported")]) == 0
    with pytest.raises(CheckpointError, match="was exported by cifar-small"):
        train(fine_tuning(tmp_path / "exported" / "model.safetensors", data=SMALL), tmp_path / "run", quiet=True)


def test_what_an_ancestor_learned_from_its_teachers_stays(ancestor_run: Path, tmp_path: Path) -> None:
    taught = Run(shutil.copytree(ancestor_run, tmp_path / "taught"))
    save_checkpoint(taught.best, {**load_checkpoint(taught.best), "lineage": [TAUGHT]})
    train(fine_tuning(taught.folder, data=SMALL, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    assert load_net(Run(tmp_path / "run")).facts.lineage == ["digits seed 0, trained on digits", TAUGHT]
    train(fine_tuning(tmp_path / "run", name="again", data=SMALL, phases=[{"epochs": 1}]), tmp_path / "again", quiet=True)
    lineage = load_net(Run(tmp_path / "again")).facts.lineage
    assert lineage == ["tuned seed 0, trained on digits", "digits seed 0, trained on digits", TAUGHT]


@pytest.mark.parametrize(
    ("lineage", "start"),
    [([], "scratch"), ([IMAGENET], "pretrained"), ([TAUGHT], "pretrained teacher"), ([TAUGHT, IMAGENET], "pretrained")],
)
def test_a_start_in_a_word(lineage: list[str], start: str) -> None:
    assert start_of(lineage) == start


def test_a_sweep_over_weights_is_gone_on_with(ancestor_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs take their input from the weights, which the sweep's file does not say."""
    base = tiny_raw(rules=RULES, data={**SMALL, "train_limit": 100}, phases=[{"epochs": 1}], batch_size=32)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    cells = [{"label": "tuned", "weights": str(ancestor_run)}, {"label": "scratch"}]
    sweep = {"name": "s", "config": "base.yaml", "cells": cells, "seeds": [0]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")
    command = ["sweep", str(tmp_path / "sweep.yaml"), "--output", str(tmp_path / "runs")]
    assert main(command) == 0
    assert main([*command, "--list"]) == 0
    assert main(command) == 0
    assert "tuned" in capsys.readouterr().out


def test_the_rules_of_a_competition_judge_a_run_that_had_others(
    ancestor_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(fine_tuning(ancestor_run, data=FEWER, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    images = load_test(Data(source="digits"))
    write_unlabelled(tmp_path / "file.pkl", images.images, np.arange(len(images)))
    run, strict = str(tmp_path / "run"), tmp_path / "strict.yaml"
    strict.write_text(yaml.safe_dump(tiny_raw()), encoding="utf-8")
    assert main(["predict", run, "--split", "submit", "--file", str(tmp_path / "file.pkl")]) == 0
    submit_ = ["submit", f"{run}/predictions/submit.npz", "--output", str(tmp_path / "out" / "a.csv")]
    capsys.readouterr()
    assert main([*submit_, "--config", str(strict)]) == 2
    assert "tuned started from other weights (digits seed 0, trained on digits)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["compare", run, "--format", "markdown"]) == 0
    assert "| yes |" in capsys.readouterr().out
    assert main(["compare", run, "--format", "markdown", "--config", str(strict)]) == 0
    assert "| no: pretrained not allowed | pretrained |" in capsys.readouterr().out
    assert main(submit_) == 0  # its own rules allow it
    assert "rules" not in json.loads((tmp_path / "out" / "a.json").read_text())


def test_an_average_is_thawed_with_its_net(ancestor_run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    phases = [{"epochs": 2, "freeze": "backbone", "swa": {}}, {"epochs": 2, "freeze": "none"}]
    config = parse_config(tiny_raw(data=SMALL, phases=phases, selection="last"))
    trainer = build_trainer(resolve_config(config), Run(tmp_path / "run"), quiet=True)
    for phase, frozen in zip(trainer.resolved.phases, (True, False), strict=True):
        trainer.enter_phase(phase)
        average = trainer.state.average
        assert average is not None
        trained = {name: parameter.requires_grad for name, parameter in average.module.named_parameters()}
        assert all(trained[name] is not (frozen and in_backbone(name)) for name in trained)
