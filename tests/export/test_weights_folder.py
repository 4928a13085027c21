"""An exported folder: the same logits bit for bit, a card of recorded figures whose code runs, refusals of anything else."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from huggingface_hub import ModelCard

from cifar_small.cli.main import main
from cifar_small.config import own_code
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.schema import Config
from cifar_small.data import load_test
from cifar_small.data.datamodule import to_tensor
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.export.model_card import model_card
from cifar_small.export.weights_folder import FILES, _own_code, _program, export, load_exported, require_exported
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.predict import Net, load_net, predict, predict_images
from cifar_small.metrics.classification import wilson_interval
from cifar_small.models import build_model
from cifar_small.runs.directory import Run
from cifar_small.runs.records import DataFacts, plain_all
from cifar_small.training.train import train

OWN_NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        assert len(x) <= 4096
        return self.fc(x.mean((2, 3)))
"""

CONFIG = parse_config(
    tiny_raw(
        phases=[{"epochs": 2}],
        views="shift",
        engine={"device": "cpu", "precision": "fp32", "threads": 1, "keep_every": 1},
    )
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose test split was read once with its views and twice without any."""
    run = Run(tmp_path_factory.mktemp("exported") / "run")
    train(CONFIG, run.folder, quiet=True, command="cifar-small train --config tiny.yaml")
    predict(run, "test")
    for overwrite in (False, True):
        predict(run, "test", views="none", overwrite=overwrite)
    return run


@pytest.fixture(scope="module")
def written(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "folder"
    export(run, folder)
    return folder


@pytest.fixture(autouse=True)
def quick_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `written` holds a real program for plain torch, which takes a second to make."""
    monkeypatch.setattr("cifar_small.export.weights_folder._program", lambda net: b"a program")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder, for a test to do with as it likes."""
    return Path(shutil.copytree(written, tmp_path / "folder"))


def images_npz(path: Path, count: int = 7) -> None:
    np.savez(path, data=load_test(CONFIG.data).images[:count], ids=np.arange(count))


def untrained(config: Config) -> Net:
    """A net as no run holds it."""
    torch.manual_seed(0)
    facts: Any = SimpleNamespace(data=DataFacts(source="digits"))
    return Net(build_model(config.model, 10), config, tuple("0123456789"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.2), facts)


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------------- back


@pytest.mark.parametrize("checkpoint", ["best", "epoch-0001"])
def test_the_way_back_gives_the_same_logits_bit_for_bit(run: Run, checkpoint: str, tmp_path: Path) -> None:
    export(run, tmp_path / "folder", checkpoint=checkpoint)
    images = load_test(CONFIG.data)
    mine, theirs = (
        predict_images(net, images, "shift") for net in (load_net(run, checkpoint), load_exported(tmp_path / "folder"))
    )
    assert mine.logits.tobytes() == theirs.logits.tobytes()
    assert mine.meta == theirs.meta
    assert mine.classes == theirs.classes
    assert theirs.meta.checkpoint == checkpoint
    assert mine.logits.std() > 0.05


def test_files_and_what_config_json_says(folder: Path, run: Run) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)
    facts = json.loads((folder / "config.json").read_text())
    assert facts["library_name"] == "cifar_small"
    assert facts["classes"] == list("0123456789")
    assert facts["facts"] == load_net(run).facts.plain()
    assert facts["model"]["widths"] == [8, 16, 32]
    assert load_config(folder / "config.yaml") == CONFIG


def test_nothing_of_one_machine_goes_along(tmp_path: Path, run: Run) -> None:
    own = Run(shutil.copytree(run.folder, tmp_path / "run"))
    sessions = json.loads(own.env_file.read_text())
    sessions["sessions"][0]["command"] = f"cifar-small train --config {Path.home()}/secret/tiny.yaml --data.root {Path.home()}"
    own.env_file.write_text(json.dumps(sessions))
    from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint

    state = load_checkpoint(own.best)
    state["config"]["data"]["root"] = str(Path.home() / "data")
    state["config"]["engine"]["device"] = "cuda:1"
    state["config"]["rules"]["pretrained"] = True
    state["config"]["weights"] = str(Path.home() / "secret" / "weights.safetensors")
    state["config"]["phases"][0]["distill"] = {"teachers": [str(Path.home() / "secret" / "teacher"), "runs/other"]}
    save_checkpoint(own.best, state)
    export(own, tmp_path / "folder")
    config = load_config(tmp_path / "folder" / "config.yaml")
    assert config.weights == "./weights.safetensors"
    assert config.phases[0]["distill"]["teachers"] == ["./teacher", "runs/other"]
    for name in ("README.md", "config.yaml", "config.json"):
        assert str(Path.home()) not in (tmp_path / "folder" / name).read_text()
    assert load_config(tmp_path / "folder" / "config.yaml").engine.device == "auto"


def own_config(folder: Path) -> Config:
    """Of a net in a file below the current folder."""
    (folder / "nets").mkdir()
    (folder / "nets" / "my_nets.py").write_text(OWN_NET)
    raw = tiny_raw(model={"family": "nets/my_nets.py:Net"}, phases=[{"epochs": 1}])
    return parse_config(own_code.with_hashes(raw, trusted=True))


def test_code_of_the_users_own_goes_along_and_runs_once_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "cache")
    train(own_config(tmp_path), tmp_path / "run", quiet=True)
    code, out, _ = said("export", "run", "--output", "folder")
    assert (code, "config.json, my_nets.py, " in out) == (0, True)
    folder, images = tmp_path / "folder", load_test(CONFIG.data)
    expected = predict_images(load_exported(folder), images, "none").logits
    assert {path.name for path in folder.iterdir()} == {*FILES, "my_nets.py"}
    assert (folder / "my_nets.py").read_text() == OWN_NET
    assert "its code is `my_nets.py`: read it, and if you trust it, run `cifar-small param_count" in card_of(folder)

    own_code.load_own.cache_clear()
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "another_machine")
    monkeypatch.chdir(folder)
    with pytest.raises(
        ConfigError, match=r"\. holds code that has not been used .*\(my_nets\.py\); .* param_count config\.yaml"
    ):
        load_exported(".")
    assert _own_code(load_config("config.yaml", trusted=False), Run(tmp_path / "run")) == {"my_nets.py": OWN_NET.encode()}
    with pytest.raises(CheckpointError, match=r"none.my_nets\.py \(SHA-256 .*\), which the run's config names, is missing"):
        _own_code(load_config("config.yaml", trusted=False), Run(tmp_path / "none"))
    assert said("param_count", "config.yaml")[0] == 0
    assert predict_images(load_exported("."), images, "none").logits.tobytes() == expected.tobytes()
    (folder / "my_nets.py").write_text(OWN_NET + "\n")
    with pytest.raises(CheckpointError, match=r"my_nets\.py is damaged or changed"):
        load_exported(".")


def test_a_net_that_uses_a_layer_twice_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    """As safetensors holds no tensor twice, such a net could not be exported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "cache")
    twice = "self.fc = nn.Linear(3, num_classes)\n        self.head = nn.Sequential(self.fc)"
    (tmp_path / "my_nets.py").write_text(OWN_NET.replace("self.fc = nn.Linear(3, num_classes)", twice))
    raw = tiny_raw(model={"family": "my_nets.py:Net"}, phases=[{"epochs": 1}])
    run = Run(tmp_path / "run")
    train(parse_config(own_code.with_hashes(raw, trusted=True)), run.folder, quiet=True)
    assert said("export", "run", "--output", "folder")[0] == 0
    found, net = load_exported("folder"), load_net(run)
    assert found.model.head[0] is found.model.fc
    assert found.facts.parameters == 40
    images = load_test(net.config.data)
    assert predict_images(found, images, "none").logits.tobytes() == predict_images(net, images, "none").logits.tobytes()


def test_a_module_of_the_users_own_goes_along_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    (tmp_path / "work" / "pack_to_export").mkdir(parents=True)
    (tmp_path / "work" / "pack_to_export" / "__init__.py").write_text("")
    (tmp_path / "work" / "pack_to_export" / "nets.py").write_text(OWN_NET)
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "work")
        raw = tiny_raw(model={"family": "pack_to_export.nets:Net"}, phases=[{"epochs": 1}])
        train(parse_config(own_code.with_hashes(raw, trusted=True)), tmp_path / "run", quiet=True)
        export(Run(tmp_path / "run"), tmp_path / "folder")
        images = load_test(CONFIG.data)
        expected = predict_images(load_exported(tmp_path / "folder"), images, "none").logits
    own_code.load_own.cache_clear()
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "another_machine")
    monkeypatch.chdir(tmp_path / "folder")
    assert (tmp_path / "folder" / "pack_to_export.nets.py").read_text() == OWN_NET
    with pytest.raises(ConfigError, match=r"holds code that has not been used .*\(pack_to_export\.nets\.py\)"):
        load_exported(".")
    assert said("param_count", "config.yaml")[0] == 0
    assert predict_images(load_exported("."), images, "none").logits.tobytes() == expected.tobytes()


def test_a_net_that_torch_cannot_trace_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "cache")
    config = own_config(tmp_path)
    net = untrained(config)
    with pytest.raises(
        UserError,
        match=r"^model\.pt2 of tiny cannot be made: torch\.export cannot trace nets/my_nets\.py:Net .*to be a constant \(2\)",
    ) as caught:
        _program(net)
    assert "\n" not in str(caught.value)


def test_a_user_without_a_home_gets_the_same_card(
    tmp_path: Path, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers give such a user "/": every slash of the card begins with it."""
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    export(run, tmp_path / "other")
    assert card_of(tmp_path / "other") == card_of(folder)


# ------------------------------------------------------------------------------------------------------------------- card


def test_the_card_says_that_a_run_was_extended(tmp_path: Path, run: Run, folder: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "longer")
    longer = Run(tmp_path / "longer")
    (session,) = plain_all(longer.sessions())
    longer.env_file.write_text(json.dumps({"sessions": [session, {**session, "epochs_planned": 9}]}))
    export(longer, tmp_path / "other")
    said = (
        f"but this run was extended on the way, planned for {session['epochs_planned']} then 9 epochs, which bent its schedule"
    )
    assert said in card_of(tmp_path / "other")
    assert "extended" not in card_of(folder)


def test_the_card_says_that_patience_ended_a_run(tmp_path: Path, run: Run) -> None:
    ended = Run(shutil.copytree(run.folder, tmp_path / "ended"))
    summary = json.loads(ended.summary_file.read_text())
    ended.summary_file.write_text(json.dumps({**summary, "epochs_planned": 12, "ended": "patience"}))
    export(ended, tmp_path / "other")
    assert "for 2 epochs, ended by patience after epoch 2 of 12" in card_of(tmp_path / "other")


def test_the_front_matter_is_the_hubs_and_holds_the_recorded_figures(folder: Path, run: Run) -> None:
    data = ModelCard(card_of(folder)).data
    summary, readings = run.summary(), run.test_readings()
    assert summary is not None
    assert (data.library_name, data.pipeline_tag, data.metrics) == ("cifar_small", "image-classification", ["accuracy"])
    assert {"digits", "resnet", "safetensors"} <= set(data.tags)
    assert data.datasets is None  # the hub has no such data set
    assert data.license is None
    found = [(one.dataset_split, one.metric_value, one.metric_name) for one in data.eval_results]
    assert found == [
        ("train", summary.val_accuracy, "accuracy of 200 images, views shift"),
        ("test", readings[0].accuracy, "accuracy of 360 images, views shift"),
        ("test", readings[1].accuracy, "accuracy of 360 images, views none"),
    ]


def test_figures_stand_with_n_interval_and_views(folder: Path, run: Run) -> None:
    card, summary = card_of(folder), run.summary()
    assert summary is not None
    low, high = summary.val_interval
    val = f"{summary.val_accuracy:.2%} of 200 images, 95 % interval {low:.2%} to {high:.2%}, views shift (val chose the epoch"
    assert f"| accuracy on val | {val}" in card
    for reading in run.test_readings()[:2]:
        low, high = wilson_interval(round(360 * reading.accuracy), 360)
        line = f"{reading.accuracy:.2%} of 360 images, 95 % interval {low:.2%} to {high:.2%}, views {reading.views}"
        line += f"; SHA-256 of the images {reading.images_sha256} |"
        assert f"| accuracy on test | {line}" in card
    assert "| readings of test in this run | 3, with any of its weights and in any form |" in card
    count = sum(parameter.numel() for parameter in build_model(CONFIG.model, 10).parameters())
    assert f"| trainable parameters | {count:,}; {100_000 - count:,} below the budget of 100,000 |" in card
    assert f"| best.pt of the run, after epoch {summary.selected_epoch}, the best on val |" in card
    assert "trained from scratch on scikit-learn's handwritten digits" in card
    assert "cifar-small train --config tiny.yaml" in card
    assert "256 images of the training part" in card
    assert "1 thread, fp32" in card
    assert f"{summary.seconds:,.0f} s for 2 epochs" in card
    assert f"torch {torch.__version__}" in card


def test_other_weights_get_none_of_the_figures_of_the_selected_ones(run: Run, tmp_path: Path) -> None:
    summary = run.summary()
    assert summary is not None
    other = 3 - summary.selected_epoch
    export(run, tmp_path, checkpoint=f"epoch-{other:04d}")
    card = card_of(tmp_path)
    plain = float(run.metrics_file.read_text().splitlines()[other].split(",")[8])
    assert f"| accuracy on val | {plain:.2%} of 200 images" in card
    assert "views none |" in card
    assert "| accuracy on test | not measured: the test split was not read with these weights |" in card
    assert len(ModelCard(card).data.eval_results) == 1
    assert f"| weights | epoch-{other:04d}.pt of the run, after epoch {other} |" in card


def test_a_run_that_has_not_ended_says_so(run: Run, tmp_path: Path) -> None:
    own = Run(shutil.copytree(run.folder, tmp_path / "run"))
    own.summary_file.unlink()
    export(own, tmp_path / "folder")
    assert "not recorded: the run has not ended" in card_of(tmp_path / "folder")
    assert f"{load_net(own).facts.val_accuracy:.2%} of 200 images" in card_of(tmp_path / "folder")


def test_averages_are_named(run: Run, tmp_path: Path) -> None:
    config = parse_config(tiny_raw(phases=[{"epochs": 2, "swa": {}}], selection="last"))
    train(config, tmp_path / "run", quiet=True)
    export(Run(tmp_path / "run"), tmp_path / "folder")
    text = "best.pt of the run, after epoch 2, the last; the mean of the weights after 2 epochs (SWA)"
    assert f"| weights | {text} |" in card_of(tmp_path / "folder")
    assert "(val chose" not in card_of(tmp_path / "folder")
    assert "(not recorded: started from Python)" in card_of(tmp_path / "folder")


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch.export.load itself, before torch 2.13
def test_the_cards_code_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ours, plain = re.findall(r"```python\n(.*?)```", card_of(folder), re.DOTALL)
    monkeypatch.chdir(folder)
    images_npz(folder / "images.npz")
    exec(ours, {})
    expected = predict_images(load_exported(folder), load_test(CONFIG.data).take(np.arange(7)), "shift").predicted
    assert capsys.readouterr().out.strip() == str(expected)
    found: dict[str, Any] = {}
    exec(plain, found)
    net, images = load_exported(folder), found["images"]
    logits = compute_logits(net.model, images, net.preprocess, "none", "fp32", 100)
    assert capsys.readouterr().out.strip() == str(logits.argmax(1))
    pixels = to_tensor(load_test(CONFIG.data).take(np.arange(5)), torch.device("cpu"))
    for count in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(
                found["net"](pixels[:count]),
                compute_logits(net.model, pixels[:count], net.preprocess, "none", "fp32", 100),
                rtol=1e-4,
                atol=1e-5,
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"family": "wideresnet", "depth": 10, "widen_factor": 1, "dropout": 0.3},
        {
            "family": "whitened_resnet",
            "stages": [{"width": 16, "branch": [[3, 16]]}, {"width": 16, "kernel": 2, "branch": [[1, 16]]}],
        },
        {
            **tiny_raw()["model"],
            "shortcut": "pad",
            "preact": True,
            "se_reduction": 4,
            "stochastic_depth": 0.2,
            "activation": "gelu",
        },
    ],
    ids=["wideresnet", "whitened", "resnet with everything"],
)
def test_every_family_has_a_program_for_plain_torch(model: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config(tiny_raw(model=model))
    net = untrained(config)
    path = tmp_path / "model.pt2"
    path.write_bytes(_program(net))
    program = torch.export.load(path).module()
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = compute_logits(net.model, pixels, net.preprocess, "none", "fp32", 100)
        torch.testing.assert_close(program(pixels), expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", "config.yaml"])
def test_one_flipped_bit_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged or changed: config\.json has another SHA-256"):
        load_exported(folder)


@pytest.mark.parametrize("name", FILES)
def test_an_incomplete_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"folder has no {name}; expected a folder written by cifar-small export"):
        load_exported(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "bert"}', "was not written by cifar-small"),
        ("[]", "was not written by cifar-small"),
        ("{", "is damaged"),
        ('{"library_name": "cifar_small", "format": 9}', "has format 9; this version reads format 1"),
        ('{"library_name": "cifar_small", "format": 1, "classes": []}', "lacks mean, std, facts, sha256"),
    ],
)
def test_a_foreign_config_json_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        require_exported(folder)


def test_weights_of_another_net_are_refused(folder: Path) -> None:
    facts = json.loads((folder / "config.json").read_text())
    facts["classes"].append("ten")
    (folder / "config.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit the net its own config describes"):
        load_exported(folder)


def test_existing_folders_are_refused_and_an_earlier_export_replaced_on_demand(run: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors exists already"):
        export(run, folder)
    export(run, folder, checkpoint="epoch-0001", overwrite=True)
    assert load_exported(folder).facts.checkpoint == "epoch-0001"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains other files \(notes\.txt, \.\.\.\)"):
        export(run, folder, overwrite=True)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="contains other files"):
        export(run, run.folder, overwrite=True)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match="has no checkpoint epoch-0009; expected one of best, epoch-0001, epoch-0002"):
        export(run, tmp_path / "new", checkpoint="epoch-0009")
    assert not (tmp_path / "new").exists()


def test_a_killed_export_is_no_export(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, content: bytes) -> None:
        if path.name == "README.md":
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as patched:
        patched.setattr("cifar_small.export.weights_folder.write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            export(run, folder, overwrite=True)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_exported(folder)
    export(run, folder, overwrite=True)
    load_exported(folder)


def test_work_of_the_user_is_not_replaced(run: Run, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("README.md", "config.yaml"):
        (work / name).write_text("mine")
    with pytest.raises(UserError, match=r"work.config\.yaml is not of an export, so it may be work of yours; move it"):
        export(run, work, overwrite=True)
    assert {path.name: path.read_text() for path in work.iterdir()} == {"README.md": "mine", "config.yaml": "mine"}
    export(run, tmp_path / "folder")
    export(run, tmp_path / "folder", overwrite=True)
    (tmp_path / "folder" / "README.md").write_text("license: mit")
    load_exported(tmp_path / "folder")
    with pytest.raises(UserError, match=r"README\.md was edited since it was exported"):
        export(run, tmp_path / "folder", overwrite=True)
    assert (tmp_path / "folder" / "README.md").read_text() == "license: mit"


def test_without_the_extra_the_message_names_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"safetensors is needed and .*pip install 'cifar_small\[pretrained\]'"):
        export(run, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(run.folder), "--output", str(tmp_path / "folder"), "--checkpoint", "epoch-0002"]
    assert main(command) == 0
    assert (
        "epoch-0002.pt of epoch 2: model.safetensors, model.pt2, config.yaml, README.md, config.json" in capsys.readouterr().out
    )
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "other")]) == 4


def test_the_card_compares_the_images_of_a_reading_with_the_official_test_split(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = load_net(run)
    reading = run.test_readings()[0]
    for official, words in ((True, "; the official test split"), (False, "; NOT the official test split: its images have")):
        monkeypatch.setattr("cifar_small.export.model_card.is_official", lambda *_, official=official: official)
        card = model_card(net, run)
        assert f"views {reading.views}{words}" in card
        front = card.split("---")[1]
        assert ("digits, enlarged to 32x32, test" in front) == official
