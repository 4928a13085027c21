"""The contact sheet shows what training feeds to the net, and the timeline what the schedule will do."""

from __future__ import annotations

import csv
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from PIL import Image

import cifar_small.training.batches
import cifar_small.training.trainer
from cifar_small.cli.main import main
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import SOURCES, Config
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.data.datamodule import load_datamodule
from cifar_small.errors import UserError
from cifar_small.reporting.preview import Blanks, choose_images, count_blanks, draw_preview, flat_shares, preview_blocks
from cifar_small.reporting.timeline import (
    describe_augment,
    describe_optim,
    draw_config,
    learning_rates,
    phase_bars,
    phase_rows,
    phase_table,
    steps_per_epoch,
)
from cifar_small.training.batches import Batch
from cifar_small.training.train import train
from cifar_small.transforms.augmenter import Augmenter
from cifar_small.transforms.mixing import Mix, apply_mix

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = [{"name": "ShiftScaleRotate", "p": 0.8}, {"name": "CoarseDropout", "p": 0.5}]


def mixed_config() -> Config:
    """Three phases, 4 steps of 60 images an epoch, 16 of 256 left out, and of the last epoch half."""
    phases: list[dict[str, Any]] = [
        {"epochs": 2, "augment": {"rotation": 20.0, "policy": "trivialaugment"}, "ricap_beta": 0.5, "mixup_alpha": 0.5},
        {"epochs": 1, "ricap_beta": 0.0, "mixup_alpha": 0.0, "label_smoothing": 0.1},
        {"epochs": 0.5, "augment": {"engine": "albumentations", "pipeline": PIPELINE}, "dropout": 0.2},
    ]
    return parse_config(tiny_raw(batch_size=60, phases=phases))


def test_cells_are_what_training_feeds_to_the_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[tuple[torch.Tensor, torch.Tensor]] = []
    chosen_by_step: list[list[int]] = []
    original = cifar_small.training.trainer.Trainer.step

    def recording(mix: Mix, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fed.append(apply_mix(mix, images, targets))
        return fed[-1]

    def step(self: Any, phase: Any, batch: Batch, stopped: torch.Tensor) -> Any:
        chosen_by_step.append(batch.chosen.tolist())
        if batch.mix.kind == "none":  # which training leaves as it is
            labels = self.data.labels[batch.chosen]
            fed.append((batch.pixels, torch.nn.functional.one_hot(labels, len(self.data.classes)).float()))
        return original(self, phase, batch, stopped)

    monkeypatch.setattr(cifar_small.training.batches, "apply_mix", recording)
    monkeypatch.setattr(cifar_small.training.trainer.Trainer, "step", step)
    config = mixed_config()
    train(config, tmp_path / "run", quiet=True)
    assert len(fed) == 14
    datamodule = load_datamodule(config)
    images = choose_images(datamodule.labels, 40)
    blocks = preview_blocks(resolve_config(config), datamodule, images, columns=3)
    assert [block.epochs for block in blocks] == [(0, 1), (2,), (3,)]
    assert preview_blocks(resolve_config(config), datamodule, images[:2], epoch=1)[0].epochs == (1,)
    left_out = mixed = 0
    for block in blocks:
        for index, row in zip(images, block.cells, strict=True):
            for epoch, cell in zip(block.epochs, row, strict=True):
                steps = [number for number in range(4 * epoch, min(4 * epoch + 4, 14)) if index in chosen_by_step[number]]
                if not steps:
                    assert cell is None
                    left_out += 1
                    continue
                assert cell is not None
                place = chosen_by_step[steps[0]].index(index)
                pixels, target = fed[steps[0]][0][place], fed[steps[0]][1][place]
                std, mean = (torch.tensor(values).view(3, 1, 1) for values in (datamodule.std, datamodule.mean))
                levels = (255 * (pixels * std + mean)).clamp(0, 255).permute(1, 2, 0)
                assert np.abs(cell.pixels - levels.numpy()).max() < 0.51
                for label, share in cell.shares.items():
                    assert share == pytest.approx(target[label].item(), abs=1e-6)
                assert sum(cell.shares.values()) == pytest.approx(1, abs=0.005)
                assert list(cell.shares.values()) == sorted(cell.shares.values(), reverse=True)
                mixed += len(cell.shares) > 1
    assert 0 < left_out < 40
    assert mixed > 30


def test_chosen_images_take_turns_by_class() -> None:
    labels = torch.tensor([1, 1, 0, 2, 0, 2, 1])
    assert choose_images(labels, 7) == [2, 0, 3, 4, 1, 5, 6]
    assert choose_images(labels, 4) == [2, 0, 3, 4]


def test_the_sheet_shows_every_class(tmp_path: Path) -> None:
    assert draw_preview(mixed_config(), tmp_path / "sheet.png", columns=1).startswith("10 images, ")


def test_preview_draws_a_sheet(tmp_path: Path) -> None:
    config = mixed_config()
    said = draw_preview(config, tmp_path / "sheet.png", images=3)
    first, *phases = said.splitlines()
    assert first == f"3 images, phase 1, phase 2, phase 3 -> {tmp_path / 'sheet.png'}"
    assert [line.partition(" augmented")[0] for line in phases] == [f"phase {number}: of 256" for number in (1, 2, 3)]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert sheet.shape[0] > 3 * 100
    assert sheet.shape[1] > 5 * 100
    datamodule = load_datamodule(config)
    image = datamodule.images[choose_images(datamodule.labels, 1)[0]].permute(1, 2, 0).numpy().astype(int)
    # The original stands on the sheet, enlarged about sixfold: one corner of the right place reproduces it.
    scale = 0.95 * 200 / 32
    errors = []
    for top in range(110, 400):
        for left in range(55, 110):
            rows = (top + (np.arange(32) + 0.5) * scale).astype(int)
            columns = (left + (np.arange(32) + 0.5) * scale).astype(int)
            errors.append(np.abs(sheet[np.ix_(rows, columns)] - image).mean())
    assert min(errors) < 3
    assert np.median(errors) > 20


def test_images_that_are_hardly_there_are_counted() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 10, 10, 3), np.uint8)
    images[1] = 90  # gone
    images[2, :6] = (10, 20, 30)  # more than half
    images[3, :4] = 0  # less
    assert flat_shares(images).round(1).tolist() == [0.0, 1.0, 0.6, 0.0]


def test_a_policy_that_ruins_images_is_told_by_its_share(tmp_path: Path) -> None:
    """Shifted by its whole side, a picture is gone: TrivialAugment does so to 1 in 200, and darkens others to black."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), np.uint8)
    labels, classes = np.arange(2000) % 10, np.array([f"class {number}" for number in range(10)])
    some = {"test_images": noise[:100], "test_labels": labels[:100], "classes": classes}
    np.savez(tmp_path / "noise.npz", train_images=noise, train_labels=labels, **some)
    data = {"source": "npz", "root": str(tmp_path / "noise.npz"), "val_size": 100}
    found = {}
    for policy in (None, "randaugment", "trivialaugment"):
        config = parse_config(tiny_raw(data=data, augment={"crop": 0, "flip": "none", "policy": policy}))
        datamodule = load_datamodule(config)
        with closing(Augmenter(datamodule, 0)) as augmenter:
            found[policy] = count_blanks(datamodule, augmenter, config, resolve_config(config).phases[0], 0)
    assert found[None] == Blanks(1900, 0.0, 0.0, 0.0, 0.0)
    assert found["randaugment"].one_color == 0
    assert 0.004 < found["trivialaugment"].one_color < 0.03
    assert 0.04 < found["trivialaugment"].half < 0.12
    assert str(Blanks(2000, 0.015, 0.092, 0.0, 0.012)) == (
        "of 2,000 augmented images 1.5% and 9.2% are of one color, all over and by more than half (before: 0.0% and 1.2%)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 5}, "epoch 5 is not in this run; expected 1 to 4"),
        ({"epoch": 0}, "epoch 0"),
        ({"images": 0}, "0 images"),
        ({"images": 257}, "expected 1 to 256 images"),
        ({"columns": 0}, "0 columns"),
    ],
)
def test_preview_refuses(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        draw_preview(mixed_config(), tmp_path / "sheet.png", **options)
    assert not list(tmp_path.iterdir())


# ---- the timeline


def test_rates_are_those_a_recorded_run_used() -> None:
    folder = ROOT / "submissions" / "entries" / "resnet_hour"
    config = load_config(folder / "config.yaml")
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    steps = steps_per_epoch(config)
    rates = learning_rates(resolve_phases(config), steps)
    assert (steps, len(rates)) == (45_000 // 128, 20 * 351)
    assert [rates[int(row["steps"]) - 1] for row in rows] == [float(row["lr"]) for row in rows]


def test_rates_of_phases_whose_schedules_overlap_them() -> None:
    phases: list[dict[str, Any]] = [
        {"epochs": 2, "schedule": {"name": "cosine", "warmup_epochs": 1}},
        {"epochs": 2, "label_smoothing": 0.1},
        {"epochs": 1, "optim": {"lr": 0.05}, "schedule": {"name": "constant"}},
        {"epochs": 2, "schedule": {"name": "multistep", "milestones": [1], "gamma": 0.5}},
    ]
    rates = learning_rates(resolve_phases(parse_config(tiny_raw(phases=phases))), 2)
    cosine = [0.1 * 0.5 * (1 + np.cos(np.pi * step / 6)) for step in range(6)]
    assert rates == pytest.approx([0.05, 0.1, *cosine, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025])


def test_known_sizes_are_the_sources_own() -> None:
    config = mixed_config()
    assert steps_per_epoch(config) == len(load_datamodule(config).images) // 60 == 4
    whole = parse_config(tiny_raw(data={"source": "digits", "val_size": 200}))
    assert len(load_datamodule(whole).images) == SOURCES["digits"].train_images - 200
    with pytest.raises(UserError, match="give the steps per epoch"):
        steps_per_epoch(parse_config(tiny_raw(data={"source": "folder"})))
    with pytest.raises(UserError, match="batch_size 300 is above the 256 training images"):
        steps_per_epoch(parse_config(tiny_raw(batch_size=300)))
    with pytest.raises(UserError, match=r"train_limit 1,300 is above the 1,237 training images of digits that data\.val_size"):
        steps_per_epoch(parse_config(tiny_raw(data={"source": "digits", "val_size": 200, "train_limit": 1300})))


def test_table_of_phases() -> None:
    lines = phase_table(resolve_phases(mixed_config()), 4).splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    assert cells[0] == [
        "phase", "epochs", "lr", "mixup_alpha", "ricap_beta", "label_smoothing", "dropout", "optim", "augment",
    ]  # fmt: skip
    assert [line[:2] for line in cells[1:]] == [["1", "1-2"], ["2", "3-3"], ["3", "4-4, 0.5 of the last"]]
    first = "crop 2, pad zero, rotation 20, border zero, policy trivialaugment"
    sgd = "sgd, momentum 0.9, nesterov, weight_decay 0.0005, decay weights"
    assert cells[1][2:] == ["0.1 to 0.05 (cosine)", "0.5", "0.5", "-", "-", sgd, first]
    assert cells[3][3:] == ["-", "-", "0.1", "0.2", sgd, "albumentations: ShiftScaleRotate 0.8, CoarseDropout 0.5"]


def changing_config() -> Config:
    """What trains, how far a step looks and by which optimizer, each changed by a phase."""
    phases: list[dict[str, Any]] = [
        {"epochs": 2, "freeze": ["conv1", "layer1"], "optim": {"lr": 0.01}},
        {"epochs": 3, "freeze": [], "lookahead": {"steps": 6}},
        {"epochs": 4, "lookahead": None, "sam": {"rho": 2.0, "adaptive": True}, "optim": {"nesterov": False, "clip_norm": 1.0}},
        {"epochs": 1, "sam": None, "optim": {"name": "adamw", "lr": 0.001, "weight_decay": 0.05}},
    ]
    return parse_config(tiny_raw(phases=phases))


def test_what_trains_and_by_which_optimizer_is_told() -> None:
    rows = phase_rows(resolve_phases(changing_config()))
    assert list(rows) == ["freeze", "lookahead", "sam", "optim", "augment"]
    assert rows["freeze"] == ["conv1, layer1", "-", "-", "-"]
    assert rows["lookahead"] == ["-", "steps 6, alpha 0.5", "-", "-"]
    assert rows["sam"] == ["-", "-", "rho 2, adaptive", "-"]
    sgd = "sgd, momentum 0.9, nesterov, weight_decay 0.0005, decay weights"
    assert rows["optim"] == [
        sgd,
        sgd,
        "sgd, momentum 0.9, weight_decay 0.0005, decay weights, clip_norm 1",
        "adamw, beta1 0.9, beta2 0.999, eps 1e-08, weight_decay 0.05, decay weights",
    ]
    assert list(phase_rows(resolve_phases(parse_config(tiny_raw())))) == ["optim", "augment"]  # what is off has no row
    lines = phase_table(resolve_phases(changing_config()), 4).splitlines()
    assert re.split(r"  +", lines[1])[:4] == ["1", "1-2", "0.01 to 0.00926 (cosine)", "conv1, layer1"]


def test_muons_groups_stand_in_the_optimizers_line() -> None:
    optim = {"name": "muon", "lr": 0.2, "bias": {"lr": 53.0}, "head": {"lr": 0.8, "weight_decay": 0.002}}
    assert describe_optim(parse_config(tiny_raw(optim=optim)).optim) == (
        "muon, momentum 0.6, nesterov, iterations 3, normalize, bias (lr 53, momentum 0.85), "
        "head (lr 0.8, momentum 0.85, weight_decay 0.002)"
    )


def test_neighboring_phases_that_agree_share_a_bar() -> None:
    bounds = [0, 2, 5, 9, 10]
    assert phase_bars(["0.2", "0.2", "-", "0.1"], bounds) == [
        (0, 5, "0.2", pytest.approx(0.6)), (5, 9, "-", 0.0), (9, 10, "0.1", pytest.approx(0.35)),
    ]  # fmt: skip
    assert phase_bars(["-", "a", "b", "b"], bounds) == [(0, 2, "-", 0.0), (2, 5, "a", 0.3), (5, 10, "b", 0.3)]


def test_the_picture_has_a_bar_for_every_setting(tmp_path: Path) -> None:
    def bars(config: Config) -> int:
        draw_config(config, 4, tmp_path / "picture.png")
        picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
        orange = (np.abs(picture - [0xF4, 0xD5, 0xB6]).sum(2) < 30).sum(1) > 20  # ORANGE at 0.3 over white, line by line
        return int((np.diff(orange.astype(int)) == 1).sum())

    assert bars(parse_config(tiny_raw())) == 2  # optimizer and augmentation
    assert bars(changing_config()) == 5


def test_an_augment_section_in_a_line() -> None:
    def line(**augment: Any) -> str:
        return describe_augment(parse_config(tiny_raw(augment=augment)).augment)

    assert line(crop=0, flip="none") == "none"
    assert line(erasing=0.5, erasing_scale=[0.1, 0.2], scale=[0.9, 1.1]) == (
        "crop 4, pad zero, flip random, erasing 0.5, erasing_scale 0.1-0.2, scale 0.9-1.1, border zero"
    )
    assert line(engine="torchvision", policy="augmix", severity=1) == (
        "torchvision, crop 4, pad zero, flip random, policy augmix, severity 1"
    )


def test_schedule_draws_every_step(tmp_path: Path) -> None:
    table = draw_config(mixed_config(), 4, tmp_path / "picture.png")
    assert table == phase_table(resolve_phases(mixed_config()), 4)
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
    blue = (np.abs(picture - [0x2A, 0x6F, 0xBB]).sum(2) < 30).any(0)  # the line of the learning rate, from left to right
    assert blue.sum() > 0.7 * picture.shape[1]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(dump_yaml(tiny_raw()))
    assert main(["schedule", "tiny.yaml", "--phases.0.epochs", "7"]) == 0
    assert "1-7" in capsys.readouterr().out
    assert main(["preview", "tiny.yaml", "--images", "2", "--epoch", "2", "--augment.cutout", "4"]) == 0
    assert capsys.readouterr().out.startswith("2 images, phase 1 -> tiny-preview.png\nphase 1: of 256 augmented images ")
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "tiny-schedule.png", "tiny-preview.png"}
    for verb in ("schedule", "preview"):
        assert main([verb, "tiny.yaml"]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert main([verb, "tiny.yaml", "--overwrite", "--optim.lt", "3"]) == 2
        assert "optim.lt: unknown key" in capsys.readouterr().err
    assert main(["schedule", "tiny.yaml", "--overwrite", "--steps-per-epoch", "0"]) == 2
