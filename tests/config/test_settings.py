"""Settings looked up: each has a description, type and default in words; the JSON schema knows all shipped configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_small.config import schema
from cifar_small.config.schema import Config, PhaseSettings, Recipe, Section
from cifar_small.config.settings import all_settings, find_settings, json_schema

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Said = Callable[..., tuple[int, str, str]]


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        if section.__module__.startswith(schema.__name__):  # a sweep file has sections too
            yield section
        yield from sections(section)


def test_every_field_has_a_description() -> None:
    fields = {(section, name): field for section in sections() for name, field in section.model_fields.items()}
    assert len(fields) > 205
    bare = [f"{section.__name__}.{name}" for (section, name), field in fields.items() if len(field.description or "") < 5]
    assert bare == []


def test_every_field_is_a_setting() -> None:
    keys = [(setting.key, setting.kinds) for setting in all_settings()]
    assert len(keys) == len(set(keys)) >= 200
    names = {setting.key.rpartition(".")[2] for setting in all_settings()}
    assert names == {name for section in sections() if section is not PhaseSettings for name in section.model_fields} | {
        *(PhaseSettings.model_fields.keys() - Recipe.model_fields.keys())
    }


def test_no_type_is_shown_as_a_pattern() -> None:
    """Messages and the list say every form of text in words."""
    types = {setting.key: setting.type for setting in all_settings()}
    assert types["engine.device"].startswith("auto, cpu, cuda or")
    assert [key for key, text in types.items() if "^" in text or "[A-Z" in text] == []


@pytest.mark.parametrize(
    ("key", "type_", "default", "needs"),
    [
        ("batch_size", "whole number from 2", "128", ""),
        ("label_smoothing", "number from 0 below 1", "0.0", ""),
        ("name", "text of letters, digits and . _ - (at most 100, the first a letter or digit)", "required", ""),
        ("augment.num_ops", "whole number from 1 to 10", "2", "policy randaugment"),
        ("augment.border", "one of zero, reflect", '"zero"', "rotation or translate or scale or shear or policy"),
        ("augment.blur_sigma", "[number above 0 to 5, number above 0 to 5]", "[0.1, 2.0]", "blur"),
        ("engine.compile", "true or false or one of reduce-overhead, max-autotune", "false", ""),
        ("schedule.milestones", "list of 1 or more, each: whole number from 1 to 1,000,000,000", "required", ""),
        ("freeze", "one of none, backbone or list, each: text", "[]", ""),
        ("rules", "section", "see its keys", ""),
        ("swa", "section or null", "null", ""),
        ("phases.0.dropout", "number from 0 below 1", "that of model.dropout", ""),
        ("phases.3.cached_views", "whole number from 1 to 1,000 or null", "null", ""),
    ],
)
def test_a_setting_in_words(key: str, type_: str, default: str, needs: str) -> None:
    first = find_settings(key)[0]
    assert (first.type, first.default, first.needs) == (type_, default, needs)


@pytest.mark.parametrize(
    ("word", "keys"),
    [
        ("optim.lr", {"optim.lr"}),
        ("phases.0.optim.lr", {"optim.lr"}),
        ("lr", {"optim.lr", "optim.bias.lr", "optim.head.lr"}),
        ("learning_rate", {"optim.lr"}),
        ("epochs", {"phases.N.epochs"}),
        ("stages.0.width", {"model.stages.N.width"}),
        ("smoothing", {"label_smoothing"}),
        ("sharpness-aware", {"sam"}),
    ],
)
def test_finding(word: str, keys: set[str]) -> None:
    assert {setting.key for setting in find_settings(word)} == keys


def unknown(value: Any, known: dict[str, Any], where: str = "") -> Iterator[str]:
    """Keys of a value that its schema does not have."""
    options = [known] if "properties" in known else known.get("anyOf", [known])
    if isinstance(value, dict) and any("properties" in option for option in options):
        for key, inner in value.items():
            below = [option["properties"][key] for option in options if key in option.get("properties", {})]
            yield from unknown(inner, below[0], f"{where}.{key}") if below else [f"{where}.{key}"]
    elif isinstance(value, list):
        for option in options:
            for item in value if "items" in option else ():
                yield from unknown(item, option["items"], where)


def test_the_schema_knows_every_key_of_the_shipped_configs() -> None:
    known, count = json_schema(), 0
    for path in CONFIGS.rglob("*.yaml"):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "config" not in raw:
            assert list(unknown(raw, known)) == [], path
            count += 1
    assert count >= 40
    assert list(unknown({"optim": {"lrr": 1}, "phases": [{"epoch": 3, "optim": {"lr": 1}}]}, known)) == [
        ".optim.lrr",
        ".phases.epoch",
    ]
    assert known["anyOf"][1] == {"required": ["name", "model", "phases"]}
    assert known["properties"]["optim"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert known["properties"]["batch_size"]["description"] == Config.model_fields["batch_size"].description


def test_the_command(said: Said) -> None:
    code, out, _ = said("settings", "optim.momentum")
    assert (code, out.splitlines()[:4]) == (
        0,
        ["optim.momentum (sgd)", "  number from 0 below 1", "  default: 0.9", "  also in a phase: phases.0.optim.momentum"],
    )
    lines = said("settings")[1].splitlines()
    assert {line.split()[0] for line in lines} == {setting.key for setting in all_settings()}
    assert max(map(len, lines)) <= 128
    told = dict(line.split(maxsplit=1) for line in lines)
    assert told["optim.name"] == "One of sgd, adam, adamw, radam, muon."
    assert told["model.family"] == "One of resnet, wideresnet, whitened_resnet, torchvision/NAME, timm/NAME, FILE.py:NAME."
    assert json.loads(said("settings", "--schema")[1]) == json_schema()
    assert said("settings", "optm.lr")[::2] == (2, "cifar-small: error: no setting is called optm.lr; did you mean optim.lr?\n")
