"""Training on a GPU: the losses of the CPU, no step that waits for the device, the same bits after a resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw, train_until_save

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import read_metrics
from cifar_small.training.standin import memory_needed
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MIXED = {"augment": {"crop": 4, "flip": "random", "cutout": 8}, "cutmix_alpha": 1.0, "mix_prob": 0.5}


def on(device: str, **changes: Any) -> Config:
    """A tiny config of two epochs at two resolutions."""
    raw = tiny_raw(**{"phases": [{"epochs": 1}, {"epochs": 1, "resolution": 24}], **changes})
    raw["engine"] = {"device": device, "precision": "fp32", **changes.get("engine", {})}
    return parse_config(raw)


def losses(folder: Path) -> list[float]:
    return [float(row["train_loss"]) for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())]


def test_a_gpu_has_the_losses_of_the_cpu(tmp_path: Path) -> None:
    """Sums in another order: some 1e-6 of a loss, amplified by a few dozen updates."""
    for device in ("cpu", "cuda"):
        train(on(device, **MIXED, ema_decay=0.9), tmp_path / device, quiet=True)
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), abs=2e-3)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"name": "sgd", "lr": 0.1}, "ema_decay": 0.9, "cutmix_alpha": 1.0},
        {"optim": {"name": "adamw", "lr": 1e-3, "clip_norm": 1.0}, "mixup_alpha": 0.2},
        {"optim": {"name": "muon", "lr": 0.1}, "augment": {"crop": 2, "flip": "alternating", "rotation": 5}},
    ],
    ids=["sgd, ema, cutmix", "adamw, clipping, mixup", "muon, affine"],
)
def test_no_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """Nor does what comes between steps, such as augmentation: from the end of an epoch's first step, in which kernels are
    chosen and loaded, to the look at what has diverged."""
    step, look, strict = Trainer.step, Trainer._stop_if_diverged, 0

    def watched(self: Trainer, *arguments: Any) -> torch.Tensor:
        nonlocal strict
        strict += torch.cuda.get_sync_debug_mode() == 2
        bad = step(self, *arguments)
        torch.cuda.set_sync_debug_mode("error")
        return bad

    def relaxed(self: Trainer, *arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        look(self, *arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    monkeypatch.setattr(Trainer, "_stop_if_diverged", relaxed)
    try:
        train(on("cuda", **changes), tmp_path / "run", quiet=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert strict > 4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_has_about_the_losses_of_fp32(tmp_path: Path, precision: str) -> None:
    train(on("cuda"), tmp_path / "fp32", quiet=True)
    train(on("cuda", engine={"precision": precision}), tmp_path / precision, quiet=True)
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "fp32"), abs=0.05)


def test_the_memory_of_a_run_is_about_what_its_dry_run_says(tmp_path: Path) -> None:
    """The bounds are wide: they were set before any GPU was at hand."""
    model = {"family": "resnet", "widths": [64, 64, 64], "blocks": [1, 1, 1], "strides": [1, 2, 2]}
    rules = {"max_params": 1_000_000, "rows": 360}
    config = on("cuda", rules=rules, model=model, batch_size=256, engine={"precision": "bf16"})
    torch.cuda.reset_peak_memory_stats()
    train(config, tmp_path / "run", quiet=True)
    seen = read_metrics(tmp_path / "run" / "metrics.csv")[-1]["gpu_gib"]
    assert 0.7 < seen / (memory_needed(config, 10, 256) / 2**30) < 2


@pytest.mark.parametrize("name", ["sgd", "radam", "muon"])
def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = on("cuda", optim={"name": name, "lr": 0.01}, ema_decay=0.9, engine={"checkpoint_steps": 2})
    train(config, tmp_path / "whole", quiet=True)
    train_until_save(config, tmp_path / "cut", 1, monkeypatch)
    train(config, tmp_path / "cut", resume=True, quiet=True)
    whole, cut = (load_checkpoint(tmp_path / run / "last.pt")["model"] for run in ("whole", "cut"))
    for key, value in whole.items():  # convolutions on a GPU sum in no fixed order
        torch.testing.assert_close(cut[key], value, atol=2e-3, rtol=2e-3)


@pytest.mark.filterwarnings("ignore:.*deterministic")
def test_a_deterministic_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = on("cuda", **MIXED, engine={"checkpoint_steps": 2, "deterministic": True})
    train(config, tmp_path / "whole", quiet=True)
    train_until_save(config, tmp_path / "cut", 1, monkeypatch)
    train(config, tmp_path / "cut", resume=True, quiet=True)
    whole, cut = (load_checkpoint(tmp_path / run / "last.pt")["model"] for run in ("whole", "cut"))
    assert all(torch.equal(cut[key], value) for key, value in whole.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_compiled_training_has_the_same_losses(tmp_path: Path, mode: bool | str) -> None:
    train(on("cuda"), tmp_path / "plain", quiet=True)
    train(on("cuda", engine={"compile": mode}), tmp_path / "compiled", quiet=True)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=2e-3)
