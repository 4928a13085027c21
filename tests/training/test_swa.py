"""Stochastic weight averaging: the mean by hand, BatchNorm against torch's update_bn, what counts, resuming, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from cifar_small.config.hashing import config_hash
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import load_datamodule
from cifar_small.errors import ConfigError
from cifar_small.models import build_model, refresh_statistics
from cifar_small.models.blocks import Dropout, StochasticDepth
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer
from cifar_small.transforms.augmenter import epoch_order
from cifar_small.transforms.preprocess import normalize

MODEL = {**tiny_raw()["model"], "dropout": 0.3, "stochastic_depth": 0.2}
AVERAGED = [{"epochs": 1}, {"epochs": 4, "swa": {"every": 2}}]


def settings(**changes: Any) -> Config:
    return parse_config(tiny_raw(**{"schedule": {"name": "constant"}, "selection": "last", **changes}))


def clean_batches(config: Config, epoch: int) -> list[Tensor]:
    """The training images of a 0-based epoch, in its order and batches, normalized only."""
    datamodule = load_datamodule(config)
    order = epoch_order(len(datamodule.images), config.seed, epoch)
    return [normalize(datamodule.images[rows], datamodule.mean, datamodule.std) for rows in order.split(config.batch_size)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Tensor]], list[dict[str, Any]]]:
    """A run of 1 + 4 epochs, the last four averaged every other: its folder, each epoch's own weights, the rows of metrics."""
    history: list[dict[str, Tensor]] = []
    rows: list[dict[str, Any]] = []
    evaluate = Trainer._evaluate

    def recorded(self: Trainer) -> tuple[float, float]:
        history.append({name: value.clone() for name, value in self.state.model.state_dict().items()})
        return evaluate(self)

    folder = tmp_path_factory.mktemp("swa") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_evaluate", recorded)
        train(settings(model=MODEL, phases=AVERAGED), folder, quiet=True, on_epoch=rows.append)
    return folder, history, rows


def test_the_mean_by_hand(run: tuple[Path, list[dict[str, Tensor]], list[dict[str, Any]]]) -> None:
    folder, history, _ = run
    best = load_checkpoint(folder / "best.pt")
    assert best["averaged"] == 2
    net = build_model(settings(model=MODEL).model, 10)
    for name, _ in net.named_parameters():
        torch.testing.assert_close(best["weights"][name], (history[2][name] + history[4][name]) / 2, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(best["weights"]["fc.weight"], history[4]["fc.weight"], atol=1e-4)


def test_batchnorm_has_the_statistics_of_clean_training_images_under_the_mean(
    run: tuple[Path, list[dict[str, Tensor]], list[dict[str, Any]]],
) -> None:
    folder, history, _ = run
    config = settings(model=MODEL)
    best = load_checkpoint(folder / "best.pt")["weights"]
    reference = build_model(config.model, 10)
    reference.load_state_dict(best)
    for module in reference.modules():
        if isinstance(module, Dropout | StochasticDepth):
            module.p = 0.0
    update_bn(clean_batches(config, epoch=4), reference)
    buffers = {name: value for name, value in reference.named_buffers() if value.is_floating_point()}
    assert len(buffers) == 2 * sum(isinstance(module, nn.BatchNorm2d) for module in reference.modules()) > 10
    for name, value in buffers.items():
        torch.testing.assert_close(best[name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(best[name], history[4][name], rtol=0.02) for name in buffers)  # the net's own are others


def test_what_is_evaluated_is_what_is_stored(run: tuple[Path, list[dict[str, Tensor]], list[dict[str, Any]]]) -> None:
    folder, history, rows = run
    datamodule = load_datamodule(settings())
    labels = torch.from_numpy(datamodule.val.labels)
    net = build_model(settings(model=MODEL).model, 10).eval()
    # before the average has taken an epoch in, the net itself counts
    for row, weights in zip(rows[:2] + rows[-1:], [*history[:2], load_checkpoint(folder / "best.pt")["weights"]], strict=True):
        net.load_state_dict(weights)
        with torch.no_grad():
            logits = net(normalize(datamodule.val_images, datamodule.mean, datamodule.std))
        assert row["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
        assert row["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert rows[2]["val_loss"] == rows[3]["val_loss"]  # every: 2, so the average of epoch 4 is that of epoch 3
    assert rows[1]["val_loss"] != rows[2]["val_loss"]


def test_refreshing_touches_statistics_alone_and_is_a_plain_mean() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.7), nn.Dropout(0.9), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    batches = [torch.randn(8, 3, 6, 6) + index for index in range(3)]
    before, random = copy.deepcopy(net), torch.get_rng_state()
    refresh_statistics(net, batches)
    refresh_statistics(net, batches)  # nothing of the first time is left
    assert torch.equal(random, torch.get_rng_state())
    assert net.training
    assert [net[1].momentum, net[4].momentum] == [0.7, 0.1]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(net.parameters(), before.parameters(), strict=True))
    seen = [net[0](batch).detach() for batch in batches]
    torch.testing.assert_close(net[1].running_mean, torch.stack([maps.mean((0, 2, 3)) for maps in seen]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([maps.var((0, 2, 3)) for maps in seen]).mean(0))
    normalized = [
        (maps - maps.mean((0, 2, 3), keepdim=True)) / (maps.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt() for maps in seen
    ]
    behind = [net[3](maps).detach() for maps in normalized]
    torch.testing.assert_close(net[4].running_mean, torch.stack([maps.mean((0, 2, 3)) for maps in behind]).mean(0))
    assert net[4].num_batches_tracked == 3


def test_a_norm_at_two_places_has_the_mean_over_its_calls() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    net, batches = nn.Sequential(norm, nn.ReLU(), norm), [torch.randn(8, 3, 6, 6) + index for index in range(3)]
    refresh_statistics(net, batches)
    fresh = nn.BatchNorm2d(3)
    calls = [maps for batch in batches for maps in (batch, fresh(batch).relu().detach())]
    torch.testing.assert_close(norm.running_mean, torch.stack([maps.mean((0, 2, 3)) for maps in calls]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([maps.var((0, 2, 3)) for maps in calls]).mean(0))


def test_a_norm_that_the_net_keeps_in_evaluation_is_left_alone() -> None:
    class Kept(nn.Sequential):
        def train(self, mode: bool = True) -> Kept:
            super().train(mode)
            self[0].eval()
            return self

    net = Kept(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    refresh_statistics(net, [torch.randn(8, 3, 6, 6) + 1])
    assert torch.equal(net[0].running_mean, torch.zeros(3))
    torch.testing.assert_close(net[1].running_mean, torch.ones(3), atol=0.3, rtol=0)


@pytest.mark.parametrize(
    ("phases", "kills"),
    [
        # 4 steps an epoch, saved every 2: saves 2, 4, 6 ... end epochs
        ([{"epochs": 1}, {"epochs": 2, "swa": {}}], (2, 3, 4)),
        ([{"epochs": 2, "swa": {}}, {"epochs": 1, "swa": None}], (2, 4)),
    ],
    ids=["begins", "ends"],
)
def test_resumed_bit_for_bit(
    phases: list[dict[str, Any]], kills: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = {"threads": 1, "device": "cpu", "checkpoint_steps": 2}
    config = settings(model=MODEL, phases=phases, engine=engine)
    train(config, tmp_path / "whole", quiet=True)
    expected = fingerprint(tmp_path / "whole")
    for kill in kills:
        train_until_save(config, tmp_path / f"killed{kill}", kill, monkeypatch)
        train(config, tmp_path / f"killed{kill}", resume=True, quiet=True)
        assert fingerprint(tmp_path / f"killed{kill}") == expected


@pytest.mark.parametrize("resumed", [False, True])
def test_an_average_that_goes_on_while_the_backbone_is_frozen_has_statistics_of_its_own(
    resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm counts as frozen only if it was so in every epoch of the average."""
    config = settings(phases=[{"epochs": 2, "swa": {}}, {"epochs": 2, "freeze": ["backbone"]}])
    if resumed:
        train_until_save(config, tmp_path / "run", 3, monkeypatch)
    train(config, tmp_path / "run", resume=resumed, quiet=True)
    best = load_checkpoint(tmp_path / "run" / "best.pt")["weights"]
    reference = build_model(config.model, 10)
    reference.load_state_dict(best)
    update_bn(clean_batches(config, epoch=3), reference)
    for name, value in reference.named_buffers():
        if value.is_floating_point():
            torch.testing.assert_close(best[name], value, rtol=1e-4, atol=1e-5)


def test_a_norm_that_is_frozen_throughout_keeps_its_statistics(tmp_path: Path) -> None:
    phases = [{"epochs": 1}, {"epochs": 1, "swa": {}, "freeze": ["backbone"]}, {"epochs": 1, "freeze": ["bn1"]}]
    train(settings(phases=phases), tmp_path / "run", quiet=True)
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert torch.equal(last["average"]["module.bn1.running_mean"], last["model"]["bn1.running_mean"])
    inner = "layer1.0.bn1.running_mean"
    assert not torch.allclose(last["average"][f"module.{inner}"], last["model"][inner], rtol=1e-3)


def test_a_phase_without_it_counts_its_own_weights(tmp_path: Path) -> None:
    train(settings(phases=[{"epochs": 2, "swa": {}}, {"epochs": 1, "swa": None}]), tmp_path / "run", quiet=True)
    last, best = load_checkpoint(tmp_path / "run" / "last.pt"), load_checkpoint(tmp_path / "run" / "best.pt")
    assert last["average"] is None
    assert best["averaged"] == 0
    assert all(torch.equal(value, last["model"][name]) for name, value in best["weights"].items())


@pytest.mark.parametrize(
    ("every", "patience", "accuracies", "ends"),
    [
        (2, 1, [0.3, 0.4, 0.4, 0.5, 0.5], None),  # both sets are better
        (2, 1, [0.3, 0.4, 0.4, 0.4], 5),  # the second is not
        (2, 1, [0.3, 0.2], 3),  # the first is not
        (1, 2, [0.3, 0.2, 0.2], 4),
    ],
)
@pytest.mark.parametrize("kill", [None, 4])
def test_patience_counts_the_sets_that_are_averaged(
    every: int,
    patience: int,
    accuracies: list[float],
    ends: int | None,
    kill: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Between two sets of weights the same average is evaluated, which says nothing of the next."""
    script = dict(enumerate([0.2, *accuracies]))
    monkeypatch.setattr(Trainer, "_evaluate", lambda self: (1.0, script[self.state.epoch]))
    phases = [{"epochs": 1}, {"epochs": 5, "swa": {"every": every}}]
    config = settings(phases=phases, patience=patience, selection="best")
    if kill is not None and kill < (ends or 6):
        train_until_save(config, tmp_path / "run", kill, monkeypatch)
    summary = train(config, tmp_path / "run", resume=kill is not None)
    assert summary.epochs == (ends or 6)
    assert summary.ended_early == (f"ended by patience after epoch {ends} of 6" if ends else "")
    said = f"no better accuracy on val for {patience} epoch{'s' * (patience > 1)} that took weights into the average; to train"
    assert (said in capsys.readouterr().out) is (ends is not None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema_decay": 0.9, "phases": AVERAGED}, r"phases\.1\.swa has no effect beside ema_decay"),
        ({"ema_decay": 0.9, "swa": {}, "phases": [{"epochs": 2}]}, r"phases\.0\.swa has no effect beside ema_decay"),
        ({"phases": [{"epochs": 3}, {"epochs": 1, "swa": {}}]}, r"phases\.1\.swa averages the weights of a single epoch"),
        ({"phases": [{"epochs": 3, "swa": {"every": 2}}]}, r"phases\.0\.swa averages the weights of a single epoch"),
        ({"phases": [{"epochs": 4, "swa": {"every": 5}}]}, r"phases\.0: swa\.every 5 is above the phase's 4 epochs"),
        ({"phases": [{"epochs": 4, "swa": {"evry": 1}}]}, r"swa\.evry: unknown key; did you mean 'every'"),
        ({"phases": [{"epochs": 4, "swa": {"every": 0}}]}, r"swa\.every: .*greater than or equal to 1"),
    ],
)
def test_averages_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_phases_of_one_epoch_average_together_and_the_hash_of_a_config_without_it_stands() -> None:
    settings(phases=[{"epochs": 1, "swa": {}}, {"epochs": 1}])
    settings(phases=[{"epochs": 1, "swa": {}}, {"epochs": 0.6}])  # whose weights at the end are averaged too
    plain = parse_config(tiny_raw())
    assert "swa" not in plain.model_dump()
    assert config_hash(parse_config(tiny_raw(swa=None))) == config_hash(plain)
