"""Features of a frozen backbone, kept: the same training, resumed to the same bits, bounded, and refused where they mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save

import cifar_small.training.feature_cache as module
import cifar_small.training.view_cache as view_cache
from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config
from cifar_small.errors import ConfigError
from cifar_small.models import LibraryNet, build_model, set_frozen, set_training
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.batches import Batches
from cifar_small.training.build import build_trainer
from cifar_small.training.distributed import World
from cifar_small.training.standin import stand_in
from cifar_small.training.train import train

PLAIN = {"crop": 0, "flip": "none"}
HEAD: dict[str, Any] = {"epochs": 2, "freeze": "backbone", "augment": PLAIN, "optim": {"name": "adamw", "lr": 0.01}}
ENGINE = {"device": "cpu", "precision": "fp32", "threads": 1, "checkpoint_steps": 1}


def small(*phases: dict[str, Any], head: str = "plain", **settings: Any) -> Config:
    raw = {
        "model": {"family": "torchvision/mobilenet_v3_small", "head": head},
        "rules": {"rows": None},
        "data": {"source": "digits", "val_size": 100, "train_limit": 90},
        "batch_size": 30,
        "engine": ENGINE,
        "phases": list(phases),
    }
    return parse_config(tiny_raw(**{**raw, **settings}))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]  # type: ignore[no-any-return]


def losses(folder: Path) -> list[float]:
    return [float(row["val_loss"]) for row in load_checkpoint(folder / "last.pt")["rows"]]


@pytest.mark.parametrize(
    ("head", "augment", "views", "ema"),
    [("plain", PLAIN, 1, None), ("se", {"crop": 4, "flip": "random"}, 2, 0.9)],
    ids=["fixed", "augmented"],
)
def test_training_on_features_is_training_on_pixels(
    head: str, augment: dict[str, Any], views: int, ema: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many views as epochs: the very pixels of each epoch. The backbone sees every image once a view, and val once."""
    phase, seen = {**HEAD, "augment": augment}, []
    train(small(phase, head=head, ema_decay=ema), tmp_path / "pixels", quiet=True)
    features = LibraryNet.features
    monkeypatch.setattr(LibraryNet, "features", lambda net, images: seen.append(len(images)) or features(net, images))
    train(small({**phase, "cached_views": views}, head=head, ema_decay=ema), tmp_path / "cached", quiet=True)
    # Twice two images for the shapes, val, the views; the predictions of val at the end.
    assert sum(seen) == 4 + 100 + 90 * views + 100
    ours, theirs = weights_of(tmp_path / "cached"), weights_of(tmp_path / "pixels")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-2, atol=2e-3)  # features are rounded to 11 bits
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "pixels"), abs=5e-3)
    assert not (tmp_path / "cached" / "cached_views").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_average_with_a_backbone_of_its_own_is_judged_by_that(precision: str, tmp_path: Path) -> None:
    """After a phase that trained the backbone, the average's is another; in bf16 features are kept to the last bit."""
    phases = {"epochs": 1, "optim": {"name": "adamw", "lr": 0.003}}, {**HEAD, "freeze": "backbone"}
    engine = {**ENGINE, "precision": precision}
    for name, views in (("pixels", None), ("cached", 1)):
        config = small(phases[0], {**phases[1], "cached_views": views}, ema_decay=0.7, engine=engine)
        train(config, tmp_path / name, quiet=True)
    ours, theirs = losses(tmp_path / "cached"), losses(tmp_path / "pixels")
    assert ours == (theirs if precision == "bf16" else pytest.approx(theirs, abs=5e-3))
    state = load_checkpoint(tmp_path / "cached" / "last.pt")
    assert any(not torch.equal(value, state["average"][f"module.{name}"]) for name, value in state["model"].items())


def test_maps_of_a_phase_at_another_resolution_than_val(tmp_path: Path) -> None:
    """The head is trained on maps of fewer pixels than it is judged on."""
    phase = {**HEAD, "cached_views": 1, "resolution": 32}
    train(small(phase, head="se", input={"size": 64}), tmp_path / "run", quiet=True)
    assert len(losses(tmp_path / "run")) == 2


def test_a_cache_is_for_a_single_process(tmp_path: Path) -> None:
    resolved = resolve_config(small({**HEAD, "cached_views": 1}))
    with pytest.raises(ConfigError, match=r"phases\.0\.cached_views is for a single process, not for 2; drop it"):
        build_trainer(resolved, Run(tmp_path), world=World(0, 2, 0, 2), quiet=True)


def test_features_do_not_outlive_a_run_that_patience_ended(tmp_path: Path) -> None:
    phase = {**HEAD, "epochs": 9, "cached_views": 1, "optim": {"name": "adamw", "lr": 1e-9}}
    summary = train(small(phase, patience=1, selection="best"), tmp_path / "run", quiet=True)
    assert summary is not None
    assert summary.ended_early
    assert not (tmp_path / "run" / "cached_views").exists()


def test_frozen_layers_run_without_autograd_in_evaluation() -> None:
    config = small(HEAD)
    net = build_model(config.model, 10)
    assert isinstance(net, LibraryNet)
    set_frozen(net, ("backbone",))
    set_training(net)
    images = torch.randn(4, 3, 32, 32)
    features = net.features(images)
    assert features.grad_fn is None
    assert torch.equal(features, net.eval().features(images))


THREE = (
    {**HEAD, "augment": {"crop": 4}, "cached_views": 2, "epochs": 3},
    {"epochs": 1, "freeze": "none", "optim": {"name": "sgd", "lr": 0.01}},
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(small(*THREE), folder, quiet=True)
    return fingerprint(folder)


@pytest.mark.parametrize("saves", [1, 5, 10])
def test_a_killed_run_continues_to_the_same_bits_and_reads_what_is_kept(
    saves: int, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the first epoch, within the second, and in the next phase, which has no features any more."""
    train_until_save(small(*THREE), tmp_path / "run", saves, monkeypatch)
    kept, read = sorted((tmp_path / "run" / "cached_views").glob("*.npy")), list[Path]()
    assert len(kept) == (3 if saves < 9 else 0)
    if kept:
        monkeypatch.setattr(module, "compute_in_parts", lambda *given: pytest.fail("computed again"))
        load = np.load
        monkeypatch.setattr(np, "load", lambda path, **given: read.append(Path(path)) or load(path, **given))
    config = small(*THREE)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert fingerprint(tmp_path / "run") == undisturbed
    assert sorted(path for path in read if path.parent.name == "cached_views") == kept


def test_the_key_covers_all_that_features_depend_on_and_other_files_go(tmp_path: Path) -> None:
    keys = []
    for changes in ({}, {"seed": 1}, {"resolution": 16}, {"data": {"source": "digits", "val_size": 100, "train_limit": 60}}):
        config = resolve_config(small({**HEAD, "cached_views": 1}, **changes))
        run = Run(tmp_path / f"run{len(keys)}")
        run.folder.mkdir()
        trainer = build_trainer(config, run, quiet=True)
        keys.append(module._key(trainer.state.model, trainer.batches, config.phases[0], "fp32"))  # type: ignore[arg-type]
    assert len(set(keys)) == 4
    folder = view_cache.cache_folder(run)
    folder.mkdir()
    np.save(folder / f"{keys[0]}-view0.npy", np.zeros(3))
    module.fill_cache(run, trainer.state.model, trainer.batches, config.phases[0], "fp32")
    assert {path.name for path in folder.iterdir()} == {f"{keys[3]}-view0.npy", f"{keys[3]}-val.npy"}
    with torch.no_grad():
        trainer.state.model.backbone.features[0][0].weight.add_(0.01)  # type: ignore[union-attr, index, operator]
    assert module._key(trainer.state.model, trainer.batches, config.phases[0], "fp32") != keys[3]  # type: ignore[arg-type]


def test_more_than_the_bound_is_refused_before_anything_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of maps, as many numbers as the phase's resolution gives, and for val those of the config's size."""
    phases = {"epochs": 1, "freeze": "none"}, {**HEAD, "epochs": 1, "cached_views": 1, "resolution": 32}
    config, needed = small(*phases, head="se", input={"size": 64}), 2 * 576 * (90 + 2 * 2 * 100)
    monkeypatch.setattr(view_cache, "MAX_BYTES", needed - 1)
    with pytest.raises(
        ConfigError, match=r"phases\.1\.cached_views 1 would keep 0\.0 GB of features, 576 numbers for each image"
    ):
        train(config, tmp_path / "run", quiet=True)
    assert not Run(tmp_path / "run").last.exists()
    with pytest.raises(ConfigError, match=r"phases\.1\.cached_views 1 would keep"):
        stand_in(config, 10, 90, "fp32").train_phases()
    monkeypatch.setattr(view_cache, "MAX_BYTES", needed)
    assert train(config, tmp_path / "run", quiet=True) is not None


def test_averages_of_a_phase_that_caches_have_no_statistics_to_take_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    plain = Batches.plain
    monkeypatch.setattr(Batches, "plain", lambda *place: (given.append(len(part)) or part for part in plain(*place)))
    train(small({**HEAD, "cached_views": 1, "swa": {"every": 1}}), tmp_path / "run", quiet=True)
    assert given == []


def test_an_epoch_that_is_begun_shows_a_view_of_its_own() -> None:
    config = small({**HEAD, "epochs": 1.5, "cached_views": 2, "augment": {"crop": 4}})
    assert resolve_config(config).phases[0].settings.cached_views == 2


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({**HEAD, "cached_views": 2}, "cached_views 2 would keep equal views, for nothing is random"),
        ({**HEAD, "cached_views": 1, "augment": {"crop": 4}}, "would keep a single random view of each image"),
        ({**HEAD, "cached_views": 3, "augment": {"crop": 4}}, "is more than the phase's 2 epochs, which gains nothing"),
        ({**HEAD, "cached_views": 1, "freeze": "none"}, "needs a backbone that does not train: set freeze: backbone"),
        ({**HEAD, "cached_views": 1, "mixup_alpha": 0.2}, "goes with no mixing"),
        ({**HEAD, "cached_views": 1, "distill": {"teachers": ["a"]}}, "goes with no teachers that see pixels"),
    ],
)
def test_what_would_change_the_training_is_refused(phase: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(phase)
    with pytest.raises(ConfigError, match="is for nets of torchvision and timm"):
        parse_config(tiny_raw(phases=[{**HEAD, "cached_views": 1}]))


def test_the_next_phase_does_not_inherit_it() -> None:
    small({**HEAD, "cached_views": 1}, {"epochs": 1, "freeze": "none", "augment": {"crop": 4}})
