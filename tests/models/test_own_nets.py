"""Nets of the user's own: from the budget to an audited entry, and one clear line for each way in which one cannot work."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar_small.config import own_code
from cifar_small.config.hashing import config_dict, config_hash, recipe_hash
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import OwnModel
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.data import load_test, write_unlabelled
from cifar_small.errors import ConfigError
from cifar_small.evaluation.uncertainty import monte_carlo
from cifar_small.export.weights_folder import _portable
from cifar_small.files import sha256_bytes
from cifar_small.inference.predict import load_net, load_own_splits
from cifar_small.models import build_model, set_frozen
from cifar_small.models.counting import check_budget, footprint, trainable_parameters
from cifar_small.models.own import build_own, check_own
from cifar_small.reporting.dry_run import describe_run
from cifar_small.runs.directory import Run
from cifar_small.training.build import try_own_net
from cifar_small.training.distributed import World
from cifar_small.training.train import train
from tests.conftest import tiny_raw

Said = Callable[..., tuple[int, str, str]]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
"""
PARAMETERS = 8 * 27 + 8 + 16 + 80 + 10


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the user's files in it and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "cache")
    (tmp_path / "my_nets.py").write_text(NET)
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    raw = tiny_raw(model={"family": "my_nets.py:Net"}, phases=[{"epochs": 1}], **changes)
    (folder / "mine.yaml").write_text(dump_yaml(raw))
    return folder / "mine.yaml"


def own(text: str, **arguments: Any) -> OwnModel:
    """A net of the user's own from the text of its file."""
    Path("my_nets.py").write_text(text)
    plain = own_code.with_hashes({"family": "my_nets.py:Net", "arguments": arguments}, trusted=True)
    return OwnModel.model_validate(plain)


def test_the_whole_way(said: Said, folder: Path) -> None:
    code, out, _ = said("train", "--config", "mine.yaml", "--output", "runs/mine", "--phases.0.epochs", "6")
    assert (code, f"{PARAMETERS:,} trainable parameters" in out) == (0, True)
    images = load_test(load_config("mine.yaml").data)
    write_unlabelled(folder / "unlabelled.pkl", images.images, images.ids)
    for words in (
        "predict runs/mine --split submit --file unlabelled.pkl",
        "submit runs/mine/predictions/submit.npz --output entry/mine.csv",
        "check entry/mine.csv --file unlabelled.pkl --allow-rows 360",
        "export runs/mine --output exported",
        "onnx runs/mine",
        "record runs/mine --output record",
    ):
        code, out, err = said(*words.split())
        assert code == 0, (words, out, err)
    _, out, _ = said("audit", "entry/mine.csv", "--run", "runs/mine", "--file", "unlabelled.pkl")
    failed = [line for line in out.splitlines() if " FAIL " in line]
    assert all("as committed" in line for line in failed), failed  # as where the tests run from changed files
    assert f"{PARAMETERS} in my_nets.py:Net (SHA-256 {sha256_bytes(NET.encode())[:12]})" in out
    assert (folder / "runs/mine/my_nets.py").read_text() == NET  # a run directory, and a record, hold what they were made with
    assert (folder / "record/my_nets.py").read_text() == NET


def test_the_budget_counts_it_before_data_is_read() -> None:
    config = load_config("mine.yaml", [("rules.max_params", str(PARAMETERS)), ("data.root", "/nowhere")])
    assert check_budget(config, 10) == PARAMETERS
    assert footprint(config.model, 10).macs == 16 * 16 * 8 * 27 + 80
    over = load_config("mine.yaml", [("rules.max_params", str(PARAMETERS - 1))])
    with pytest.raises(ConfigError, match=f"tiny has {PARAMETERS} trainable parameters, 1 over the budget"):
        train(over, "runs/over", quiet=True)


def test_arguments_reach_the_class_and_the_hashes() -> None:
    plain, wide = load_config("mine.yaml"), load_config("mine.yaml", [("model.arguments", "{width: 16}")])
    assert check_budget(wide, 10) == 16 * 27 + 16 + 32 + 160 + 10
    assert recipe_hash(plain) != recipe_hash(wide)
    with pytest.raises(ConfigError, match=r"my_nets\.py:Net cannot be built with num_classes, depth: TypeError"):
        check_budget(load_config("mine.yaml", [("model.arguments", "{depth: 3}")]), 10)


def test_a_changed_file_is_another_recipe_and_leaves_trained_runs_alone(said: Said) -> None:
    train(load_config("mine.yaml"), "runs/mine", quiet=True)
    before = load_config("mine.yaml")
    Path("my_nets.py").write_text(NET.replace("width=8", "width=9"))
    assert config_hash(load_config("mine.yaml")) != config_hash(before)
    assert said("predict", "runs/mine", "--split", "test")[0] == 0  # with the net it was trained with
    code, _, err = said("train", "--config", "mine.yaml", "--output", "runs/mine", "--resume", "--phases.0.epochs", "2")
    assert code == 2
    assert "model.sha256" in err


def test_a_run_of_somebody_else_runs_no_code_until_it_was_read(
    folder: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_config("mine.yaml"), "runs/mine", quiet=True)
    own_code.load_own.cache_clear()
    monkeypatch.setattr(own_code, "KEPT", folder / "another_machine")
    code, _, err = said("predict", "runs/mine", "--split", "val", "--overwrite")
    assert code == 2
    assert "is code that has not been used on this machine; read it, and if you trust it" in err
    assert not (folder / "another_machine").exists()
    Path("my_nets.py").write_text(NET + "\n# edited")
    with pytest.raises(ConfigError, match="the file has the SHA-256"):
        load_config("runs/mine/config.yaml")
    Path("my_nets.py").write_text(NET)
    load_config("runs/mine/config.yaml")  # as param_count reads it
    assert said("predict", "runs/mine", "--split", "val", "--overwrite")[0] == 0


def test_resuming_a_run_by_its_directory_runs_only_code_that_is_known(
    folder: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_config("mine.yaml"), "runs/mine", quiet=True)
    assert said("train", "--resume", "runs/mine", "--phases.0.epochs", "2")[0] == 0  # one's own, by its hash
    own_code.load_own.cache_clear()
    monkeypatch.setattr(own_code, "KEPT", folder / "another_machine")
    code, _, err = said("train", "--resume", "runs/mine", "--phases.0.epochs", "3")
    assert (code, "is code that has not been used on this machine" in err) == (2, True)
    assert not (folder / "another_machine").exists()
    assert said("param_count", "runs/mine/config.yaml")[0] == 0
    assert said("train", "--resume", "runs/mine", "--phases.0.epochs", "3")[0] == 0


def test_a_kept_file_that_was_tampered_with_does_not_run(folder: Path) -> None:
    config = load_config("mine.yaml")
    own_code.load_own.cache_clear()
    kept = next((folder / "cache").iterdir())
    kept.write_text("raise SystemExit")
    with pytest.raises(ConfigError, match="has not been used on this machine"):
        footprint(config.model, 5)  # a count that is not known yet


def test_an_interrupted_run_goes_on_to_the_same_bits() -> None:
    config = load_config("mine.yaml", [("phases.0.epochs", "2")])
    train(config, "runs/whole", quiet=True)

    class StopError(Exception):
        pass

    def stop(row: dict[str, object]) -> None:
        raise StopError

    with pytest.raises(StopError):
        train(config, "runs/parts", quiet=True, on_epoch=stop)
    train(config, "runs/parts", resume=True, quiet=True)
    first, second = (torch.load(Run(f"runs/{name}").best, weights_only=True)["weights"] for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def at_work(line: str) -> str:
    """The net with another line in its forward."""
    return NET.replace("        return", f"        {line}\n        return")


FAULTS = {
    "no Net; it defines Other": "from torch import nn\nclass Other(nn.Module): pass",
    "expected a class derived from torch.nn.Module": "def Net(num_classes): return 3",
    "does not run: SyntaxError": "class Net(:",
    "must hold all that it uses, but for installed packages": "import helpers_of_mine",
    "maps 2 images to (2, 8), not (2, 10)": NET.replace("self.fc(torch", "(torch"),
    "two nets of one seed begin with other values of conv.weight": NET.replace(
        "        self.fc", "        import random\n        self.conv.weight.data *= random.random()\n        self.fc"
    ),
    "two training passes of one torch seed differ": NET.replace(
        "return self.fc(", "import numpy\n        return float(numpy.random.rand()) * self.fc("
    ),
    "answers the same images otherwise the second time: its forward draws random numbers": NET.replace(
        "self.conv(x)", "self.conv(x + torch.randn(x.shape))"
    ),
    "in evaluation answers the same images otherwise the second time": NET.replace(
        "self.fc =", "self.passes = 0\n        self.fc ="
    ).replace(
        "        return self.fc(", "        self.passes += not self.training\n        return (1 + self.passes) * self.fc("
    ),
    "another net with its state dict predicts otherwise": NET.replace(
        "self.fc =", "self.hidden = float(torch.rand(()))\n        self.fc ="
    ).replace("return self.fc(", "return self.hidden * self.fc("),
    "depend on the others of its batch": NET.replace("mean((2, 3)))", "mean((2, 3))) + x.mean()"),
    "in evaluation maps 1 image to (10,), not (1, 10)": NET.replace("mean((2, 3)))", "mean((2, 3))).squeeze()"),
    "in evaluation maps 2 images to (2, 5), not (2, 10)": NET.replace(
        "mean((2, 3)))", "mean((2, 3)))[:, : 10 if self.training else 5]"
    ),
    "cannot compute images (2, 3, 32, 32): RuntimeError": NET.replace("Conv2d(3", "Conv2d(4"),
    "does not run: SyntaxError: '(' was never closed, line 1": "class Net(",
    "does not run: SystemExit: 0": "raise SystemExit(0)",
    "cannot be built with num_classes: SystemExit: 3": NET.replace(
        "        self.conv =", "        raise SystemExit(3)\n        self.conv ="
    ),
    "cannot compute images (2, 3, 32, 32): SystemExit: 4": NET.replace(
        "        return", "        raise SystemExit(4)\n        return"
    ),
    "cannot compute images (2, 3, 32, 32): ZeroDivisionError": NET.replace(
        "        return", "        self.training or 1 / 0\n        return"
    ),
    "leaves the size of fc.weight open until it sees images": NET.replace("Linear(width,", "LazyLinear("),
    "has no parameters that train; expected some": NET.replace(
        "        self.fc =",
        "        self.norm.requires_grad_(False)\n        self.conv.requires_grad_(False)\n        self.fc =",
    ).replace("nn.Linear(width, num_classes)", "nn.Linear(width, num_classes).requires_grad_(False)"),
    "my_nets.py:Net has no parameters that train": NET.replace(
        "self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)", "self.classes = num_classes"
    )
    .replace("        self.norm = nn.BatchNorm2d(width)\n        self.fc = nn.Linear(width, num_classes)\n", "")
    .replace("self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))", "x.flatten(1)[:, : self.classes]"),
    "trains otherwise after a pass than another net with its state dict": NET.replace(
        "        self.fc =", "        self.steps = 0\n        self.fc ="
    )
    .replace("        return self.fc(", "        self.steps += self.training\n        return (1 + self.steps) / 2 * self.fc(")
    .replace("(1 + self.steps) / 2", "((1 + self.steps) / 2 if self.training else 1)"),
    "has a train() that does not return the net": NET + "\n    def train(self, mode=True):\n        super().train(mode)\n",
    "has a module that cannot be hashed (unhashable type: 'Net'): write @dataclass(eq=False)": NET
    + "\n    def __eq__(self, other):\n        return True\n",
    "maps random images to logits that are NaN or infinite": NET.replace("return self.fc(", "return float('nan') * self.fc("),
    "returns probabilities; expected logits": NET.replace("return self.fc(", "return torch.softmax(self.fc(").replace(
        "mean((2, 3)))", "mean((2, 3))), 1)"
    ),
    "returns tuple, not a tensor": NET.replace("return self.fc(", "return 1, self.fc("),
}


@pytest.mark.parametrize(("message", "text"), list(FAULTS.items()), ids=list(FAULTS))
def test_a_net_that_breaks_a_promise_says_which(message: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_own(own(text), 10, 32)
    assert message in str(caught.value)
    assert "my_nets.py" in str(caught.value)


FIXED = NET.replace("        self.norm =", "        self.conv.requires_grad_(False)\n        self.norm =").replace(
    "self.norm = nn.BatchNorm2d(width)", "self.norm = nn.BatchNorm2d(width, affine=False)"
)


def test_what_it_fixes_stays_and_a_norm_without_weights_has_statistics(folder: Path) -> None:
    """A whitening layer of the net's own, and a BatchNorm of which nothing could train."""
    own(FIXED)
    config = load_config(write(folder, selection="last"))
    train(config, "runs/fixed", quiet=True)
    after = torch.load(Run("runs/fixed").best, weights_only=True)["weights"]
    torch.manual_seed(0)
    start = build_model(config.model, 10)
    assert {name for name, parameter in start.named_parameters() if not parameter.requires_grad} == {"conv.weight", "conv.bias"}
    set_frozen(start, ())
    assert not start.conv.weight.requires_grad
    assert not torch.equal(after["norm.running_mean"], torch.zeros(8))
    assert after["norm.num_batches_tracked"] > 0
    assert check_budget(config, 10) == PARAMETERS - 16  # fixed or not, all of them count


def test_values_may_be_looked_at_while_it_is_built() -> None:
    """As timm's nets do for stochastic depth; and what the file makes for itself is no meta tensor when the net trains."""
    text = NET.replace("class Net", "SCALE = torch.linspace(1, 2, 3)\n\nclass Net").replace(
        "        self.fc =", "        self.rates = [rate.item() for rate in torch.linspace(0, 0.2, 3)]\n        self.fc ="
    )
    model = own(text.replace("return self.fc(", "return float(SCALE[1]) * self.fc("))
    before = torch.random.get_rng_state()
    assert trainable_parameters(model, 10) == PARAMETERS
    assert torch.equal(torch.random.get_rng_state(), before)
    check_own(model, 10, 32)


@pytest.mark.parametrize("arguments", [{"sep": "/", "layout": "/c8/p"}, {"opts": {"engine": "jit:fast"}}])
def test_arguments_are_the_classs_own_whatever_they_look_like(arguments: dict[str, Any], folder: Path) -> None:
    assert own(NET, **arguments).arguments == arguments
    raw = tiny_raw(model={"family": "my_nets.py:Net", "arguments": arguments})
    config = parse_config(own_code.with_hashes(raw, trusted=True))
    assert config_dict(_portable(config))["model"]["arguments"] == arguments


def test_a_classifier_whose_weight_is_used_elsewhere_too_is_no_backbone() -> None:
    text = NET.replace(
        "        self.fc = nn.Linear(width, num_classes)",
        """        self.proto = nn.Linear(width, num_classes, bias=False)
        self.fc = nn.Linear(width, num_classes)
        self.fc.weight = self.proto.weight""",
    )
    net = build_own(own(text), 10)
    set_frozen(net, ("backbone",))
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == {"proto.weight", "fc.bias"}
    for prefix in ("proto", "fc."):
        set_frozen(net, (prefix,))
        assert not net.fc.weight.requires_grad
        assert net.conv.weight.requires_grad


def test_a_part_called_attention_is_refused_where_it_would_be_taken_for_the_head() -> None:
    model = own(NET.replace("        self.fc =", "        self.attention = nn.Linear(2, 2)\n        self.fc ="))
    check_own(model, 10, 32)
    with pytest.raises(ConfigError, match=r"my_nets\.py:Net calls a part `attention`, as the head of a pretrained net has one"):
        check_own(model, 10, 32, head_matters=True)


def test_a_net_without_a_part_called_fc_has_no_backbone_to_treat_apart() -> None:
    model = own(NET.replace("self.fc", "self.classify"))
    check_own(model, 10, 32)
    with pytest.raises(ConfigError, match=r"my_nets\.py:Net has no part called fc, so that its classifier counts as backbone"):
        check_own(model, 10, 32, apart=True)
    check_own(own(NET), 10, 32, apart=True)


def test_parameters_that_no_pass_depends_on_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = "self.norm(self.conv(x)) if not self.training or torch.rand(()) < 0.5 else x[:, :1].expand(-1, 8, -1, -1)"
    assert check_own(own(NET.replace("self.norm(self.conv(x))", drawn)), 10, 32) == []  # a layer left out at random is used
    spare = NET.replace("        self.fc =", "        self.spare = nn.Linear(3, 4)\n        self.fc =")
    assert check_own(own(spare), 10, 32) == ["spare.weight", "spare.bias"]
    config = load_config(write(folder))
    train(config, "runs/spare", quiet=False)
    assert "note: no pass of my_nets.py:Net depends on spare.weight and 1 more, which counts" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="so that several processes could not join their gradients; remove what the net does"):
        try_own_net(config, resolve_config(config).phases, 10, World(0, 2, 0, 2))


def test_a_net_may_evaluate_without_gradients_but_not_to_another_shape() -> None:
    head, bare = "        return self", "        with torch.set_grad_enabled(self.training):\n            return self"
    assert check_own(own(NET.replace(head, bare)), 10, 32) == []
    flat = NET.replace("mean((2, 3)))", "mean((2, 3))).flatten(0 if not self.training else 1)")
    with pytest.raises(ConfigError, match=r"in evaluation maps 2 images to \(20,\), not \(2, 10\)"):
        check_own(own(flat), 10, 32)


def test_a_net_that_cannot_be_differentiated_is_refused() -> None:
    text = NET.replace("        return self", "        with torch.no_grad():\n            return self")
    with pytest.raises(ConfigError, match=r"cannot be trained: its backward pass raises RuntimeError"):
        check_own(own(text), 10, 32)


def test_a_dry_run_tries_the_net_too(folder: Path) -> None:
    own(NET.replace("nn.Linear(width, num_classes)", "nn.Linear(width, 5)"))
    with pytest.raises(ConfigError, match=r"my_nets\.py:Net maps 2 images to \(2, 5\), not \(2, 10\)"):
        describe_run(load_config(write(folder)))


def test_its_own_dropout_is_what_monte_carlo_draws_by(folder: Path) -> None:
    own(
        NET.replace("        self.fc =", "        self.drop = nn.Dropout(0.3)\n        self.fc =").replace(
            "torch.relu(self.norm(self.conv(x)))", "self.drop(torch.relu(self.norm(self.conv(x))))"
        )
    )
    config = load_config(write(folder))
    train(config, "runs/dropping", quiet=True)
    net = load_net(Run("runs/dropping"))
    val = load_own_splits(net)[1]
    as_built, asked = monte_carlo(net, val, passes=3), monte_carlo(load_net(Run("runs/dropping")), val, passes=3, dropout=0.3)
    assert (as_built.meta["dropout"], as_built.meta["dropout_trained_with"]) == (0.3, 0.3)
    assert np.array_equal(as_built.probabilities, asked.probabilities)
    less = monte_carlo(net, val, passes=3, dropout=0.01)
    assert less.mutual_information.mean() < as_built.mutual_information.mean()
    assert monte_carlo(net, val, passes=3).meta["dropout"] == 0.3  # the net is as it was


def test_the_net_itself_keeps_them() -> None:
    check_own(own(NET), 10, 32)


def test_a_net_that_looks_at_values_is_refused_when_it_is_counted() -> None:
    model = own(NET.replace("        return", "        assert x.sum().item() < 1e9\n        return"))
    with pytest.raises(ConfigError, match=f"has {PARAMETERS} parameters but cannot be tried on an image of 3x32x32"):
        footprint(model, 10)
    with pytest.raises(ConfigError, match="where no value can be looked at: SystemExit: 4"):
        footprint(own(at_work("raise SystemExit(4)")), 10)


def test_numbers_beside_the_parameters_are_refused_before_any_data_is_read(said: Any) -> None:
    text = NET.replace("        self.fc =", '        self.register_buffer("extra", torch.zeros(3))\n        self.fc =')
    Path("my_nets.py").write_text(text)
    with pytest.raises(ConfigError, match="extra is a buffer"):
        train(load_config("mine.yaml", [("data", "{source: cifar10, root: nowhere}")]), "runs/mine", quiet=True)
    for words in (["param_count", "mine.yaml"], ["train", "--config", "mine.yaml", "--dry-run"]):
        code, out, err = said(*words)
        assert (code, "extra is a buffer" in err, "headroom" in out) == (2, True, False), (out, err)


def test_a_place_may_have_blanks_and_a_drive(folder: Path) -> None:
    (folder / "my nets").mkdir()
    shutil.move("my_nets.py", folder / "my nets" / "nets 1.py")
    config = load_config("mine.yaml", [("model.family", f"{folder}/my nets/nets 1.py:Net")])
    assert check_budget(config, 10) == PARAMETERS
    for place in (r"C:\mine\nets.py", "C:/mine/nets.py"):
        with pytest.raises(ConfigError, match=r"C:.mine.nets\.py:Net: C:.mine.nets\.py does not exist"):
            load_config("mine.yaml", [("model.family", f"'{place}:Net'")])


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gone\.py:Net: gone\.py does not exist; the path is relative to the current folder"):
        load_config("mine.yaml", [("model.family", "gone.py:Net")])
    with pytest.raises(ConfigError, match=r"nowhere\.nets:Net: no module nowhere\.nets is installed"):
        load_config("mine.yaml", [("model.family", "nowhere.nets:Net")])
    with pytest.raises(ConfigError, match=r"model\.family: expected one of resnet, .*my_nets\.py:Net"):
        load_config("mine.yaml", [("model.family", "my_nets.py")])
    with pytest.raises(
        ConfigError, match=r"phases\.0\.dropout 0\.2 has no effect on my_nets\.py:Net; give it in model\.arguments"
    ):
        load_config("mine.yaml", [("phases.0.dropout", "0.2")])


def test_a_class_of_an_installed_package_is_taken_as_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    shutil.move("my_nets.py", tmp_path / "site" / "nets_of_a_package.py")
    monkeypatch.syspath_prepend(tmp_path / "site")
    config = load_config("mine.yaml", [("model.family", "nets_of_a_package:Net")])
    assert check_budget(config, 10) == PARAMETERS
    own_code.load_own.cache_clear()
    (tmp_path / "site" / "nets_of_a_package.py").write_text(NET + "\n")
    with pytest.raises(ConfigError, match="the module is not the one the config was written with"):
        footprint(config.model.model_copy(), 9)


def test_an_edited_module_is_run_anew_though_python_has_it_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook that goes on after an edit, also within the second that the bytecode is told apart by."""
    (tmp_path / "site").mkdir()
    file = tmp_path / "site" / "nets_of_a_notebook.py"
    file.write_text(NET)
    monkeypatch.syspath_prepend(tmp_path / "site")
    imported = importlib.import_module("nets_of_a_notebook")
    for width in (9, 7, 9):  # of one length
        file.write_text(NET.replace("width=8", f"width={width}"))
        config = load_config("mine.yaml", [("model.family", "nets_of_a_notebook:Net")])
        assert build_model(config.model, 10).fc.in_features == width
        assert config.model.sha256 == sha256_bytes(file.read_bytes())  # type: ignore[union-attr]
    assert imported.Net(10).fc.in_features == 8


def test_a_module_of_a_package_imports_its_neighbors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack_of_mine").mkdir()
    (tmp_path / "pack_of_mine" / "__init__.py").write_text("")
    (tmp_path / "pack_of_mine" / "numbers.py").write_text("WIDTH = 6")
    (tmp_path / "pack_of_mine" / "nets.py").write_text("from .numbers import WIDTH\n" + NET.replace("width=8", "width=WIDTH"))
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config("mine.yaml", [("model.family", "pack_of_mine.nets:Net")])
    assert build_model(config.model, 10).fc.in_features == 6


def test_a_config_that_is_not_trusted_runs_nothing_to_find_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the package around it either, which Python would import to find it."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "evil" / "nets.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    raw = {"family": "evil.nets:Net"}
    with pytest.raises(ConfigError, match=r"evil\.nets:Net: this config names code without the hash .*; give the config"):
        own_code.with_hashes(raw, trusted=False)
    assert own_code.with_hashes(raw, trusted=True)["sha256"] == sha256_bytes(NET.encode())
    assert "evil" not in sys.modules


def test_copies_have_a_name_each_within_the_folder() -> None:
    here, there = ({"family": f"{place}/custom.py:Net", "sha256": place[0] * 64} for place in ("nets", "aug"))
    assert own_code.files_of({"model": here, "augment": {**here, "engine": "x"}}) == {"custom.py": "n" * 64}
    with pytest.raises(ConfigError, match=r"two files of this config are called custom\.py; rename one of them"):
        own_code.files_of({"model": here, "augment": there})
    with pytest.raises(ConfigError, match=r"two files of this config are called custom\.py"):  # of a mapping, too
        own_code.with_hashes({"model": here, "augment": there}, trusted=False)
    assert own_code.files_of({"family": "nets\\mine.py:Net", "sha256": "a"}) == {"mine.py": "a"}
    with pytest.raises(ConfigError, match=r"\.\./torch: expected a file such as my_nets\.py, or an installed module"):
        own_code.files_of({"engine": "../torch:f", "sha256": "a"})


def test_an_edited_copy_in_a_run_is_not_put_back(folder: Path, said: Said) -> None:
    train(load_config("mine.yaml"), "runs/mine", quiet=True)
    (folder / "runs/mine/my_nets.py").write_text("work")
    code, _, err = said("train", "--resume", "runs/mine", "--phases.0.epochs", "2")
    assert (code, "runs/mine/my_nets.py was edited, and is not the code that this run is trained with" in err) == (4, True)
    assert (folder / "runs/mine/my_nets.py").read_text() == "work"


def test_an_installed_package_that_was_replaced_since_its_import_asks_for_a_new_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site-packages").mkdir()
    file = tmp_path / "site-packages" / "nets_installed.py"
    file.write_text(NET)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    config = load_config("mine.yaml", [("model.family", "nets_installed:Net")])
    assert build_model(config.model, 10).__class__ is importlib.import_module("nets_installed").Net
    file.write_text(NET + "# another version")
    with pytest.raises(ConfigError, match=r"nets_installed was imported with .*restart Python \(in a notebook: the kernel\)"):
        build_model(load_config("mine.yaml", [("model.family", "nets_installed:Net")]).model, 10)
