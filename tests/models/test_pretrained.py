"""Files of weights: what is read, what is refused, the caches, and that no path waits for a network that is not there."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st

import cifar_small.models.pretrained as module
from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.config.published import HUB_FILE, PUBLISHED, Published
from cifar_small.config.schema import Data
from cifar_small.data import load_train
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.models import build_model
from cifar_small.models.pretrained import cached, fetch, locate, read_state, read_wrapped, unwrapped, verify
from cifar_small.training.initial_weights import PretrainedInit, load_pretrained
from cifar_small.training.train import train

safetensors = pytest.importorskip("safetensors.torch")
hub = pytest.importorskip("huggingface_hub")
hub_constants = pytest.importorskip("huggingface_hub.constants")

STATE = {"conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn1.num_batches_tracked": torch.tensor(3)}


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CONTENT = {".pth": torch_bytes(STATE), ".safetensors": safetensors.save(STATE)}


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)


# ----------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", CONTENT)
def test_a_state_dict_is_read_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(CONTENT[suffix])
    assert same(read_state(path))


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "args": {"lr": 0.1}},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {f"module._orig_mod.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
        {"pytorch-lightning_version": "2.4", "state_dict": {f"model.{name}": value for name, value in STATE.items()}},
        {"n_averaged": torch.tensor(7), **{f"module.{name}": value for name, value in STATE.items()}},
        {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1), **STATE},
        {"net": STATE, "acc": 95.1, "epoch": 199},
        {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
        {"state_dict": {name: 0 * value for name, value in STATE.items()}, "state_dict_ema": STATE},
        {"ema": {"module": STATE}},
    ],
)
def test_the_wrappings_of_training_scripts_are_taken_off(wrapped: dict[str, Any], tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "weights.pth")
    assert same(read_state(tmp_path / "weights.pth"))


def test_averaged_weights_are_taken_before_raw_ones_and_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": {"a": torch.ones(1)}}, tmp_path / "both.pth")
    state, where = read_wrapped(tmp_path / "both.pth")
    assert (state["a"].item(), where) == (1, "state_dict_ema")
    torch.save({"generator": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="its content holds 'generator', 'epoch'; expected tensors by name, alone or"):
        read_state(tmp_path / "other.pth")


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("true",))


REFUSED: list[tuple[str, bytes, str]] = [
    ("a.pth", b"", r"\(0 bytes, empty\) cannot be read as weights"),
    ("a.safetensors", b"", r"\(0 bytes, empty\) cannot be read as weights"),
    ("a.pth", b"<!DOCTYPE html><html>", r"HTML or XML\) cannot be read as weights"),
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1", r"git-lfs pointer\) cannot be read"),
    ("a.pth", CONTENT[".pth"][:200], "cannot be read as weights"),
    ("a.safetensors", CONTENT[".safetensors"][:-1], "cannot be read as weights"),
    ("a.safetensors", CONTENT[".pth"], "cannot be read as weights"),
    ("a.pth", pickle.dumps(Evil()), "cannot be read as weights"),
    ("a.pth", torch_bytes({"a": Evil()}), "it contains pickled Python objects; save model.state_dict"),
    ("a.pth", CONTENT[".pth"][:-40], "truncated, or not written by torch.save"),
    ("a.pth", torch_bytes([1, 2]), r"is not a state dict: its content holds a list with no tensors; expected tensors by name"),
    ("a.pth", torch_bytes({}), "is not a state dict"),
    (
        "a.pth",
        torch_bytes({0: torch.ones(2), 1: torch.ones(2)}),
        "is not a state dict: its content holds 0, 1; expected",
    ),
    ("a.pth", torch_bytes({"a": torch.ones(2), "b": "text"}), "is not a state dict"),
    ("a.pth", torch_bytes({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}), "NaN or infinite numbers, first in b"),
    (
        "best.pt",
        torch_bytes({"format": 1, "weights": STATE, "config": {}}),
        "is a checkpoint of a run; set weights",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_what_is_no_state_dict_is_one_clear_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the weights .*nowhere\.pth: No such file"):
        read_state(tmp_path / "nowhere.pth")


@settings(max_examples=60, deadline=None)
@given(suffix=st.sampled_from(sorted(CONTENT)), share=st.floats(0, 0.999))
def test_a_file_cut_short_anywhere_is_refused(suffix: str, share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / f"a{suffix}"
    path.write_bytes(CONTENT[suffix][: int(share * len(CONTENT[suffix]))])
    with pytest.raises(CheckpointError):
        read_state(path)


def test_without_safetensors_its_files_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").write_bytes(CONTENT[".safetensors"])
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(
        UserError, match=r"safetensors is needed and is not installed .*pip install 'cifar_small\[pretrained\]'"
    ):
        read_state(tmp_path / "a.safetensors")


# ------------------------------------------------------------------------------------------------------------------ caches


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torchvision and of the hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


DIGEST = hashlib.sha256(CONTENT[".pth"]).hexdigest()
TV = Published("torchvision/resnet18", f"net-{DIGEST[:8]}.pth", 224, "bilinear", "bsd-3-clause")
TIMM = PUBLISHED["timm/resnet18"]


def put_in_hub_cache(root: Path, content: bytes, promised: str | None = None) -> Path:
    """What the hub's client leaves: a snapshot that links to a blob named by its SHA-256."""
    folder = root / "hub" / f"models--{TIMM.source.replace('/', '--')}"
    blob = folder / "blobs" / (promised or hashlib.sha256(content).hexdigest())
    link = folder / "snapshots" / ("a" * 40) / HUB_FILE
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / "main").write_text("a" * 40)
    return link


def test_cached_files_are_found_where_the_libraries_keep_them(caches: Path) -> None:
    assert cached(TV) is None
    assert cached(TIMM) is None
    place = caches / "torch" / "hub" / "checkpoints" / TV.source
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT[".pth"])
    link = put_in_hub_cache(caches, CONTENT[".safetensors"])
    assert locate(TV) == cached(TV) == place
    assert locate(TIMM) == cached(TIMM) == link
    assert verify(TV, place) == DIGEST
    assert same(read_state(link))


def test_a_cached_file_with_one_other_bit_is_refused(caches: Path) -> None:
    place = caches / "torch" / "hub" / "checkpoints" / TV.source
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT[".pth"][:-30] + b"!" + CONTENT[".pth"][-29:])
    with pytest.raises(
        CheckpointError, match=rf"is damaged.*expected {DIGEST[:8]}; delete it and run: cifar-small weights fetch"
    ):
        locate(TV)
    put_in_hub_cache(caches, CONTENT[".safetensors"], promised="b" * 64)
    with pytest.raises(CheckpointError, match=r"is damaged.*expected bbbbbbbb; delete it"):
        locate(TIMM)


def test_fetch_downloads_once_and_says_what_came(
    caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def download(url: str, digest: str, target: Path, *, algorithm: str) -> None:
        asked.append((url, digest, algorithm))
        target.parent.mkdir(parents=True)
        target.write_bytes(CONTENT[".pth"])

    def from_hub(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(put_in_hub_cache(caches, CONTENT[".safetensors"]))

    monkeypatch.setitem(PUBLISHED, TV.family, TV)
    monkeypatch.setattr(module, "require_answer", lambda url: None)
    monkeypatch.setattr(module, "download", download)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url: asked.append(url))
    monkeypatch.setattr(hub, "hf_hub_download", from_hub)
    names = [TV.family, TIMM.family]
    assert main(["weights", "fetch", *names]) == 0
    assert asked == [
        (f"https://download.pytorch.org/models/{TV.source}", DIGEST[:8], "sha256"),
        "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        ("timm/resnet18.a1_in1k", "model.safetensors"),
    ]
    size = len(CONTENT[".pth"])
    assert f"torchvision/resnet18: downloaded, {size:,} bytes, sha256 {DIGEST}" in capsys.readouterr().out
    assert main(["weights", "fetch", *names]) == 0
    assert len(asked) == 3
    assert capsys.readouterr().out.count("already cached") == 2
    assert main(["weights", "verify"]) == 0
    assert f"intact, 2 tensors, sha256 {DIGEST}" in capsys.readouterr().out
    (caches / "torch" / "hub" / "checkpoints" / TV.source).write_bytes(b"other")
    assert main(["weights", "verify"]) == 1
    assert "torchvision/resnet18: " in (said := capsys.readouterr().out)
    assert "is damaged" in said
    assert main(["weights", "list", *names, "timm/resnet50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*names, "timm/resnet50"]
    assert lines[0].endswith(TV.source)
    assert lines[2].endswith("not cached")


def test_verify_and_names_that_are_not_there(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "verify"]) == 0
    assert "no weights are cached" in capsys.readouterr().out
    assert main(["weights", "verify", "timm/resnet50"]) == 1
    assert "timm/resnet50: not cached; run: cifar-small weights fetch timm/resnet50" in capsys.readouterr().out
    assert main(["weights", "fetch", "timm/resnet5"]) == 2
    assert "unknown net 'timm/resnet5'; did you mean timm/resnet50?" in capsys.readouterr().err
    assert main(["weights", "fetch"]) == 2
    assert "name the nets to fetch" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- no network


@pytest.fixture
def no_network(caches: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name fails to resolve and every connection fails; what was tried is listed."""
    tried: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(str(arguments[-1] if isinstance(arguments[0], socket.socket) else arguments[0]))
        raise OSError(-3, "Temporary failure in name resolution")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def raw(family: str) -> dict[str, Any]:
    rules = {"max_params": 30_000_000, "rows": None, "pretrained": True}
    return tiny_raw(rules=rules, model={"family": family}, weights="imagenet", input={"size": 32})


def seconds_of(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@pytest.mark.parametrize("address", ["https://[bad", "https://a..b", "no address"])
def test_what_is_no_address_does_not_count_as_a_server_that_answers(address: str) -> None:
    with pytest.raises(OSError, match="is no address"):
        module.require_answer(address, 5.0)


@pytest.mark.parametrize("family", ["torchvision/mobilenet_v3_small", "timm/mobilenet_v3_small"])
def test_training_without_a_network_says_at_once_what_is_missing(family: str, tmp_path: Path, no_network: list[str]) -> None:
    config = parse_config(raw(family))
    folder = "hub/checkpoints" if family.startswith("torchvision") else "hub"

    def refused() -> None:
        with pytest.raises(CheckpointError) as caught:
            fetch(PUBLISHED[family])
        message = str(caught.value)
        source = PUBLISHED[family].source
        assert message.startswith(f"weights imagenet of {family} ({source}) are not in {tmp_path}")
        assert f"{folder} and cannot be downloaded ([Errno -3] Temporary failure in name resolution)" in message
        assert f"`cifar-small weights fetch {family}` on a machine with a network" in message
        assert "weights: FILE.safetensors" in message
        assert "weights: null" in message
        assert "\n" not in message

    module._hub()  # imports are not what is measured
    assert seconds_of(refused) < 1.5
    assert len(no_network) == 1  # nothing is tried twice
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["torchvision/resnet18", "timm/resnet18"])
def test_the_command_ends_with_its_line_and_exit_code(
    family: str, no_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    module._hub()
    assert seconds_of(lambda: main(["weights", "fetch", family])) < 1
    assert main(["weights", "fetch", family]) == 4
    assert capsys.readouterr().err.splitlines()[0].startswith(f"cifar-small: error: weights imagenet of {family}")
    assert main(["weights", "list"]) == 0  # asks no network
    assert len(no_network) == 2


def test_a_network_that_swallows_everything_is_given_up(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)

    def swallow(*_: Any, **__: Any) -> Any:
        time.sleep(1.5)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", swallow)
    for family in ("torchvision/resnet18", "timm/resnet18"):
        module._hub()
        began = time.perf_counter()
        with pytest.raises(CheckpointError, match=r"does not answer within 0\.2 s"):
            fetch(PUBLISHED[family])
        assert time.perf_counter() - began < 1


@pytest.mark.parametrize("family", ["torchvision/resnet18", "timm/resnet18"])
def test_a_proxy_that_accepts_and_stays_silent_is_given_up(family: str, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module._hub()
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")

        def refused() -> None:
            with pytest.raises(CheckpointError, match=r"does not answer within 0\.3 s"):
                fetch(PUBLISHED[family])

        assert seconds_of(refused) < 1.5


def test_a_hub_that_answers_the_door_and_then_fails_is_asked_once(
    caches: Path, no_network: list[str], monkeypatch: Any
) -> None:
    """Its own client would look for two files five times each, waiting longer every time."""
    monkeypatch.setattr(module, "require_answer", lambda url: None)
    module._hub()

    def refused() -> None:
        with pytest.raises(
            CheckpointError, match=r"timm/resnet18 \(timm/resnet18\.a1_in1k\) are not in .*cannot be downloaded"
        ):
            fetch(TIMM)

    assert seconds_of(refused) < 2


def test_the_proxy_is_asked_where_there_is_one(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def connect(address: Any, *_: Any, **__: Any) -> Any:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", connect)
    for proxy in ("http://proxy.example:3128", "proxy.example:3128"):
        monkeypatch.setenv("https_proxy", proxy)
        with pytest.raises(CheckpointError, match="Connection refused"):
            fetch(PUBLISHED["torchvision/resnet18"])
    monkeypatch.setenv("no_proxy", "download.pytorch.org")
    with pytest.raises(CheckpointError, match="Connection refused"):
        fetch(PUBLISHED["torchvision/resnet18"])
    assert asked == [("proxy.example", 3128), ("proxy.example", 3128), ("download.pytorch.org", 443)]


def test_the_data_set_says_so_too(no_network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIFAR_SMALL_DATA", raising=False)
    monkeypatch.setattr("cifar_small.data.cifar._CACHE", tmp_path / "cache")

    def refused() -> None:
        with pytest.raises(DataError, match=r"cannot download https://www\.cs\.toronto\.edu.*put it at .*CIFAR_SMALL_DATA"):
            load_train(Data())

    assert seconds_of(refused) < 1
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_a_net_under_any_prefix_is_found_by_the_names_of_its_tensors() -> None:
    own = build_model(parse_config(tiny_raw()).model, 10).state_dict()
    lightning = {f"student.net.{name}": value for name, value in own.items()}
    lightning |= {"criterion.weight": torch.ones(10), "val_accuracy.total": torch.zeros(1)}
    found, prefix = unwrapped(lightning, own.keys())
    assert (prefix, found.keys()) == ("student.net.", own.keys())
    assert unwrapped(own, own.keys()) == (own, "")
    other = {f"encoder.{name}": value for name, value in list(own.items())[:3]}
    assert unwrapped(other, own.keys()) == (other, "")
    with pytest.raises(CheckpointError, match=r"hold such a net twice, under '(student|teacher)\.' and"):
        unwrapped({f"{who}.{name}": value for who in ("student", "teacher") for name, value in own.items()}, own.keys())
    net = build_model(parse_config(tiny_raw(seed=1)).model, 10)
    line = load_pretrained(net, PretrainedInit("x.pth", lightning, (), []), tuple("0123456789"))
    assert f" from under 'student.net.' of its {len(lightning)} tensors, classifier re-initialized" in line
    assert torch.equal(net.state_dict()["conv1.weight"], own["conv1.weight"])


def test_a_classifier_by_another_name_is_said_to_be_included() -> None:
    """Only `fc` is known to be one, so that all was loaded; it said re-initialized."""
    first, net = torch.nn.Sequential(torch.nn.Linear(3, 10)), torch.nn.Sequential(torch.nn.Linear(3, 10))
    line = load_pretrained(net, PretrainedInit("x.pth", first.state_dict(), (), []), tuple("0123456789"))
    assert line == "initialized from x.pth: 40 parameters loaded, classifier included: no part of this net is called fc"
    assert torch.equal(net[0].weight, first[0].weight)


@pytest.mark.parametrize("inside", ["net", "model", "module.net"])
@pytest.mark.parametrize("outside", ["", "module.", "student."])
def test_a_net_whose_only_part_is_called_as_wrappers_are_takes_its_own_weights(
    inside: str, outside: str, tmp_path: Path
) -> None:
    net = torch.nn.Module()
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    for name in reversed(inside.split(".")[1:]):
        holder = torch.nn.Module()
        holder.add_module(name, body)
        body = holder  # type: ignore[assignment]
    net.add_module(inside.split(".")[0], body)
    drawn = {name: torch.rand(value.shape).to(value.dtype) for name, value in net.state_dict().items()}
    torch.save({outside + name: value for name, value in drawn.items()}, tmp_path / "weights.pth")
    load_pretrained(net, PretrainedInit("weights.pth", read_state(tmp_path / "weights.pth"), (), []), tuple("0123456789"))
    assert all(torch.equal(value, drawn[name]) for name, value in net.state_dict().items())
