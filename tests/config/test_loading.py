"""The config: bad input with the message it earns, overrides, inheritance of phases, and what is written reads back equal."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_small.cli.options import split_overrides
from cifar_small.config import strict_yaml
from cifar_small.config.hashing import config_dict, config_hash, dump_config, recipe_hash
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.schema import SGD, Augment, Config
from cifar_small.config.schema.schedule import Cosine
from cifar_small.config.strict_yaml import dump_yaml, parse_yaml
from cifar_small.errors import ConfigError

MODEL = {"family": "wideresnet", "depth": 10, "widen_factor": 1}
BASE = "name: a\nmodel: {family: wideresnet, depth: 10, widen_factor: 1}\nphases:\n- {epochs: 4}\n"


def raw(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "model": MODEL, "phases": [{"epochs": 4}], **changes}


def refusal(tmp_path: Path, content: str | bytes, overrides: tuple[tuple[str, str], ...] = ()) -> str:
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_the_base_of_these_tests_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BASE)
    assert load_config(path) == parse_config(raw())


WHOLE_FILES = {
    "empty": ("", ["is empty", "name, model and phases"]),
    "comments only": ("# nothing\n", ["is empty"]),
    "list": ("[]", ["holds a list", "name, model and phases"]),
    "scalar": ("42", ["holds a int"]),
    "word": ("resnet", ["holds a str"]),
    "two documents": (BASE + "---\n" + BASE, ["line 5", "another document"]),
    "unclosed": ("name: [a, b\n", ["line 2"]),
    "tab": ("name:\n\t- a\n", ["line 2"]),
    "NUL": (BASE + "\0", ["not readable as YAML"]),
    "alias": ("a: &x 1\nb: *x\n", ["line 1, column 4", "anchors and aliases are not allowed"]),
    "alias alone": ("a: 1\nb: *x\n", ["line 2, column 4", "anchors and aliases are not allowed"]),
    "bomb": ("a: &x [*x, *x]\n", ["anchors and aliases are not allowed"]),
    "tag": ("a: !!python/object:os.system x\n", ["line 1, column 4", "tag", "not allowed"]),
    "int tag": ("a: !!int x\n", ["tag:yaml.org,2002:int is not allowed"]),
    "timestamp tag": ("a: !!timestamp x\n", ["tag:yaml.org,2002:timestamp is not allowed"]),
    "merge key": (BASE + "<<: {seed: 1}\n", ["<<: unknown key"]),
    "list as key": ("? [a]\n: 1\n", ["a key must be a word"]),
    "deep": ("[" * 100_000, ["not readable as YAML"]),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_whole_files_refused(tmp_path: Path, case: str) -> None:
    content, phrases = WHOLE_FILES[case]
    message = refusal(tmp_path, content)
    assert "c.yaml" in message
    for phrase in phrases:
        assert phrase in message


def test_duplicate_key_names_both_lines(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE + "seed: 1\noptim: {lr: 0.1}\nseed: 2\n")
    assert "line 7" in message
    assert "duplicate key 'seed' (first in line 5)" in message
    message = refusal(tmp_path, BASE + "optim:\n  lr: 0.1\n  momentum: 0.9\n  lr: 0.2\n")
    assert "line 8" in message
    assert "duplicate key 'lr' (first in line 6)" in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100.0),
        ("2.5e-1", 0.25),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5", -1.5),
        ("5_000_000", 5_000_000),
        ("50_000", 50_000),
        ("-7", -7),
        ("0", 0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_scalars_read_as_meant(text: str, value: object) -> None:
    got = parse_yaml(f"a: {text}", "here")["a"]
    assert got == value
    assert type(got) is type(value)


def test_what_one_reader_changes_another_does_not_see() -> None:
    """Texts are parsed once and kept."""
    first = parse_yaml("a: {b: [1, 2]}", "here")
    first["a"]["b"].append(3)
    assert parse_yaml("a: {b: [1, 2]}", "there") == {"a": {"b": [1, 2]}}
    for where in ("here", "there"):
        with pytest.raises(ConfigError, match=f"{where}: line 1, column 4 anchors"):
            parse_yaml("a: &x 1", where)


NOT_NUMBERS = "no yes on off No True NULL 010 0o10 0x1f 0b1 1_0 12_34 1_000.5 12:30:45 2020-01-01 1e e5 1__000 _1 = inf nan"


@pytest.mark.parametrize("text", NOT_NUMBERS.split())
def test_scalars_never_silently_converted(tmp_path: Path, text: str) -> None:
    assert parse_yaml(f"a: {text}", "here") == {"a": text}
    message = refusal(tmp_path, BASE + f"batch_size: {text}\n")
    assert "batch_size: " in message
    assert f'got "{text}"' in message


@pytest.mark.parametrize("text", ["no", "yes", "on", "1", "0", "True", '"true"'])
def test_only_true_and_false_are_booleans(tmp_path: Path, text: str) -> None:
    assert "optim.nesterov: " in refusal(tmp_path, BASE + f"optim: {{nesterov: {text}}}\n")


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**12), 10**12))
def test_python_numbers_read_back(number: float, whole: int) -> None:
    assert parse_yaml(repr(number), "here") == number
    assert type(parse_yaml(repr(number), "here")) is float
    for text in (str(whole), f"{whole:_}"):
        assert parse_yaml(text, "here") == whole
        assert type(parse_yaml(text, "here")) is int


UNKNOWN = [
    ({"sede": 3}, "sede: unknown key; did you mean 'seed'?"),
    ({"batchsize": 3}, "batchsize: unknown key; did you mean 'batch_size'?"),
    ({"epochs": 3}, "epochs: unknown key; did you mean phases.0.epochs?"),
    ({"lr": 0.3}, "lr: unknown key; did you mean optim.lr?"),
    ({"device": "cpu"}, "device: unknown key; did you mean engine.device?"),
    (
        {"schedule": {"name": "one_cycle", "pct_start": 0.2}},
        "schedule.pct_start: unknown key; did you mean schedule.rise?",
    ),
    ({"schedule": {"name": "cosine", "eta_min": 0.01}}, "schedule.eta_min: unknown key; did you mean schedule.min_lr?"),
    ({"augment": {"randaugment": True}}, "augment.randaugment: unknown key; did you mean augment.policy randaugment?"),
    (
        {"autoaugment": True},
        "autoaugment: unknown key; did you mean augment {engine: torchvision, policy: autoaugment_cifar10}?",
    ),
    ({"phases": [{"epochs": 1}, {"epochs": 1, "lr": 1}]}, "phases.1.lr: unknown key; did you mean phases.1.optim.lr?"),
    ({"optim": {"learning": 1}}, "optim.learning: unknown key; known here: name, lr, momentum"),
    ({"optim": {"weight_decy": 1}}, "optim.weight_decy: unknown key; did you mean 'weight_decay'?"),
    ({"model": {**MODEL, "widenfactor": 2}}, "model.widenfactor: unknown key; did you mean 'widen_factor'?"),
    (
        {"schedule": {"name": "cosine", "warmup_epoch": 2}},
        "schedule.warmup_epoch: unknown key; did you mean 'warmup_epochs'?",
    ),
    ({"phases": [{"epochs": 1}, {"epochs": 1, "mixup": 1}]}, "phases.1.mixup: unknown key; did you mean 'mixup_alpha'?"),
    ({"phases": [{"epochs": 1, "augment": {"cut": 1}}]}, "phases.0.augment.cut: unknown key; did you mean 'cutout'?"),
    ({"phases": [{"epochs": 1, "seed": 1}]}, "phases.0.seed: unknown key"),
]


@pytest.mark.parametrize(("changes", "message"), UNKNOWN)
def test_unknown_key_names_the_nearest(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(**changes), "mine.yaml")
    assert str(caught.value).startswith(f"mine.yaml: {message}")


OUT_OF_RANGE = [
    ("optim", {"lr": math.nan}, "optim.lr: ", "got NaN"),
    ("optim", {"lr": math.inf}, "optim.lr: ", "got Infinity"),
    ("optim", {"lr": -math.inf}, "optim.lr: ", "got -Infinity"),
    ("optim", {"lr": -0.1}, "optim.lr: ", "got -0.1"),
    ("optim", {"lr": 0}, "optim.lr: ", "got 0"),
    ("optim", {"lr": 0.0}, "optim.lr: ", "got 0.0"),
    ("optim", {"lr": 101}, "optim.lr: ", "got 101"),
    ("optim", {"lr": "0.1"}, "optim.lr: ", 'got "0.1"'),
    ("optim", {"lr": None}, "optim.lr: ", "got null"),
    ("optim", {"lr": True}, "optim.lr: ", "got true"),
    ("optim", {"lr": 10**400}, "optim.lr: ", "valid number"),
    ("optim", {"momentum": 1}, "optim.momentum: ", "less than 1"),
    ("optim", {"momentum": 0}, "optim: ", "nesterov needs momentum"),
    ("optim", {"weight_decay": -1e-4}, "optim.weight_decay: ", "-0.0001"),
    ("optim", {"clip_norm": 0}, "optim.clip_norm: ", "greater than 0"),
    ("optim", {"clip_norm": math.inf}, "optim.clip_norm: ", "finite number, got Infinity"),
    ("optim", {"name": "lamb"}, "optim.name: ", "lamb"),
    ("phases", [{"epochs": 0}], "phases.0.epochs: ", "got 0"),
    ("phases", [{"epochs": -3}], "phases.0.epochs: ", "got -3"),
    ("phases", [{"epochs": -2.5}], "phases.0.epochs: ", "got -2.5"),
    ("phases", [{"epochs": 2}, {}], "phases.1.epochs: ", "required"),
    ("phases", [], "phases: ", "at least 1"),
    ("phases", {}, "phases: ", "got {}"),
    ("phases", [5], "phases.0: ", "got 5"),
    ("seed", -1, "seed: ", "got -1"),
    ("seed", 2**32, "seed: ", "got 4294967296"),
    ("seed", 1.0, "seed: ", "got 1.0"),
    ("batch_size", 0, "batch_size: ", "got 0"),
    ("batch_size", 1, "batch_size: ", "got 1"),
    ("batch_size", -1, "batch_size: ", "got -1"),
    ("mixup_alpha", -0.1, "mixup_alpha: ", "got -0.1"),
    ("mixup_alpha", 101, "mixup_alpha: ", "got 101"),
    ("cutmix_alpha", 200, "cutmix_alpha: ", "got 200"),
    ("cutmix_alpha", math.nan, "cutmix_alpha: ", "NaN"),
    ("label_smoothing", 1, "label_smoothing: ", "less than 1"),
    ("ema_decay", 1, "ema_decay: ", "less than 1"),
    ("patience", 0, "patience: ", "got 0"),
    ("name", "a b", "name: ", "a b"),
    ("name", "../a", "name: ", "../a"),
    ("name", "a\n", "name: ", "a"),
    ("views", "flop", "views: ", "flip_shift"),
    ("views", "flip@1.5", "views: ", "above 0 and below 1, such as flip@0.25, got '1.5'"),
    ("views", "none@0.5", "views: ", "no effect"),
    ("views", {"set": "flip"}, "views: ", "expected {set: flip_shift, share: 0.25}"),
    ("views", 3, "views: ", "expected one of none"),
    ("augment", {"crop": 17}, "augment.crop: ", "got 17"),
    ("augment", {"flip": "rand"}, "augment.flip: ", "alternating"),
    ("augment", {"erasing": 0.5, "erasing_scale": [0.3, 0.2]}, "augment: ", "0 < low <= high"),
    ("augment", {"crop": 0, "pad": "zero"}, "augment: ", "pad has no effect while crop is 0"),
    ("augment", {"erasing_scale": [0.1, 0.2]}, "augment: ", "erasing_scale has no effect while erasing is 0"),
    ("mix_prob", 0.5, "", "mix_prob has no effect while mixup_alpha, cutmix_alpha and ricap_beta are 0"),
    ("schedule", {"name": "cosin"}, "schedule.name: ", 'cosine_restarts, one_cycle, piecewise, got "cosin"'),
    ("schedule", {"name": "cosine", "min_lr": 0.2}, "schedule.min_lr ", "0.2 is above optim.lr 0.1"),
    ("schedule", {"name": "cosine", "warmup_epochs": 4}, "schedule.warmup_epochs ", "is 4 but the schedule spans 4"),
    ("schedule", {"name": "constant", "warmup_epochs": -1}, "schedule.warmup_epochs: ", "got -1"),
    ("schedule", {"name": "multistep"}, "schedule.milestones: ", "required"),
    ("schedule", {"name": "multistep", "milestones": [4]}, "schedule.milestones [4]", "must increase and lie"),
    ("schedule", {"name": "multistep", "milestones": [1], "warmup_epochs": 1.5}, "1 lies within warmup_epochs", "later"),
    ("schedule", {"name": "multistep", "milestones": [2, 1]}, "schedule.milestones [2, 1]", "must increase and lie"),
    ("schedule", {"name": "multistep", "milestones": [2, 2]}, "schedule.milestones [2, 2]", "must increase and lie"),
    ("schedule", {"name": "multistep", "milestones": [1, 5]}, "schedule.milestones [1, 5]", "must increase and lie"),
    ("schedule", {"name": "multistep", "milestones": [0, 2]}, "schedule.milestones.0: ", "got 0"),
    ("model", {"family": "vgg"}, "model.family: ", "expected one of resnet, wideresnet"),
    ("model", {}, "model.family: ", "expected one of resnet, wideresnet"),
    ("model", {**MODEL, "depth": 17}, "model: ", "depth 17 is not 6n+4; nearest: 16"),
    ("model", {"family": "resnet", "widths": [8, 16], "blocks": [1, 1]}, "model: ", "widths has 2 stages"),
    ("model", {"family": "resnet", "widths": [8, 16, 32], "blocks": [1, 1]}, "model: ", "blocks has 2 entries"),
    ("model", {"family": "resnet", "widths": [8, 1.5, 32], "blocks": [1, 1, 1]}, "model.widths.1: ", "got 1.5"),
    ("data", {"val_size": 0}, "data.val_size: ", "got 0"),
    ("rules", {"max_params": 0}, "rules.max_params: ", "got 0"),
    ("engine", {"device": "gpu"}, "engine.device: expected auto, cpu, cuda or, of", 'cuda:0, got "gpu"; did you mean "cuda"?'),
    ("engine", {"device": "GPU 1"}, "engine.device: ", 'got "GPU 1"; did you mean "cuda:1"?'),
    ("engine", {"device": "tpu"}, "engine.device: ", 'cuda:0, got "tpu"'),
    ("name", "my run/1", "name: expected text of letters, digits and . _ - ", 'got "my run/1"; did you mean "my_run_1"?'),
    ("rules", {"submission": "ID"}, "rules.submission: expected two names of columns, such as ID,Labels", 'got "ID"'),
    ("rules", {"ids": "img"}, "rules.ids: expected 0 as the CSV writes it, such as 00000.png", 'got "img"'),
    ("model", {"family": "torchvision/a b"}, "model.family: expected one of resnet", "got 'torchvision/a b'"),
    ("engine", {"micro_batch_size": 0}, "engine.micro_batch_size: ", "got 0"),
    ("engine", {"micro_batch_size": 7}, "engine.micro_batch_size 7 ", "does not divide batch_size"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "where", "phrase"), OUT_OF_RANGE)
def test_out_of_range_names_the_key_and_the_value(key: str, value: Any, where: str, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(**{key: value}), "mine.yaml")
    message = str(caught.value)
    assert f" {where}" in message
    assert phrase in message


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"mixup_alpha": 1},
        {"cutmix_alpha": 0},
        {"batch_size": 2},
        {"optim": {"lr": 100}},
        {"phases": [{"epochs": 1}]},
        {"schedule": {"name": "cosine", "warmup_epochs": 3.99}},
        {"schedule": {"name": "cosine", "min_lr": 0.1}},
        {"schedule": {"name": "multistep", "milestones": [1, 3]}},
        {"augment": {"erasing": 0.5, "erasing_scale": [0.2, 0.2]}},
        {"optim": {"momentum": 0, "nesterov": False}},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes: dict[str, Any]) -> None:
    assert parse_config(raw(**changes)).name == "a"


@pytest.mark.parametrize("value", [10**400 + 1, 10**400])
@pytest.mark.parametrize("key", ["depth", "widen_factor"])
def test_sizes_beyond_all_measure_are_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"model.{key}"):
        parse_config(raw(model={**MODEL, key: value}))


def test_all_problems_of_the_top_level_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"nam": "a", "seed": -1, "optim": {"lr": math.nan, "foo": 1}, "model": MODEL, "phases": [{"epochs": 1}]})
    message = str(caught.value)
    assert message.startswith("config: 5 problems: ")
    for part in ("nam: unknown key; did you mean 'name'?", "name: field required", "seed: ", "optim.lr: ", "optim.foo: "):
        assert part in message


def test_all_problems_of_the_phases_at_once() -> None:
    phases = [{"epochs": 0, "optim": {"lr": -1}}, {"epochs": 2}, {"epochs": 1, "mixup_alpha": -2}, {"dropot": 0.1, "epochs": 1}]
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(phases=phases))
    message = str(caught.value)
    assert message.startswith("config: 4 problems: ")  # what phase 0 breaks is not reported again for those that inherit it
    for part in ("phases.0.epochs: ", "phases.0.optim.lr: ", "phases.2.mixup_alpha: ", "phases.3.dropot: unknown key"):
        assert part in message


def test_phases_of_one_schedule_have_its_problem_once_where_it_is_set() -> None:
    late = {"name": "cosine", "warmup_epochs": 9}
    with pytest.raises(
        ConfigError, match=r"^config: schedule\.warmup_epochs is 9 but the schedule spans 4 epochs; shorten it$"
    ):
        parse_config(raw(schedule=late, phases=[{"epochs": 3}, {"epochs": 1}]))
    with pytest.raises(ConfigError, match=r"^config: phases\.1\.schedule\.warmup_epochs is 9 but the schedule spans 1 epoch;"):
        parse_config(raw(phases=[{"epochs": 3}, {"epochs": 1, "schedule": late}]))


@pytest.mark.parametrize(
    ("family", "meant"),
    [
        ("resnet18", '"torchvision/resnet18" or "resnet", described by its sizes?'),
        ("efficientnet_b0", '"torchvision/efficientnet_b0"?'),
        ("wide-resnet", '"wideresnet"?'),
        ("vgg", ""),
    ],
)
def test_an_unknown_family_is_the_only_problem_of_its_section(family: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(model={"family": family, "widths": [8, 16, 32], "depth": 3}))
    assert str(caught.value) == (
        "config: model.family: expected one of resnet, wideresnet, whitened_resnet, torchvision/NAME, timm/NAME, "
        f"my_nets.py:Net, package.module:Net, got {family!r}{f'; did you mean {meant}' if meant else ''}"
    )


def test_schedule_problems_of_all_phases_at_once() -> None:
    late = {"name": "multistep", "milestones": [7]}
    phases = [{"epochs": 2, "schedule": {"name": "constant", "warmup_epochs": 2}}, {"epochs": 5, "schedule": late}]
    with pytest.raises(ConfigError, match=r"2 problems: phases\.0\.schedule\.warmup_epochs .*phases\.1\.schedule\.milestones"):
        parse_config(raw(phases=phases))


def test_problems_of_top_level_and_phases_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(seed=-1, phases=[{"epochs": 0}]))
    assert "seed: " in str(caught.value)
    assert "phases.0.epochs: " in str(caught.value)


def test_not_utf8_names_the_byte(tmp_path: Path) -> None:
    content = BASE.encode() + b"# caf\xe9\n"
    message = refusal(tmp_path, content)
    assert f"not UTF-8: byte 0xe9 at offset {content.index(0xE9)}" in message
    assert "byte 0xff at offset 0" in refusal(tmp_path, b"\xff\xfe" + BASE.encode("utf-16-le"))


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_config(path) == parse_config(raw())


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(tmp_path, BASE + "#" * (1_000_001 - len(BASE)))
    assert "1,000,001 bytes; a config has at most 1,000,000" in message
    monkeypatch.setattr(strict_yaml, "MAX_BYTES", len(BASE))  # a comment of a megabyte takes PyYAML a second
    assert f"{len(BASE) + 1} bytes" in refusal(tmp_path, BASE + "\n")
    path = tmp_path / "c.yaml"
    path.write_text(BASE)
    assert load_config(path).name == "a"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the config .*nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "optim: {lr: 0.3, momentum: 0.8}\n")
    arguments = ["--optim.lr", "1e-3", "--phases.0.epochs=7", "--seed=3", "--engine.device", "cpu", "--name", "b=c"]
    pairs = split_overrides(arguments[:-2])
    assert pairs == [("optim.lr", "1e-3"), ("phases.0.epochs", "7"), ("seed", "3"), ("engine.device", "cpu")]
    config = load_config(
        path, [*pairs, ("phases", "[{epochs: 5}, {epochs: 6}]"), ("phases.1.epochs", "9"), ("augment.crop", "2")]
    )
    assert (config.optim.lr, config.optim.momentum, config.seed, config.engine.device) == (0.001, 0.8, 3, "cpu")
    assert [phase.settings.epochs for phase in resolve_phases(config)] == [5, 9]
    assert config.augment.crop == 2
    assert split_overrides(["--name=b=c"]) == [("name", "b=c")]
    assert split_overrides(["--optim.lr", "-1"]) == [("optim.lr", "-1")]
    assert split_overrides([]) == []


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["--phases.1.epochs", "3"], ["override phases.1.epochs", "phases is a list of 1", "'1'"]),
        (["--phases.-1.epochs", "3"], ["phases is a list of 1", "'-1'"]),
        (["--phases.last.epochs", "3"], ["phases is a list of 1", "'last'"]),
        (["--model.widen_factr", "3"], ["model.widen_factr: unknown key; did you mean model.widen_factor?"]),
        (["--optim.lr"], ["--optim.lr needs a value"]),
        (["--optim.lr", "--seed", "3"], ["--optim.lr needs a value"]),
        (["optim.lr", "3"], ["unexpected argument 'optim.lr'", "settings are overridden by their own names"]),
        (["--seed="], ["seed: ", "null"]),
        (["--seed", "010"], ["seed: ", '"010"']),
        (["--optim", "{lr: 1, lr: 2}"], ["override optim: line 1, column 9", "duplicate key 'lr'"]),
        (["--optim", "{lr: *x}"], ["override optim:", "aliases are not allowed"]),
        (["--data.val_size.x", "3"], ["data.val_size"]),
    ],
)
def test_bad_overrides(tmp_path: Path, arguments: list[str], phrases: list[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BASE)
    with pytest.raises(ConfigError) as caught:
        load_config(path, split_overrides(arguments))
    for phrase in phrases:
        assert phrase in str(caught.value)


PROGRESSIVE = """
name: progressive
model: {family: wideresnet, depth: 10, widen_factor: 1, dropout: 0.4}
optim: {lr: 0.2, momentum: 0.8, weight_decay: 1e-3}
augment: {crop: 3, pad: reflect}
phases:
  - {epochs: 40, augment: {cutout: 16, erasing: 0.25, erasing_scale: [0.05, 0.3]}, mixup_alpha: 0.2, mix_prob: 0.8,
     dropout: 0.3, label_smoothing: 0.1, schedule: {name: cosine, warmup_epochs: 5, min_lr: 1.0e-4}}
  - {epochs: 10, augment: {cutout: 8}, mixup_alpha: 0.15}
  - {epochs: 10, dropout: 0.2, label_smoothing: 0.05}
  - {epochs: 10, optim: {lr: 0.05}, schedule: {name: multistep, milestones: [20]}}
  - {epochs: 10, augment: {crop: 0, cutout: 0, erasing: 0}, mixup_alpha: 0.0}
  - {epochs: 20, dropout: 0.1, augment: {crop: 1, erasing: 0.1}, mixup_alpha: 0.1}
"""


def test_six_progressive_phases(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(PROGRESSIVE)
    phases = resolve_phases(load_config(path))
    spans = [(phase.index, phase.start, phase.end, phase.schedule_start, phase.schedule_end) for phase in phases]
    assert spans == [
        (0, 0, 40, 0, 60),
        (1, 40, 50, 0, 60),
        (2, 50, 60, 0, 60),
        (3, 60, 70, 60, 100),
        (4, 70, 80, 60, 100),
        (5, 80, 100, 60, 100),
    ]
    every = [phase.settings for phase in phases]
    assert [one.epochs for one in every] == [40, 10, 10, 10, 10, 20]
    assert [one.dropout for one in every] == [0.3, 0.3, 0.2, 0.2, 0.2, 0.1]
    assert [one.label_smoothing for one in every] == [0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
    assert [one.mixup_alpha for one in every] == [0.2, 0.15, 0.15, 0.15, 0.0, 0.1]
    assert [one.mix_prob for one in every] == [0.8, 0.8, 0.8, 0.8, 1.0, 0.8]  # idle in phase 4, in force again in phase 5
    assert [one.optim.lr for one in every] == [0.2, 0.2, 0.2, 0.05, 0.05, 0.05]
    assert {(one.optim.momentum, one.optim.weight_decay) for one in every} == {(0.8, 0.001)}
    first = Cosine(name="cosine", warmup_epochs=5, min_lr=1e-4)
    assert [one.schedule == first for one in every] == [True] * 3 + [False] * 3
    assert {one.schedule.name for one in every[3:]} == {"multistep"}
    assert {one.schedule.warmup_epochs for one in every[3:]} == {0.0}  # a schedule of another name starts from its defaults
    heavy = {"crop": 3, "pad": "reflect", "erasing": 0.25, "erasing_scale": [0.05, 0.3]}
    light = Augment(crop=1, pad="reflect", erasing=0.1, erasing_scale=[0.05, 0.3])
    assert [one.augment for one in every] == [
        Augment(**heavy, cutout=16),
        *[Augment(**heavy, cutout=8)] * 3,
        Augment(crop=0),
        light,
    ]


def test_the_first_phase_inherits_from_the_top_level_and_the_model() -> None:
    config = parse_config(raw(model={**MODEL, "dropout": 0.25}, mixup_alpha=0.5, optim={"lr": 0.3}, label_smoothing=0.2))
    (phase,) = resolve_phases(config)
    assert (phase.settings.dropout, phase.settings.mixup_alpha, phase.settings.optim.lr) == (0.25, 0.5, 0.3)
    assert phase.settings.label_smoothing == 0.2
    assert phase.settings.schedule == Cosine()
    assert (phase.schedule_start, phase.schedule_end, phase.start, phase.end) == (0, 4, 0, 4)


def test_a_schedule_of_the_same_name_changes_single_keys_and_starts_again() -> None:
    schedule = {"name": "cosine", "warmup_epochs": 2, "min_lr": 0.01}
    phases = [{"epochs": 3}, {"epochs": 4, "schedule": {"warmup_epochs": 1}}, {"epochs": 5, "schedule": {"name": "cosine"}}]
    resolved = resolve_phases(parse_config(raw(schedule=schedule, phases=phases)))
    assert [(phase.schedule_start, phase.schedule_end) for phase in resolved] == [(0, 3), (3, 7), (7, 12)]
    assert [phase.settings.schedule.warmup_epochs for phase in resolved] == [2, 1, 1]
    assert [phase.settings.schedule.min_lr for phase in resolved] == [0.01] * 3


def test_naming_the_optimizer_again_keeps_its_other_settings() -> None:
    optim = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.0}
    config = parse_config(raw(optim=optim, phases=[{"epochs": 1}, {"epochs": 1, "optim": {"name": "sgd", "lr": 0.2}}]))
    second = resolve_phases(config)[1].settings.optim
    assert (second.lr, second.momentum, second.weight_decay) == (0.2, 0.5, 0.0)


def test_naming_an_optimizer_that_went_without_a_name_keeps_its_settings(tmp_path: Path) -> None:
    base = BASE + "optim: {lr: 0.4, weight_decay: 1.0e-3}\n"
    optim = load_config(extending(tmp_path, "extends: base.yaml\noptim: {name: sgd, momentum: 0.8}\n", base)).optim
    assert isinstance(optim, SGD)
    assert (optim.lr, optim.weight_decay, optim.momentum) == (0.4, 1e-3, 0.8)
    muon = {"name": "muon", "lr": 0.1, "head": {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.01}}
    phases = [{"epochs": 1}, {"epochs": 1, "optim": {"head": {"name": "sgd", "lr": 0.4}}}]
    head = resolve_phases(parse_config(raw(optim=muon, phases=phases)))[1].settings.optim.head  # type: ignore[union-attr]
    assert (head.lr, head.momentum, head.weight_decay) == (0.4, 0.5, 0.01)  # type: ignore[union-attr]


def test_mixing_is_turned_off_for_all_phases_by_mix_prob() -> None:
    config = parse_config(raw(cutmix_alpha=1.0, mix_prob=0.0, phases=[{"epochs": 1}, {"epochs": 1}]))
    assert [phase.settings.mixes for phase in resolve_phases(config)] == [False, False]


def test_a_phase_goes_back_to_the_size_of_evaluation_by_null() -> None:
    phases = [{"epochs": 1, "resolution": 24}, {"epochs": 1, "resolution": None}, {"epochs": 1}]
    for changes, side in (({}, 32), ({"input": {"size": 48}}, 48)):
        resolved = resolve_phases(parse_config(raw(phases=phases, **changes)))
        assert [phase.settings.resolution for phase in resolved] == [24, side, side]


IDLE = [
    ({"augment": {"crop": 0}}, {"augment": {"pad": "reflect"}}, "augment: pad has no effect"),
    ({"augment": {"crop": 0, "pad": "zero"}}, {}, "augment: pad has no effect"),
    ({"augment": {"erasing": 0, "erasing_scale": [0.1, 0.2]}}, {}, "augment: erasing_scale has no effect"),
    ({"mixup_alpha": 0, "mix_prob": 0.5}, {}, "mix_prob has no effect"),
    ({"mixup_alpha": 0}, {"mix_prob": 0.5}, "mix_prob has no effect"),
]


@pytest.mark.parametrize(("first", "second", "message"), IDLE)
def test_a_phase_that_sets_an_idle_value_is_refused(first: dict[str, Any], second: dict[str, Any], message: str) -> None:
    where = 1 if second else 0
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(mixup_alpha=0.2, phases=[{"epochs": 1, **first}, {"epochs": 1, **second}]))
    assert f" phases.{where}" in str(caught.value)
    assert message in str(caught.value)
    assert "problems" not in str(caught.value)


def test_an_inherited_idle_value_is_no_error() -> None:
    augment = {"crop": 4, "pad": "reflect", "erasing": 0.5, "erasing_scale": [0.1, 0.2]}
    off = {"epochs": 1, "augment": {"crop": 0, "erasing": 0}, "mixup_alpha": 0}
    on = {"epochs": 1, "augment": {"crop": 2, "erasing": 0.1}, "cutmix_alpha": 1}
    config = parse_config(raw(augment=augment, mixup_alpha=0.2, mix_prob=0.5, phases=[{"epochs": 1}, off, on]))
    settings = [phase.settings for phase in resolve_phases(config)]
    assert [one.mix_prob for one in settings] == [0.5, 1.0, 0.5]
    assert [one.augment.pad for one in settings] == ["reflect", "zero", "reflect"]
    assert [one.augment.erasing_scale for one in settings] == [(0.1, 0.2), (0.02, 0.2), (0.1, 0.2)]


def test_shares_of_mixing_follow_what_a_phase_turns_on_and_off() -> None:
    shares = {"mixup": 0.5, "cutmix": 0.25}
    off, other = {"epochs": 1, "mixup_alpha": 0}, {"epochs": 1, "mixup_alpha": 0, "mix_probs": {"cutmix": 1.0}}
    config = parse_config(
        raw(
            mixup_alpha=0.2,
            cutmix_alpha=1,
            mix_probs=shares,
            phases=[{"epochs": 1}, off, {"epochs": 1, "mixup_alpha": 1}, other],
        )
    )
    every = [phase.settings.mix_probs for phase in resolve_phases(config)]
    assert [(one.mixup, one.cutmix) for one in every if one] == [(0.5, 0.25), (0, 0.25), (0.5, 0.25), (0, 1.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mix_probs": {"mixup": 0.6, "cutmix": 0.6}},
            "mix_probs: the shares of the batches add up to 1.2; they must",
        ),
        ({"mix_probs": {"mixup": 0.6, "cutmixx": 0.1}}, "mix_probs.cutmixx: unknown key; did you mean 'cutmix'?"),
        ({"mix_probs": {"mixup": 0.6}}, "phases.0: cutmix_alpha 1 has no effect without a share: set mix_probs.cutmix"),
        (
            {"mix_probs": {"mixup": 0.6, "cutmix": 0.1, "ricap": 0.1}},
            "mix_probs.ricap has no effect while ricap_beta is 0 in every phase",
        ),
        ({"mix_probs": {"mixup": 0.6, "cutmix": 0.1}, "mix_prob": 0.5}, "mix_prob 0.5 has no effect beside mix_probs"),
        (
            {"phases": [{"epochs": 1, "mix_probs": {"mixup": 0.6, "cutmix": 0.1, "ricap": 0.1}}]},
            "phases.0: mix_probs.ricap 0.1 has no effect while ricap_beta is 0",
        ),
    ],
)
def test_shares_of_mixing_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw(**{"mixup_alpha": 0.2, "cutmix_alpha": 1, **changes}))
    assert message in str(caught.value)


ROUND_TRIPS = {
    "bare": raw(),
    "tiny": tiny_raw(),
    "everything off": raw(augment={"crop": 0, "flip": "none"}, optim={"momentum": 0, "nesterov": False}),
    "everything on": raw(
        seed=2**32 - 1,
        augment={"crop": 2, "pad": "reflect", "cutout": 8, "erasing": 0.5, "erasing_scale": [0.1, 0.3]},
        mixup_alpha=0.2,
        cutmix_alpha=1,
        mix_prob=0.7,
        ema_decay=0.999,
        schedule={"name": "multistep", "milestones": [1, 3], "gamma": 0.2},
        patience=3,
        data={"root": "a folder: with # odd 'signs'", "train_limit": 10},
        engine={"compile": True, "device": "cuda:1"},
        phases=[{"epochs": 4}, {"epochs": 1, "augment": {"crop": 0}, "mixup_alpha": 0, "cutmix_alpha": 0}],
    ),
    "phases turn things on": raw(phases=[{"epochs": 2}, {"epochs": 1, "mixup_alpha": 0.1, "mix_prob": 0.5}]),
    "shares of mixing": raw(
        mix_probs={"mixup": 0.3, "cutmix": 0.2},
        mixup_alpha=0.1,
        phases=[{"epochs": 2, "cutmix_alpha": 1.0}, {"epochs": 1, "cutmix_alpha": 0}],
    ),
    "muon with adamw": raw(optim={"name": "muon", "lr": 0.1, "bias": {"name": "adamw", "lr": 0.01}, "head": {"lr": 0.3}}),
    "phases turn off the crop": raw(phases=[{"epochs": 2, "augment": {"crop": 0}}, {"epochs": 1, "augment": {"cutout": 4}}]),
    "number as name": raw(name="010"),
    "small rates": raw(optim={"lr": 1e-05, "weight_decay": 1e-7}),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_dump_reads_back_equal(tmp_path: Path, case: str) -> None:
    config = parse_config(ROUND_TRIPS[case])
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    back = load_config(path)
    assert back == config
    assert config_hash(back) == config_hash(config)
    assert resolve_phases(back) == resolve_phases(config)
    assert dump_config(back) == dump_config(config)


def test_dump_of_a_named_optimizer_resolves_equal(tmp_path: Path) -> None:
    config = parse_config(raw(optim={"momentum": 0.5}, phases=[{"epochs": 1, "optim": {"name": "sgd", "lr": 0.2}}]))
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    assert resolve_phases(load_config(path)) == resolve_phases(config)


@pytest.mark.parametrize("changes", [{"name": "1e5"}, {"data": {"root": "2e3"}}])
def test_dump_of_text_that_looks_like_a_number(changes: dict[str, Any]) -> None:
    config = parse_config(raw(**changes))
    assert parse_config(parse_yaml(dump_config(config), "again")) == config


def test_recipe_hash_is_the_same_for_seeds_and_devices_only() -> None:
    base = recipe_hash(parse_config(raw()))
    same = [{"seed": 9}, {"engine": {"device": "cpu", "threads": 1, "compile": True}}, {"data": {"root": "elsewhere"}}]
    other = [{"optim": {"lr": 0.2}}, {"batch_size": 64}, {"phases": [{"epochs": 5}]}, {"engine": {"precision": "bf16"}}]
    other += [{"data": {"split_seed": 1}}, {"model": {**MODEL, "depth": 16}}, {"phases": [{"epochs": 4, "dropout": 0.1}]}]
    assert [recipe_hash(parse_config(raw(**changes))) == base for changes in same] == [True] * len(same)
    hashes = {recipe_hash(parse_config(raw(**changes))) for changes in other}
    assert len(hashes | {base}) == len(other) + 1
    assert len({config_hash(parse_config(raw(**changes))) for changes in [{}, *same]}) == len(same) + 1


def test_the_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_config(raw()).seed = 3  # type: ignore[misc]


SEED_TEXT = (
    b"name: a\nseed: 3\nmodel: {family: wideresnet, depth: 10, widen_factor: 1}\noptim: {lr: 1e-1}\nphases:\n- {epochs: 4}\n"
)
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"- ",
    b"? ",
    b"&a ",
    b"*a",
    b"!!int ",
    b"!!timestamp ",
    b"!!python/name:os ",
    b"\n",
    b"\t",
]
TOKENS += [b"%", b"@", b"|", b">", b"'", b'"', b"#", b".nan", b".inf", b"1e400", b"-1", b"0", b"9", b"null", b"true", b"<<: "]
TOKENS += [b"\x00", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"---\n", b"...", b"9" * 18, b"\\x", b",", b"  ", b"\x85"]


def mutated(rng: random.Random) -> bytes:
    text = SEED_TEXT
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(4):
            case 0:
                text = text[:at] + text[at + rng.randrange(1, 12) :]
            case 1:
                text = text[:at] + rng.choice(TOKENS) + text[at:]
            case 2:
                text = text[:at] + rng.choice(TOKENS) + text[at + 1 :]
            case _:
                lines = text.split(b"\n")
                lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                text = b"\n".join(lines)
    return text


def test_thousands_of_mutated_configs_raise_nothing_but_config_errors(tmp_path: Path) -> None:
    rng = random.Random(20_240_607)
    path = tmp_path / "c.yaml"
    valid = refused = 0
    for number in range(2_500):
        content = mutated(rng)
        path.write_bytes(content)
        try:
            config = load_config(path)
        except ConfigError as error:
            refused += bool(str(error))
            continue
        except Exception as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}\n{content!r}") from error
        valid += 1
        assert isinstance(config, Config)
        if valid <= 50:
            assert resolve_phases(config)[-1].end >= 1
            assert parse_config(parse_yaml(dump_config(config), "again")) == config
    assert valid > 75
    assert refused > 1250
    assert valid + refused == 2_500


def extending(tmp_path: Path, text: str, base: str = BASE, name: str = "base.yaml") -> Path:
    (tmp_path / name).write_text(base)
    path = tmp_path / "variant.yaml"
    path.write_text(text)
    return path


def test_a_variant_names_only_what_differs(tmp_path: Path) -> None:
    base = BASE + "optim: {name: sgd, lr: 0.2, momentum: 0.8}\naugment: {crop: 4, cutout: 8}\nlabel_smoothing: 0.1\nseed: 3\n"
    text = (
        "extends: base.yaml\nname: b\nseed: 5\noptim: {lr: 0.4}\naugment: {cutout: 0}\nphases:\n- {epochs: 2}\n- {epochs: 3}\n"
    )
    config = load_config(extending(tmp_path, text, base), [("optim.momentum", "0.7")])
    assert config == parse_config(
        raw(
            name="b",
            seed=5,
            optim={"name": "sgd", "lr": 0.4, "momentum": 0.7},
            augment={"crop": 4, "cutout": 0},
            label_smoothing=0.1,
            phases=[{"epochs": 2}, {"epochs": 3}],
        )
    )
    (tmp_path / "whole.yaml").write_text(dump_config(config))
    assert "extends" not in (tmp_path / "whole.yaml").read_text()
    assert load_config(tmp_path / "whole.yaml") == config


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("optim", {"name": "muon", "lr": 0.1}),
        ("augment", {"engine": "torchvision", "policy": "augmix"}),
        ("model", {"family": "resnet", "widths": [8, 16, 32], "blocks": [1, 1, 1]}),
    ],
)
def test_a_section_of_another_kind_replaces_the_inherited_one(tmp_path: Path, section: str, value: dict[str, Any]) -> None:
    base = BASE + "optim: {name: sgd, momentum: 0.8}\naugment: {crop: 4, cutout: 8}\n"
    written = dump_yaml({"extends": "base.yaml", section: value})
    expected = {"optim": {"name": "sgd", "momentum": 0.8}, "augment": {"crop": 4, "cutout": 8}, section: value}
    assert load_config(extending(tmp_path, written, base)) == parse_config(raw(**expected))


def test_extends_is_relative_to_its_own_file_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "deeper"
    folder.mkdir()
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nbatch_size: 32\n")
    (folder / "variant.yaml").write_text("extends: ../middle.yaml\nname: c\n")
    assert load_config(folder / "variant.yaml") == parse_config(raw(name="c", batch_size=32))


@pytest.mark.parametrize(
    ("text", "base", "parts"),
    [
        ("extends: nowhere.yaml\n", BASE, ["variant.yaml extends nowhere.yaml", "does not exist", "own folder"]),
        ("extends: 3\n", BASE, ["variant.yaml: extends is 3", "expected the path of another config"]),
        ("extends: variant.yaml\n", BASE, ["variant.yaml extends", "a config cannot extend itself"]),
        ("extends: base.yaml\n", "extends: variant.yaml\n", ["base.yaml extends", "a config cannot extend itself"]),
        ("extends: base.yaml\n", "", ["base.yaml is empty"]),
        ("extends: base.yaml\nbatch_sise: 3\n", BASE, ["variant.yaml: batch_sise: unknown key; did you mean 'batch_size'?"]),
        ("extends: base.yaml\n", BASE + "batch_sise: 3\n", ["variant.yaml: batch_sise: unknown key"]),
        ("extends: base.yaml\nextend: a.yaml\n", BASE, ["variant.yaml: extend: unknown key"]),
    ],
)
def test_what_is_wrong_with_a_variant_is_one_line(tmp_path: Path, text: str, base: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(extending(tmp_path, text, base))
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_former_names_are_read_and_hashed_as_ever() -> None:
    former = parse_config(raw(name="r3_resnet_4443", views="r3"))
    assert (former.name, former.views) == ("resnet_4443_two_runs", "flips_shift_blur")
    assert former == parse_config(raw(name="resnet_4443_two_runs", views="flips_shift_blur"))
    assert "r3" not in dump_config(former)
    expected = config_dict(former) | {"name": "r3_resnet_4443", "views": "r3"}
    assert config_hash(former) == hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()


def test_selective_views_are_read_in_both_forms_and_written_in_one() -> None:
    config = parse_config(raw(views={"set": "flip_shift", "share": 0.250}))
    assert config == parse_config(raw(views="flip_shift@0.25"))
    assert config_dict(config)["views"] == config.views == "flip_shift@0.25"
    assert config_hash(config) != config_hash(parse_config(raw(views="flip_shift")))


@pytest.mark.parametrize("share", ["0.9999999", "0.99999951", "0.5", "0.3333333333", "1e-7"])
def test_a_share_of_views_is_written_so_that_it_can_be_read(share: str) -> None:
    config = parse_config(raw(views=f"flip@{share}"))
    assert parse_config(config_dict(config)) == config
    assert float(config.views.partition("@")[2]) == pytest.approx(float(share), rel=1e-5)
