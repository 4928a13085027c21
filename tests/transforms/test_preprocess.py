"""What a net is given: enlarged alike in prediction, exported files, teachers, and the statistics of averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw
from torch import nn
from torch.nn import functional as F

from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.data.datamodule import load_datamodule, to_tensor
from cifar_small.export.onnx_export import export_onnx, largest_difference
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.predict import load_net, load_own_splits
from cifar_small.models import build_model, refresh_statistics, set_frozen
from cifar_small.runs.directory import Run
from cifar_small.training.distillation import load_teacher_targets
from cifar_small.training.train import train
from cifar_small.transforms.preprocess import FromPixels, Preprocess

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [32, 33, 48, 64])
def test_two_products_enlarge_as_torch_does(side: int, interpolation: str) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    scaled = (images.float() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    expected = scaled
    if side != 32:
        expected = F.interpolate(scaled, size=(side, side), mode=interpolation, antialias=True, align_corners=False)
    preprocess = Preprocess(MEAN, STD, side, interpolation)
    torch.testing.assert_close(preprocess(images), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(FromPixels(nn.Identity(), preprocess)(images), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def enlarged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose net is evaluated at 44 px."""
    folder = tmp_path_factory.mktemp("enlarged") / "run"
    config = parse_config(tiny_raw(input={"size": 44, "interpolation": "bicubic"}, phases=[{"epochs": 1}]))
    train(config, folder, quiet=True)
    return Run(folder)


def test_predictions_are_of_enlarged_images(enlarged: Run) -> None:
    net = load_net(enlarged)
    assert (net.preprocess.side, net.preprocess.interpolation) == (44, "bicubic")
    images = to_tensor(load_own_splits(net)[1], torch.device("cpu"))[:20]
    got = compute_logits(net.model, images, net.preprocess, "none", "fp32", 20)
    larger = F.interpolate(net.preprocess.normalize(images), size=(44, 44), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = net.model.eval()(larger.contiguous(memory_format=torch.channels_last))
        plain = net.model(net.preprocess.normalize(images).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got, plain, atol=1e-2)


def test_the_onnx_file_enlarges_by_itself(enlarged: Run) -> None:
    net = load_net(enlarged)
    difference, largest = largest_difference(net, export_onnx(net), "fp32.onnx")  # raises where they differ
    assert difference < 1e-4 * max(1.0, largest)


def test_int8_and_its_speed_are_of_enlarged_images(enlarged: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(enlarged.folder), "--output", str(tmp_path / "int8.onnx"), "--images", "100"]) == 0
    files = ["--int8", str(tmp_path / "int8.onnx"), "--output", str(tmp_path / "speed.md")]
    assert main(["bench", str(enlarged.folder), "--threads", "1", "--rounds", "1", "--seconds", "0.01", *files]) == 0
    assert "ONNX int8" in (tmp_path / "speed.md").read_text()


def test_a_teacher_enlarges_what_its_pupil_sees(enlarged: Run) -> None:
    config = parse_config(tiny_raw(distill={"teachers": [str(enlarged.folder)]}))
    datamodule = load_datamodule(config)
    teacher_targets, _ = load_teacher_targets(resolve_config(config), datamodule, 64)
    net = load_net(enlarged)
    pixels = Preprocess(datamodule.mean, datamodule.std).normalize(datamodule.images[:16])
    with torch.no_grad():
        expected = net.model.eval()(net.preprocess(datamodule.images[:16]))
        got = teacher_targets[0].teachers[0](pixels)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_statistics_of_averaged_weights_are_of_enlarged_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spied(model: nn.Module, batches: Any) -> None:
        def watched() -> Any:
            for batch in batches:
                seen.append(tuple(batch.shape[2:]))
                yield batch

        refresh_statistics(model, watched())

    monkeypatch.setattr("cifar_small.training.averaging.refresh_statistics", spied)
    config = parse_config(tiny_raw(input={"size": 40}, phases=[{"epochs": 2, "swa": {}, "resolution": 24}]))
    train(config, tmp_path / "run", quiet=True)
    assert set(seen) == {(40, 40)}


def test_a_frozen_batchnorm_keeps_its_statistics_when_others_are_refreshed() -> None:
    config = parse_config(tiny_raw())
    model = build_model(config.model, 10)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 + 1
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    first, *_, last = norms
    set_frozen(model, (f"{first}.",))
    before = {name: norm.running_mean.clone() for name, norm in norms.items() if norm.running_mean is not None}
    refresh_statistics(model, [images])
    assert torch.equal(norms[first].running_mean, before[first])  # type: ignore[arg-type]
    assert not torch.equal(norms[last].running_mean, before[last])  # type: ignore[arg-type]
