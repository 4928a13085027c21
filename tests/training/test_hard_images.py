"""Training on the hardest share of each batch: which images a proxy chooses, the same bits after a resume, what is recorded."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw, train_until_save
from torch import Tensor
from torch.nn import functional as F

from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config, Select
from cifar_small.environment import memory_format
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.reporting.dry_run import describe_run
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.build import build_trainer
from cifar_small.training.hard_images import HardImages, check_shares
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer
from cifar_small.transforms.mixing import apply_mix

Make = Callable[..., Config]


def test_micro_batches_of_every_process_are_equal() -> None:
    phases = [{"epochs": 1, "select": {"share": 0.5, "proxy": "runs/small"}}]
    resolved = resolve_config(parse_config(tiny_raw(batch_size=120, phases=phases, engine={"micro_batch_size": 20})))
    check_shares(resolved, 120, 20)
    with pytest.raises(ConfigError, match=r"phases\.0\.select leaves each process 30 of its 60 images, which slices of .* 20"):
        check_shares(resolved, 60, 20)
    check_shares(resolved, 30, 20)  # fifteen images are one slice


def test_a_process_is_left_hard_images_enough_for_batchnorm() -> None:
    phases = [{"epochs": 1}, {"epochs": 1, "select": {"share": 0.25, "proxy": "runs/small"}}]
    resolved = resolve_config(parse_config(tiny_raw(batch_size=8, phases=phases)))
    check_shares(resolved, 8, 8)
    check_shares(resolved, 4, 4, synced=True)
    with pytest.raises(
        ConfigError, match=r"phases\.1\.select leaves each process 1 of its 4 images.* raise phases\.1\.select\.sh"
    ):
        check_shares(resolved, 4, 4)


def test_a_share_that_fits_one_micro_batch_is_fine_and_one_that_does_not_divide_is_refused() -> None:
    def phases(share: float) -> Config:
        each = [{"epochs": 1, "select": {"share": share, "proxy": "runs/small"}}]
        return parse_config(tiny_raw(batch_size=128, phases=each, engine={"micro_batch_size": 64}))

    resolve_config(phases(0.25))  # 32 images, one slice
    resolve_config(phases(0.499))  # 64, one slice
    with pytest.raises(ConfigError, match=r"select\.share 0\.75 leaves 96 of 128 images, which engine\.micro_batch_size 64"):
        resolve_config(phases(0.75))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard") / "proxy"
    model = {"family": "resnet", "widths": [4, 4, 8], "blocks": [1, 1, 1], "strides": [2, 2, 2]}
    train(parse_config(tiny_raw(name="small", model=model, phases=[{"epochs": 1}])), folder, quiet=True)
    return folder


def selecting(proxy: Path, **changes: Any) -> Config:
    """An epoch on all images, and one on the hardest quarter of each batch: 16 of 64."""
    select = {"share": 0.25, "proxy": str(proxy)}
    return parse_config(tiny_raw(**{"phases": [{"epochs": 1}, {"epochs": 1, "select": select}], "mixup_alpha": 0.5, **changes}))


@pytest.fixture(scope="module")
def whole(proxy: Path) -> tuple[Run, list[tuple[Tensor, Tensor]], list[Tensor]]:
    """A run, what its net was given in each step, and the summed loss of each step."""
    given: list[tuple[Tensor, Tensor]] = []
    losses: list[Tensor] = []
    backward = Trainer.backward

    def seen(self: Trainer, pixels: Tensor, targets: Tensor, *arguments: Any) -> Tensor:
        given.append((pixels.clone(), targets.clone()))
        losses.append(backward(self, pixels, targets, *arguments))
        return losses[-1]

    run = Run(proxy.parent / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "backward", seen)
        train(selecting(proxy), run.folder, quiet=True)
    return run, given, losses


def test_a_phase_trains_on_the_share_that_is_hardest_for_the_proxy(proxy: Path, whole: tuple[Run, Any, Any]) -> None:
    _, given, _ = whole
    assert [len(pixels) for pixels, _ in given] == [64] * 4 + [16] * 4


def test_the_net_is_given_the_chosen_images_each_with_its_own_targets(proxy: Path, tmp_path: Path) -> None:
    """Mixed ones, of which the targets tell images apart, at another size than the proxy sees."""
    phases = [{"epochs": 1, "resolution": 24, "select": {"share": 0.25, "proxy": str(proxy)}}]
    trainer = build_trainer(resolve_config(selecting(proxy, phases=phases)), Run(tmp_path), quiet=True)
    batches, phase = trainer.batches, trainer.resolved.phases[0]
    select = batches.hard_images[0]
    batch = next(batches.epoch(phase, 0, 0))
    some, targets = batches.inputs(phase, 0, batch, "fp32")
    batches.hard_images.clear()
    whole, labels = batches.inputs(phase, 0, batch, "fp32")
    mixed, _ = apply_mix(batch.mix, batch.pixels, F.one_hot(batches.data.labels[batch.chosen], 10).float())
    losses = F.cross_entropy(select.proxy(mixed), labels, reduction="none")
    places = losses.topk(16).indices.sort().values
    assert torch.equal(some, whole[places])
    assert torch.equal(targets, labels[places])
    assert losses[places].min() >= losses.median()


def test_metrics_are_those_of_the_images_trained_on(whole: tuple[Run, Any, list[Tensor]]) -> None:
    run, _, losses = whole
    rows = list(csv.DictReader(run.metrics_file.read_text().splitlines()))
    means = [float(sum(losses[:4])) / 256, float(sum(losses[4:])) / 64]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx(means, rel=1e-5)
    assert 0 < float(rows[1]["train_accuracy"]) < 1


def test_the_choice_is_that_of_the_highest_losses() -> None:
    """By hand, with targets of two columns more than the proxy's classes, as those of distillation are."""
    generator = torch.Generator().manual_seed(0)
    pixels, weights = torch.randn(10, 3, 4, 4, generator=generator), torch.randn(48, 5, generator=generator)
    targets = torch.cat((torch.eye(5)[torch.arange(10) % 5], torch.randn(10, 2, generator=generator)), 1)
    proxy: Any = lambda part: part.flatten(1) @ weights  # noqa: E731
    losses = F.cross_entropy(pixels.flatten(1) @ weights, targets[:, :5], reduction="none")
    chosen = HardImages(Select(share=0.3, proxy="runs/small"), proxy, 4, parse_config(tiny_raw()).engine)(
        pixels, targets, "fp32"
    )
    assert chosen.tolist() == sorted(sorted(range(10), key=lambda place: -float(losses[place]))[:3])
    assert memory_format(parse_config(tiny_raw()).engine) is torch.channels_last


@pytest.mark.parametrize("saves", [5, 7])
def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(
    proxy: Path, whole: tuple[Run, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    config = selecting(proxy)
    saving = config.model_copy(update={"engine": config.engine.model_copy(update={"checkpoint_steps": 1})})
    train_until_save(saving, tmp_path / "cut", saves, monkeypatch)
    train(saving, tmp_path / "cut", resume=True, quiet=True)
    cut, expected = (load_checkpoint(folder / "last.pt")["model"] for folder in (tmp_path / "cut", whole[0].folder))
    assert all(torch.equal(value, cut[name]) for name, value in expected.items())


def test_the_proxy_is_recorded_and_may_not_change(proxy: Path, whole: tuple[Run, Any, Any], tmp_path: Path) -> None:
    run, summary = whole[0], whole[0].summary()
    assert summary is not None
    (facts,) = summary.teachers
    assert (facts.name, facts.role, facts.run) == ("small", "proxy", "proxy")
    raw = tiny_raw(name="small", seed=3, phases=[{"epochs": 1}])
    train(parse_config(raw), tmp_path / "proxy", quiet=True)
    moved, phases = tmp_path / "proxy", selecting(proxy).phases
    config = selecting(moved, phases=[phases[0], {**phases[1], "epochs": 2, "select": {"share": 0.25, "proxy": str(moved)}}])
    with pytest.raises(ConfigError, match=r"phases\.1\.select\.proxy"):
        train(config, run.folder, resume=True, quiet=True)
    kept = proxy.with_name("kept")
    proxy.rename(kept)
    try:
        moved.rename(proxy)
        longer = selecting(proxy, phases=[phases[0], {**phases[1], "epochs": 2}])
        with pytest.raises(CheckpointError, match="was started with other teachers"):
            train(longer, run.folder, resume=True, quiet=True)
        proxy.rename(moved)
    finally:
        kept.rename(proxy)


def test_the_dry_run_counts_less_work(proxy: Path) -> None:
    def work(**phase: Any) -> float:
        text = describe_run(parse_config(tiny_raw(phases=[{"epochs": 4, **phase}])))
        return float(text.partition("\nwork ")[2].split()[0])

    assert work(select={"share": 0.25, "proxy": str(proxy)}) == pytest.approx(work() / 4, rel=0.1)


@pytest.mark.parametrize(
    ("select", "engine", "message"),
    [
        ({"share": 0.01, "proxy": "a"}, {}, "leaves 1 of 64 images; raise it"),
        ({"share": 0.75, "proxy": "a"}, {"micro_batch_size": 32}, "leaves 48 of 64 images, which engine.micro_batch_size 32"),
        ({"share": 0.995, "proxy": "a"}, {}, "leaves all 64 images, and has no effect: lower it"),
        ({"share": 1.0, "proxy": "a"}, {}, "select.share"),
        ({"share": 0.5}, {}, "select.proxy"),
    ],
)
def test_what_can_not_be_cut_is_refused(tiny: Make, select: dict[str, Any], engine: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(phases=[{"epochs": 1, "select": select}], engine={"device": "cpu", "precision": "fp32", **engine})


def test_a_proxy_that_was_trained_on_our_val_images_is_refused(proxy: Path, tmp_path: Path) -> None:
    config = selecting(proxy, data={"source": "digits", "val_size": 100, "train_limit": 256})
    with pytest.raises(ConfigError, match=r"phases\.1\.select: .* held out other images"):
        train(config, tmp_path / "run", quiet=True)


def test_features_that_are_kept_have_no_pixels_for_a_proxy(tiny: Make) -> None:
    phase = {"epochs": 2, "freeze": "backbone", "cached_views": 1, "select": {"share": 0.5, "proxy": "a"}}
    with pytest.raises(ConfigError, match=r"phases.0.select needs pixels, which cached_views 1 leaves out"):
        tiny(phases=[phase])
