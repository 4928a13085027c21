"""Overrides: a section's kind comes first and drops what the new kind does not have; faults are those of the override."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_raw

from cifar_small.config.loading import load_config
from cifar_small.config.schema import SGD, Adam, TorchvisionAugment
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import ConfigError

SGD_SETTINGS = {"name": "sgd", "lr": 0.1, "momentum": 0.8, "nesterov": False}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        path = tmp_path / "a.yaml"
        path.write_text(dump_yaml(tiny_raw(**{"optim": SGD_SETTINGS, **changes})))
        return path

    return write


def test_another_optimizer_drops_what_it_does_not_have_and_says_so(written: Any) -> None:
    notes: list[str] = []
    config = load_config(written(), [("optim.beta1", "0.8"), ("optim.name", "adamw")], label="--", note=notes.append)
    assert config.optim == Adam(name="adamw", lr=0.1, beta1=0.8)
    assert notes == ["--optim.name adamw: momentum 0.8, nesterov False dropped, which adamw does not have; lr 0.1 kept"]


def test_the_same_kind_keeps_all_and_says_nothing(written: Any) -> None:
    notes: list[str] = []
    config = load_config(written(), [("optim.name", "sgd"), ("optim.lr", "0.2")], note=notes.append)
    assert config.optim == SGD(lr=0.2, momentum=0.8, nesterov=False)
    assert notes == []


def test_phases_drop_it_too_until_one_names_its_own_kind(written: Any) -> None:
    phases = [
        {"epochs": 1, "optim": {"momentum": 0.5}},
        {"epochs": 1, "optim": {"name": "sgd", "momentum": 0.7}},
        {"epochs": 1, "optim": {"momentum": 0.6}},
    ]
    notes: list[str] = []
    config = load_config(written(phases=phases), [("optim.name", "adam")], note=notes.append)
    assert [phase.get("optim") for phase in config.phases] == [{}, {"name": "sgd", "momentum": 0.7}, {"momentum": 0.6}]
    assert len(notes) == 1


def test_within_a_phase(written: Any) -> None:
    path = written(phases=[{"epochs": 1, "optim": {"name": "sgd", "momentum": 0.5}}])
    config = load_config(path, [("phases.0.optim.name", "adam")], note=lambda _: None)
    assert config.phases[0]["optim"] == {"name": "adam"}
    assert config.optim == SGD(**SGD_SETTINGS)


def test_the_engine_of_augmentation(written: Any) -> None:
    augment = {"crop": 2, "flip": "none", "rotation": 5.0}
    settings = [("augment.policy", "augmix"), ("augment.engine", "torchvision")]
    config = load_config(written(augment=augment), settings, note=lambda _: None)
    assert config.augment == TorchvisionAugment(engine="torchvision", policy="augmix", crop=2, flip="none")


def test_without_a_reader_of_notes_nothing_is_dropped(written: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"a\.yaml: 2 problems: optim\.momentum: unknown key; .* optim\.nesterov: unknown key"
    ):
        load_config(written(), [("optim.name", "adamw")])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([("optim.lr", "-1")], "--optim.lr: input should be greater than 0, got -1"),
        ([("optim", "{lr: -1}")], "--optim.lr: input should be greater than 0, got -1"),
        ([("optim.name", "sdg")], '--optim.name: expected one of sgd, adam, adamw, radam, muon, got "sdg"'),
        ([("seed", "-1"), ("optim.lr", "-1")], "2 problems: --optim.lr: "),
        ([("views", "all"), ("seed", "1")], "--views: "),
        (
            [("engine.device", "gpu")],
            '--engine.device: expected auto, cpu, cuda or, of several GPUs, one such as cuda:0, got "gpu"',
        ),
        ([("model.family", "resnet18")], "--model.family: expected one of resnet, "),
    ],
)
def test_a_fault_is_that_of_the_override(written: Any, overrides: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(), overrides, label="--", note=lambda _: None)
    assert str(caught.value).startswith(message)
    assert "a.yaml" not in str(caught.value)


def test_faults_of_both_name_the_file(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: 2 problems: batch_size: .*; --seed: "):
        load_config(written(batch_size=0), [("seed", "-1")], label="--")


def test_values_that_were_meant_are_no_options(written: Any) -> None:
    with pytest.raises(ConfigError, match=r'; did you mean "cuda"\?$'):
        load_config(written(), [("engine.device", "gpu")], label="--")
    with pytest.raises(ConfigError, match=r"; did you mean --optim\.lr\?$"):
        load_config(written(), [("optim.lrr", "1")], label="--")


def test_phases_that_are_replaced_as_a_whole_say_how_to_change_one(written: Any) -> None:
    path = written(schedule={"name": "cosine", "warmup_epochs": 1})
    with pytest.raises(ConfigError) as caught:
        load_config(path, [("phases", "[{epochs: 1}]")], label="--")
    assert str(caught.value) == (
        f"{path}: schedule.warmup_epochs is 1 but the schedule spans 1 epoch; shorten it; --phases replaces the whole list, "
        "with all that its phases set: --phases.0.epochs changes one setting of one phase"
    )


def test_a_sweep_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("{name: s, config: a.yaml, cells: [{label: a}]}")
    with pytest.raises(ConfigError, match=r"s\.yaml is a sweep, not the config of one run; .*: cifar-small sweep .*s\.yaml$"):
        load_config(path)
