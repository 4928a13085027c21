"""Publishing: the real client against a hub of a few lines, and every way it can be refused, in words and at once."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from conftest import tiny_raw
from huggingface_hub.utils import close_session

from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.errors import CheckpointError, UserError
from cifar_small.export.hub import push
from cifar_small.export.weights_folder import FILES, export
from cifar_small.files import sha256_bytes
from cifar_small.runs.directory import Run
from cifar_small.training.train import train

TOKEN = "hf_" + "x" * 30


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers to the client on its way to a commit, every file sent in the commit itself."""

    def answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.server.tokens.append(self.headers.get("Authorization"))
        self.answer({}, 404)  # an answer is an answer

    def do_GET(self) -> None:
        repo = self.path.removeprefix("/api/models/").partition("?")[0]
        if repo in self.server.private:
            self.answer({"id": repo, "_id": "1", "private": self.server.private[repo], "tags": [], "downloads": 0, "likes": 0})
        else:
            self.answer({"error": "no such thing"}, 404)

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.tokens.append(self.headers["Authorization"])
        if hub.refuse and hub.refuse[0] in self.path:
            self.answer({"error": "no"}, hub.refuse[1])
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if repo in hub.private else 200
            hub.private.setdefault(repo, wanted.get("visibility") == "private" or bool(wanted.get("private")))
            self.answer({"url": f"{hub.url}/{repo}"}, status)
        elif self.path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self.answer({"files": files})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            hub.messages += [line["value"]["summary"] for line in lines if line["key"] == "header"]
            files = (line["value"] for line in lines if line["key"] == "file")
            hub.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            self.answer({"commitUrl": f"{hub.url}/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        running.url = f"http://127.0.0.1:{running.server_port}"
        running.private, running.files, running.messages, running.tokens = {}, {}, [], []
        running.refuse = None  # (part of a path, status)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        close_session()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        close_session()
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub")
    train(parse_config(tiny_raw(phases=[{"epochs": 1}])), place / "run", quiet=True)
    export(Run(place / "run"), place / "folder")
    return place / "folder"


def test_the_files_arrive_whole_in_a_private_repository_made_for_them(hub: Any, folder: Path) -> None:
    assert push(folder, "me/tiny") == f"{hub.url}/me/tiny"
    assert hub.private == {"me/tiny": True}
    assert hub.files == {name: (folder / name).read_bytes() for name in FILES}
    assert len(hub.messages) == 1
    assert set(hub.tokens[1:]) == {f"Bearer {TOKEN}"}
    assert hub.tokens[0] is None  # whether the hub is there is asked without the token


def test_nothing_but_the_export_is_uploaded(hub: Any, folder: Path) -> None:
    (folder / "secret.txt").write_text("mine")
    try:
        push(folder, "me/tiny", private=False)
    finally:
        (folder / "secret.txt").unlink()
    assert hub.private == {"me/tiny": False}
    assert hub.files.keys() == set(FILES)


def test_code_of_the_users_own_is_uploaded_with_the_net(hub: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "folder")
    (tmp_path / "folder" / "my_nets.py").write_text("class Net: ...")
    facts = json.loads((folder / "config.json").read_text())
    facts["sha256"]["my_nets.py"] = sha256_bytes(b"class Net: ...")
    (tmp_path / "folder" / "config.json").write_text(json.dumps(facts))
    push(tmp_path / "folder", "me/tiny")
    assert hub.files.keys() == {*FILES, "my_nets.py"}


@pytest.mark.parametrize(("private", "word"), [(True, "public"), (False, "private")])
def test_a_repository_of_another_visibility_is_not_written_to(hub: Any, folder: Path, private: bool, word: str) -> None:
    hub.private["me/tiny"] = not private
    with pytest.raises(UserError, match=f"me/tiny exists already and is {word}; choose another name"):
        push(folder, "me/tiny", private=private)
    assert hub.files == {}
    push(folder, "me/tiny", private=not private)
    assert hub.files.keys() == set(FILES)


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        (("/repos/create", 401), "does not accept the token in HF_TOKEN"),
        (("/repos/create", 403), r"the token in HF_TOKEN may not write to me/tiny \(403\)"),
        (("/commit/", 403), r"may not write to me/tiny"),
        (("/commit/", 413), r"refused the upload to me/tiny \(413\)"),
        (("/validate-yaml", 400), "failed .*Invalid metadata in README.md"),
    ],
)
def test_refusals_of_the_hub_in_words(hub: Any, folder: Path, refuse: tuple[str, int], message: str) -> None:
    hub.refuse = refuse
    with pytest.raises(UserError, match=message) as raised:
        push(folder, "me/tiny")
    assert TOKEN not in str(raised.value)
    assert hub.files == {}


def test_offline_is_said_at_once(hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    started = time.monotonic()
    assert main(["push", str(folder), "me/tiny"]) == 2
    assert time.monotonic() - started < 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "cannot reach http://127.0.0.1" in message
    assert "Connection refused" in message
    assert "nothing was uploaded" in message


def test_a_hub_that_vanishes_on_the_way_is_an_error_for_the_user(
    hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(self: Any) -> None:
        self.close_connection = True

    monkeypatch.setattr(Hub, "do_POST", vanish)
    with pytest.raises(UserError, match=r"the upload to .*me/tiny failed \(.*\); try again"):
        push(folder, "me/tiny")


def test_without_a_token_nothing_is_asked(hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "  "):
        monkeypatch.setenv("HF_TOKEN", value)
        with pytest.raises(UserError, match="HF_TOKEN is not set; expected a token that may write"):
            push(folder, "me/tiny")
    assert hub.tokens == []


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../tiny", "me/", "https://huggingface.co/me/tiny", "me/ti ny"])
def test_odd_names_are_refused(hub: Any, folder: Path, repo: str) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        push(folder, repo)
    assert hub.tokens == []


def test_what_is_no_export_is_refused(hub: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json; expected a folder written by cifar-small export"):
        push(tmp_path, "me/tiny")
    assert main(["push", str(tmp_path / "none"), "me/tiny"]) == 4
    assert "is no folder" in capsys.readouterr().err
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="damaged or changed"):
        push(tmp_path, "me/tiny")
    assert hub.tokens == []


def test_without_the_extra_the_message_names_it(hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub is needed and is not installed .*'cifar_small\[pretrained\]'"):
        push(folder, "me/tiny")
