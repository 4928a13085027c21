"""Nets that leave torch: the ONNX file against torch, int8 and what calibrates it, predictions by a file, the bench's table."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_small.cli.main import main
from cifar_small.config.hashing import config_hash
from cifar_small.config.loading import parse_config
from cifar_small.data import load_test, write_unlabelled
from cifar_small.data.datamodule import to_tensor
from cifar_small.errors import CheckpointError, UserError
from cifar_small.evaluation.entries import collect_rows, load_entries
from cifar_small.export import latency as inference
from cifar_small.export import quantize as quantize_module
from cifar_small.export.latency import HEADER, Measured, Settings, Timing, bench_runs, read_figures, rows_of, take_turns
from cifar_small.export.model_card import accuracies
from cifar_small.export.onnx_export import checked_onnx, export_onnx, largest_difference
from cifar_small.export.quantize import Quantized, _ends, calibration_images, dynamic_int8, quantize, static_int8, try_dynamic
from cifar_small.files import sha256_file
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.onnx_session import (
    OnnxModel,
    as_onnx_net,
    load_onnx,
    open_session,
    read_onnx,
    require_extra,
    run_session,
    seal_model,
)
from cifar_small.inference.predict import Net, load_net, load_own_splits, predict, predict_images
from cifar_small.metrics.significance import mcnemar, paired_difference
from cifar_small.models import build_model, merge_pooled_norms
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.records import DataFacts, WeightsFacts
from cifar_small.training.train import train
from cifar_small.transforms.preprocess import normalize

CPU = torch.device("cpu")
CONFIG = parse_config(tiny_raw(data={"source": "digits", "val_size": 200}, phases=[{"epochs": 6}]))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
PLAIN = {"family": "resnet", "widths": [8, 16, 32], "blocks": [1, 1, 1], "strides": [2, 2, 2]}
FAMILIES = {
    "resnet": PLAIN
    | {"preact": True, "shortcut": "pad", "activation": "gelu", "se_reduction": 4, "stochastic_depth": 0.2, "dropout": 0.1},
    "wideresnet": {"family": "wideresnet", "depth": 10, "widen_factor": 1, "dropout": 0.1},
    "whitened": {
        "family": "whitened_resnet",
        "stages": [{"width": 8, "branch": [[1, 8]]}, {"width": 16, "kernel": 2, "branch": [[3, 8], [3, 16]]}],
        "head_pool": "max_mean",
        "stem_bias": True,
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its two files: never to be written into."""
    run = Run(tmp_path_factory.mktemp("deploying") / "trained")
    train(CONFIG, run.folder, quiet=True)
    assert main(["onnx", str(run.folder)]) == 0
    return run


@pytest.fixture(scope="module")
def quantized(trained: Run) -> Quantized:
    with pytest.MonkeyPatch.context() as patch:  # exporting takes seconds: the file is there already
        patch.setattr(quantize_module, "checked_onnx", lambda net, _: ((trained.folder / "fp32.onnx").read_bytes(), 0, 0))
        return quantize(trained, trained.folder / "int8.onnx", count=200)


@cache
def exported(family: str) -> tuple[Net, bytes]:
    net = untrained(FAMILIES[family])
    return net, export_onnx(net)


@pytest.fixture
def run(trained: Run, quantized: Quantized, tmp_path: Path) -> Run:
    """A copy of the trained run with both files, for a test to do with as it likes."""
    return Run(shutil.copytree(trained.folder, tmp_path / "run"))


def untrained(model: dict[str, Any]) -> Net:
    """A net whose BatchNorms have statistics, weights and biases of a trained one, in effect."""
    config = parse_config(tiny_raw(model=model))
    torch.manual_seed(3)
    net = build_model(config.model, 10)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.bias, 0, 0.2)
            if module.weight.requires_grad:
                nn.init.uniform_(module.weight, -1, 1.5)
    facts = WeightsFacts(
        parameters=1000,
        epoch=1,
        val_accuracy=0.5,
        selection="best",
        data=DataFacts(source="digits"),
        lineage=[],
        weights_sha256="5" * 64,
        config_sha256=config_hash(config),
    )
    return Net(net, config, tuple("0123456789"), MEAN, STD, facts)


def logits_of(net: Net, pixels: torch.Tensor, views: str = "none") -> np.ndarray[Any, Any]:
    return compute_logits(net.model, pixels, net.preprocess, views, "fp32", 100).numpy()


def properties(content: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_model_from_string(content).metadata_props}


def of_other_weights(file: Path, target: Path) -> Path:
    """The file as another net's would be, as far as its metadata go."""
    content = file.read_bytes()
    model = onnx.load_model_from_string(content)
    target.write_bytes(seal_model(model, properties(content) | {"weights_sha256": "5" * 64}))
    return target


# ------------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_torchs_logits(family: str) -> None:
    net, content = exported(family)
    difference, largest = largest_difference(net, content, "made")
    assert largest > 0.05
    assert 0 < difference < 1e-4 * max(1, largest)  # an exact zero would mean that torch was asked twice


def test_the_file_takes_images_as_they_are_in_any_number(trained: Run) -> None:
    net = load_net(trained)
    session = open_session(read_onnx(trained.folder / "fp32.onnx"), 1)
    images = load_test(CONFIG.data).images[:7]
    expected = logits_of(net, torch.from_numpy(images).permute(0, 3, 1, 2))
    for count in (1, 2, 7):
        assert np.allclose(run_session(session, images[:count]), expected[:count], atol=1e-4)
    assert expected.std() > 0.5
    with pytest.raises(Exception, match="Unexpected input data type"):
        session.run(None, {"images": images.astype(np.float32) / 255})


def test_metadata_say_what_it_is_and_name_no_folder(trained: Run) -> None:
    content = (trained.folder / "fp32.onnx").read_bytes()
    found, net = properties(content), load_net(trained)
    assert json.loads(found["classes"]) == list("0123456789")
    assert int(found["parameters"]) == net.parameters == sum(p.numel() for p in net.model.parameters())
    assert found["weights_sha256"] == sha256_file(trained.best)
    assert found["config_sha256"] == config_hash(CONFIG)
    assert (found["name"], found["seed"], found["precision"], found["lineage"]) == ("tiny", "0", "fp32", "[]")
    assert len(found["sha256"]) == 64
    for trace in (b"/site-packages/", b"cifar_small/", b'File "', b".forward"):
        assert trace not in content
    assert abs(len(content) / (4 * net.parameters) - 1) < 0.25
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)  # as docs/export.md says


def test_an_export_that_differs_is_not_written(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = load_net(trained)
    content = read_onnx(trained.folder / "fp32.onnx")
    with torch.no_grad():
        net.model.fc.bias[3] += 0.5  # type: ignore[index, operator, union-attr]
    with pytest.raises(CheckpointError, match=r"would differ from tiny by 0\.5 in logits of up to"):
        largest_difference(net, content, "x.onnx")


class LooksAtValues(nn.Module):
    """Torch cannot know which way its forward goes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_a_net_that_torch_cannot_trace_is_told_as_such() -> None:
    with pytest.raises(
        UserError, match=r"^an ONNX file of tiny cannot be made: torch\.export cannot trace resnet .*data-dependent"
    ) as caught:
        export_onnx(replace(untrained(PLAIN), model=LooksAtValues()))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_net_that_rounding_carries_far_is_judged_by_its_exact_logits(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    net = load_net(trained)
    with torch.no_grad():  # features of a million that cancel in the classifier
        norm = [module for module in net.model.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1]
        norm.bias += 1e6
        net.model.fc.weight -= net.model.fc.weight.mean(1, keepdim=True)  # type: ignore[union-attr,operator]
    content, difference, largest = checked_onnx(net, "x.onnx")
    assert difference > 1e-3 * max(1, largest)
    assert content
    monkeypatch.setattr("cifar_small.export.onnx_export.ROUNDING", 0)
    with pytest.raises(CheckpointError, match="would differ from tiny"):
        checked_onnx(net, "x.onnx")


def test_fewer_training_images_than_usual_calibrate_all_the_same(run: Run) -> None:
    net = load_net(run)
    train_part = load_own_splits(net)[0]
    assert len(calibration_images(net, train_part)) == 1000
    assert len(calibration_images(net, train_part.take(np.arange(300)))) == 300


@torch.no_grad()
def test_norms_after_pooling_are_merged_without_a_change() -> None:
    net = untrained(FAMILIES["whitened"]).model.eval()
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = net(images)
    merge_pooled_norms(net)
    assert torch.allclose(net(images), before, atol=1e-5)
    assert before.std() > 0.01
    assert [type(getattr(net, stage).bn) for stage in ("layer1", "layer2")] == [nn.Identity, nn.Identity]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3),
    st.lists(st.floats(0.02, 0.5), min_size=3, max_size=3),
    st.integers(0, 2**31),
)
def test_normalized_pixels_reach_the_file_as_they_were(mean: list[float], std: list[float], seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)

    class Session:
        def run(self, outputs: list[str], inputs: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
            assert outputs == ["logits"]
            assert inputs["images"].tobytes() == images.tobytes()
            return [np.zeros((3, 10), np.float32)]

    pixels = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), tuple(mean), tuple(std))
    assert OnnxModel(Session(), tuple(mean), tuple(std))(pixels).shape == (3, 10)


# ------------------------------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"\d bytes\) is truncated, or was not written by cifar-small"),
        (lambda content: content[: len(content) // 2], "is truncated, or was not written by"),
        (lambda content: b"", r"\(0 bytes\) is truncated, or was not written by"),
        (lambda content: b"<html>" + content[6:-200], "is truncated, or was not written by"),
        (
            lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
            "is damaged: its content does not match",
        ),
        (lambda content: content[:-5] + b"00000", "is damaged"),
        (lambda content: content[100:], "is damaged"),
    ],
)
def test_a_damaged_file_is_one_clear_line(
    damage: Callable[[bytes], bytes], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run.folder / "int8.onnx"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        read_onnx(file)
    assert main(["predict", str(run.folder), "--split", "val", "--onnx", str(file)]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cifar-small: error: ")
    assert "int8.onnx" in line


def test_foreign_and_missing_files_are_refused(run: Run, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(read_onnx(run.folder / "fp32.onnx"))
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"foreign\.onnx .* was not written by cifar-small"):
        load_onnx(run, foreign)
    with pytest.raises(CheckpointError, match=r"cannot read .*none\.onnx: No such file"):
        load_onnx(run, tmp_path / "none.onnx")


def test_a_file_of_another_runs_weights_is_refused(run: Run, tmp_path: Path) -> None:
    other = of_other_weights(run.folder / "fp32.onnx", tmp_path / "other.onnx")
    with pytest.raises(
        CheckpointError, match=r"other\.onnx was made from the weights 5{12} of tiny, seed 0; best\.pt of the run is"
    ):
        load_onnx(run, other)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra_the_message_names_it(
    package: str, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"need {package}, which .* pip install 'cifar_small\[export\]'"):
        require_extra()
    for command in (["onnx"], ["quantize"], ["predict", "--split", "val", "--onnx", "x"], ["bench"]):
        tail = ["--overwrite"] if command != ["bench"] else []
        assert main([command[0], str(run.folder), *command[1:], *tail]) == 2
        assert "[export]" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------------- int8


def convolutions(content: bytes) -> list[Any]:
    tensors = onnx.load_model_from_string(content).graph.initializer
    return [tensor for tensor in tensors if len(tensor.dims) == 4 and tensor.dims[0] > 1]  # not the normalization's constants


def test_int8_agrees_with_fp32_and_is_smaller(trained: Run, quantized: Quantized) -> None:
    accuracy, content = quantized.accuracy, (trained.folder / "int8.onnx").read_bytes()
    predictions = load_predictions(trained.predictions / "val.npz")
    assert accuracy.images == 200
    assert accuracy.fp32 == pytest.approx(predictions.accuracy, abs=1 / 200)
    assert accuracy.fp32 > 0.6
    assert accuracy.agreement >= 0.97
    difference, low, high = accuracy.difference
    assert difference == pytest.approx(accuracy.int8 - accuracy.fp32)
    assert low < difference < high
    assert quantized.size == len(content)
    assert quantized.fp32_size == (trained.folder / "fp32.onnx").stat().st_size
    assert len(convolutions(content)) == 10  # stem, two in each of three blocks, three projections
    assert {tensor.data_type for tensor in convolutions(content)} == {onnx.TensorProto.INT8}


def test_int8_logits_keep_their_resolution_and_scales_are_per_channel(trained: Run, quantized: Quantized) -> None:
    net = load_onnx(trained, trained.folder / "int8.onnx")
    _, val = load_own_splits(net)
    logits = logits_of(net, to_tensor(val, CPU))
    assert len(np.unique(logits)) > 1000  # rounded to 8 bits there would be 256
    graph = onnx.load_model_from_string(read_onnx(trained.folder / "int8.onnx")).graph
    weights = {tensor.name for tensor in convolutions(read_onnx(trained.folder / "int8.onnx"))}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    scales = [shapes[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    assert len(scales) == len(weights) == 10
    assert {len(shape) for shape in scales} == {1}
    assert sorted({shape[0] for shape in scales}) == [8, 16, 32]
    assert quantized.facts["norms"] == quantized.facts["norms_merged"] == 10


@pytest.mark.parametrize(("flags", "option", "reduced", "warned"), [
    ({"avx2"}, [], True, False),
    ({"avx2"}, ["--no-reduce-range"], False, True),
    ({"avx2", "avx_vnni"}, [], False, False),
    ({"avx2", "avx_vnni"}, ["--reduce-range"], True, False),
])  # fmt: skip
def test_weights_have_seven_bits_where_sums_of_eight_overflow(
    flags: set[str],
    option: list[str],
    reduced: bool,
    warned: bool,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(quantize_module, "checked_onnx", lambda net, _: ((run.folder / "fp32.onnx").read_bytes(), 0, 0))
    monkeypatch.setattr("cifar_small.environment._cpu_facts", lambda: ("a processor", frozenset(flags)))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    file = run.folder / "bits.onnx"
    assert main(["quantize", str(run.folder), "--images", "10", "--output", str(file), "--overwrite", *option]) == 0
    made = capsys.readouterr()
    assert "10 of 10 BatchNorms merged" in made.out
    assert ("weights of 7 bits" in made.out) is reduced
    assert main(["predict", str(run.folder), "--split", "val", "--onnx", str(file), "--overwrite"]) == 0
    assert (made.err == "") is not warned
    for shown in (made.err, capsys.readouterr().err):
        assert ("sums can overflow on this processor" in shown) is warned


def test_calibration_sees_training_images_alone_as_they_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    class Spy(quantize_module._Batches):
        def get_next(self) -> dict[str, Any] | None:
            batch = super().get_next()
            seen.extend(batch["images"] if batch else [])
            return batch

    monkeypatch.setattr(quantize_module, "_Batches", Spy)
    monkeypatch.setattr(quantize_module, "checked_onnx", lambda net, _: ((run.folder / "fp32.onnx").read_bytes(), 0, 0))
    monkeypatch.setattr("cifar_small.inference.predict.load_test", None)  # whoever reads the test split here, fails
    facts = quantize(run, run.folder / "spied.onnx", count=120).facts
    images, val = load_own_splits(load_net(run))
    known = {image.tobytes(): label for image, label in zip(images.images, images.labels, strict=True)}  # type: ignore[arg-type]
    held_out = {image.tobytes() for image in val.images}
    assert len(seen) == 120 == facts["calibration_images"]
    assert all(image.tobytes() in known and image.tobytes() not in held_out for image in seen)
    counts = np.bincount([known[image.tobytes()] for image in seen], minlength=10)
    assert counts.min() >= 10
    assert counts.max() <= 14
    assert facts["calibration_split"] == "train"


def test_too_many_or_no_calibration_images_are_refused(run: Run) -> None:
    for count, named in ((1238, "1,238"), (0, "0")):
        with pytest.raises(UserError, match=rf"^{named} images for calibration; expected 1 to 1,237, the training images"):
            quantize(run, run.folder / "new.onnx", count=count)
    assert not (run.folder / "new.onnx").exists()


def test_reduced_range_uses_seven_bits(trained: Run, quantized: Quantized) -> None:
    net = load_net(trained)
    images, _ = load_own_splits(net)
    chosen = calibration_images(net, images, 20)
    for reduced, expected in ((True, 64), (False, 127)):
        content, facts = static_int8(net, read_onnx(trained.folder / "fp32.onnx"), chosen, reduce_range=reduced)
        assert facts["reduce_range"] is reduced
        assert max(int(np.abs(onnx.numpy_helper.to_array(one).astype(int)).max()) for one in convolutions(content)) == expected


@pytest.mark.parametrize(("family", "left"), [("whitened", 0), ("wideresnet", 4)])
def test_other_families_quantize_too(family: str, left: int, trained: Run) -> None:
    net, fp32 = exported(family)
    images, val = load_own_splits(load_net(trained))
    content, facts = static_int8(net, fp32, calibration_images(net, images, 100))
    assert facts["norms"] - facts["norms_merged"] == left  # before activation there is no convolution to merge into
    pixels = to_tensor(val, CPU)
    expected, got = logits_of(net, pixels), logits_of(as_onnx_net(net, content, "made"), pixels)
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


class Twice(nn.Module):
    """One convolution behind two BatchNorms of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.stem(x)))
        for norm in self.norms[1:]:
            x = torch.relu(norm(self.conv(x)))
        return torch.as_tensor(self.fc(x.mean((2, 3))))


def test_a_convolution_used_twice_gets_the_batchnorm_of_each_use(trained: Run) -> None:
    """Folding in torch makes another net of it, without a word; see docs/surprises.md."""
    torch.manual_seed(0)
    model = Twice().eval()
    for index, norm in enumerate(model.norms):  # ten times as large in one use as in the other
        nn.init.normal_(norm.running_mean, 0, 0.1)
        nn.init.constant_(norm.weight, (0.3, 1.0, 3.0)[index])
        nn.init.normal_(norm.bias, 0, 0.3)
    net = replace(untrained(PLAIN), model=model)
    images, val = load_own_splits(load_net(trained))
    pixels = to_tensor(val, CPU)
    fp32 = export_onnx(net)
    content, facts = static_int8(net, fp32, calibration_images(net, images, 100))
    assert (facts["norms"], facts["norms_merged"]) == (3, 3)
    expected = logits_of(net, pixels)
    np.testing.assert_allclose(logits_of(as_onnx_net(net, fp32, "made"), pixels), expected, rtol=1e-3, atol=1e-4)
    got = logits_of(as_onnx_net(net, content, "made"), pixels)
    assert np.abs(got - expected).max() < 0.1 * np.ptp(expected)
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


class TwiceWithBias(nn.Module):
    """One convolution with a bias, used twice, of maps of other scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for _ in range(2):
            x = torch.relu(self.conv(x))
        return torch.as_tensor(self.fc(x.mean((2, 3))))


def test_a_bias_used_twice_has_the_scale_of_each_use(trained: Run) -> None:
    """In ONNX Runtime's other format of int8 files the second use gets the bias in the first one's scale."""
    torch.manual_seed(0)
    model = TwiceWithBias().eval()
    nn.init.normal_(model.conv.bias, 0, 0.5)  # type: ignore[arg-type]
    nn.init.normal_(model.conv.weight, 0, 0.3)
    net = replace(untrained(PLAIN), model=model)
    images, val = load_own_splits(load_net(trained))
    pixels = to_tensor(val, CPU)
    content, _ = static_int8(net, export_onnx(net), calibration_images(net, images, 100))
    expected, got = logits_of(net, pixels), logits_of(as_onnx_net(net, content, "made"), pixels)
    assert np.abs(got - expected).max() < 0.1 * np.ptp(expected)
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


def test_layers_left_in_floats_of_a_net_without_convolution_or_classifier() -> None:
    def ends(*kinds: str) -> list[str]:
        return _ends([SimpleNamespace(op_type=kind, name=f"{place} {kind}") for place, kind in enumerate(kinds)])

    assert ends("Sub", "Conv", "Relu", "Gemm", "Mul") == ["0 Sub", "4 Mul"]
    assert ends("Sub", "Flatten", "Gemm", "Mul") == ["3 Mul"]
    assert ends("Sub", "Conv", "ReduceMean") == ["0 Sub"]


class Capped(nn.Module):
    """Two convolutions whose outputs reach far beyond what is let through, as with ReLU6 in EfficientNet-Lite."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList([nn.Conv2d(3, 16, 3, bias=False), nn.Conv2d(16, 16, 3, groups=16, bias=False)])
        self.act, self.fc = nn.Hardtanh(low, high), nn.Linear(16, 10)
        with torch.no_grad():
            for conv in self.convs:
                conv.weight.mul_(40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = self.act(conv(x))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("low", "high", "tolerance"), [(0.0, 6.0, 0.05), (-1.0, 1.0, 0.1), (0.5, 4.0, 0.3)])
def test_what_an_activation_cuts_off_takes_no_part_of_the_range(
    low: float, high: float, tolerance: float, trained: Run
) -> None:
    net = replace(untrained(PLAIN), model=Capped(low, high).eval())
    images, val = load_own_splits(load_net(trained))
    content, _ = static_int8(net, export_onnx(net), calibration_images(net, images, 100))
    left = [node.op_type for node in onnx.load_model_from_string(content).graph.node].count("Clip")
    assert left == (0 if low <= 0 else 2)  # the range does it where it may, as it always holds 0
    pixels = to_tensor(val, CPU)
    expected, got = logits_of(net, pixels), logits_of(as_onnx_net(net, content, "made"), pixels)
    assert np.abs(got - expected).max() < tolerance * expected.std()


def test_dynamic_changes_linear_layers_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    net = load_net(run)
    integer = dynamic_int8(net.model)
    kinds = {name: type(module).__module__ for name, module in integer.named_modules() if name == "fc" or "conv" in name}
    assert kinds.pop("fc").startswith("torch.ao.nn.quantized")
    assert set(kinds.values()) == {"torch.nn.modules.conv"}
    assert isinstance(net.model.fc, nn.Linear)  # the net itself is left alone
    result = try_dynamic(run)
    assert result.facts["layers"] == 1
    assert result.facts["weights_share"] == 320 / net.parameters
    assert result.accuracy.agreement > 0.97
    before = sorted(run.folder.rglob("*"))
    assert main(["quantize", str(run.folder), "--engine", "dynamic"]) == 0
    assert "every convolution stays in fp32" in capsys.readouterr().out
    assert sorted(run.folder.rglob("*")) == before
    assert main(["quantize", str(run.folder), "--engine", "dynamic", "--images", "5"]) == 2


# -------------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_predictions_by_a_file_name_it_and_its_weights(precision: str, run: Run) -> None:
    file = run.folder / f"{precision}.onnx"
    assert main(["predict", str(run.folder), "--split", "val", "--onnx", str(file)]) == 0
    made = load_predictions(run.predictions / f"val_onnx_{precision}.npz")
    plain = load_predictions(run.predictions / "val.npz")
    meta = made.meta
    assert meta.weights_sha256 == plain.meta.weights_sha256 == sha256_file(run.best)
    assert (meta.precision, meta.device, meta.lineage) == (precision, "cpu", [])
    assert meta.onnx.sha256 == sha256_file(file)
    assert meta.onnx.bytes == file.stat().st_size
    assert bool(meta.onnx.quantization) == (precision == "int8")
    assert meta.parameters == plain.meta.parameters
    assert meta.config_sha256 == plain.meta.config_sha256
    apart = np.abs(made.logits - plain.logits).max()
    assert apart < 1e-4 if precision == "fp32" else 1e-3 < apart < 0.2 * np.abs(plain.logits).max()
    rows = collect_rows(load_entries([str(run.folder), str(run.predictions / f"val_onnx_{precision}.npz")]))
    assert [row.name for row in rows] == [run.folder.name, f"{run.folder.name} onnx {precision}"]
    assert rows[0].parameters == rows[1].parameters


@pytest.mark.parametrize(("views", "tolerance"), [("shift", 1e-4), ("flip_shift", 1e-4), ("flips_shift_blur", 0.05)])
def test_views_reach_the_file(views: str, tolerance: float, run: Run) -> None:
    net, images = load_net(run), to_tensor(load_test(CONFIG.data).take(np.arange(40)), CPU)
    expected, got = logits_of(net, images, views), logits_of(load_onnx(run, run.folder / "fp32.onnx"), images, views)
    assert np.abs(expected - got).max() < tolerance  # it blurs, and the file takes whole numbers
    assert np.abs(expected - logits_of(net, images)).max() > 0.1


def test_a_reading_of_test_names_the_file_and_its_submission_passes(run: Run, tmp_path: Path) -> None:
    int8 = run.folder / "int8.onnx"
    predict(run, "test", net=load_onnx(run, int8), command="mine")
    (reading,) = run.test_readings()
    assert reading.onnx_sha256 == sha256_file(int8)
    assert reading.weights_sha256 == sha256_file(run.best)
    assert [one.split for one in accuracies(load_net(run), run)] == ["val"]  # fp32 was not read
    assert accuracies(load_onnx(run, int8), run)[1].value == reading.accuracy
    assert [one.split for one in accuracies(load_onnx(run, run.folder / "fp32.onnx"), run)] == ["val"]
    pickle = tmp_path / "nolabel.pkl"
    write_unlabelled(pickle, load_test(CONFIG.data).images, np.arange(360))
    assert main(["predict", str(run.folder), "--split", "submit", "--file", str(pickle), "--onnx", str(int8)]) == 0
    csv = tmp_path / "out" / "submission.csv"
    assert main(["submit", str(run.predictions / "submit_onnx_int8.npz"), "--output", str(csv)]) == 0
    record = json.loads(csv.with_suffix(".json").read_text())
    assert record["predictions"]["onnx"]["sha256"] == sha256_file(int8)


def test_a_file_of_other_weights_than_the_checkpoints_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(run.kept_file(1), load_checkpoint(run.best) | {"epoch": 1})
    file = run.folder / "int8.onnx"
    for split in ("val", "test"):
        arguments = ["predict", str(run.folder), "--split", split, "--checkpoint", "epoch-0001", "--onnx", str(file)]
        assert main(arguments) == 4
        assert "epoch-0001.pt of the run is" in capsys.readouterr().err
    assert run.test_readings() == []
    with pytest.raises(UserError, match=r"the given net is best\.pt in another form, not epoch-0001\.pt"):
        predict(run, "test", checkpoint="epoch-0001", net=load_onnx(run, file))
    shutil.copy(run.best, run.kept_file(1))  # the very weights it was made from
    assert main(arguments) == 0
    (reading,) = run.test_readings()
    assert (reading.checkpoint, reading.weights_sha256) == ("epoch-0001", sha256_file(run.best))


def test_another_device_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(run.folder / "fp32.onnx")
    assert main(["predict", str(run.folder), "--split", "val", "--onnx", file, "--device", "cuda"]) == 2
    assert "--device cuda has no effect with --onnx" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------------- bench


def test_table_has_a_row_for_each_engine_and_number_of_threads() -> None:
    fast = [
        Timing(threads, batch, [0.001 * batch, 0.002 * batch, 0.004 * batch]) for threads in (1, 2) for batch in (1, 64, 512)
    ]
    slow = [Timing(one.threads, one.batch, [0.004 * one.batch] * 3) for one in fast]
    rows = rows_of(
        "mine",
        [
            Measured("torch fp32", 11_000_000, 0.9, (0.0, -0.001, 0.001), slow),
            Measured("ONNX int8", 2_750_000, 0.895, (-0.005, -0.0075, -0.0025), fast),
        ],
    )
    assert {len(row) for row in rows} == {len(HEADER)}
    assert [row[:3] for row in rows[:2]] == [["torch fp32", "mine", "1"], ["ONNX int8", "mine", "1"]]
    assert [row[::2][:2] for row in rows[2:]] == [["torch fp32", "2"], ["ONNX int8", "2"]]
    first = dict(zip(HEADER, rows[1], strict=True))
    assert first["ms at batch 1"] == "2.00 (1.00 .. 4.00)"
    assert (first["images/s at 64"], first["images/s at 512"]) == ("500", "500")
    assert first["speed at 64, torch fp32 = 1"] == "2.00 (1.00 .. 4.00)"
    assert (first["MB"], first["val %"]) == ("2.75", "89.50")
    assert first["difference in points (95 %)"] == "-0.50 (-0.75 .. -0.25)"
    assert rows[0][HEADER.index("speed at 64, torch fp32 = 1")] == "1"


def test_engines_take_turns_and_the_first_call_of_a_turn_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], list[str]()
    monkeypatch.setattr("cifar_small.export.latency.time.perf_counter", lambda: now[0])

    def engine(name: str, cold: float, warm: float) -> Callable[[Any], object]:
        def call(pixels: Any) -> None:
            now[0] += warm if order and order[-1] == name else cold
            order.append(name)

        return call

    calls = {"a": engine("a", 50.0, 2.0), "b": engine("b", 90.0, 0.5), "c": engine("c", 99.0, 12.0)}
    values = take_turns(calls, np.zeros((1, 32, 32, 3), np.uint8), 2, 4.0)
    assert values == {"a": [2.0, 2.0], "b": [0.5, 0.5], "c": [12.0, 12.0]}
    # three calls, or as many as 4 seconds hold, or one that takes as long as three measurements
    assert order == ["a", "b", "c", *(["a"] * 4 + ["b"] * 9 + ["c"] * 2) * 2]


@pytest.fixture
def quick(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds is done already, or done once."""
    monkeypatch.setattr(inference, "checked_onnx", lambda net, _: ((run.folder / "fp32.onnx").read_bytes(), 0, 0))
    monkeypatch.setattr(inference, "LEAST_CALLS", 1)
    monkeypatch.setattr(inference, "computes_in_bf16", lambda device: True)


@pytest.mark.usefixtures("quick")
def test_bench_measures_every_engine_and_writes_every_round(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    output = run.folder / "speed.json"
    arguments = [
        "--threads",
        "1",
        "--rounds",
        "2",
        "--seconds",
        "0.001",
        "--dynamic",
        "--int8",
        str(run.folder / "int8.onnx"),
    ]
    assert main(["bench", str(run.folder), *arguments, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "torch int8 Linear: dynamic quantization of the linear layers alone" in shown
    assert all(column in shown for column in HEADER)
    written = json.loads(output.read_text())
    assert {"environment", "load_average", "command", "settings", "started"} <= set(written)
    (result,) = written["results"]
    engines = {one["engine"]: one for one in result["engines"]}
    assert list(engines) == ["torch fp32", "torch bf16", "ONNX fp32", "ONNX int8", "torch int8 Linear"]
    assert engines["ONNX int8"]["size"] == (run.folder / "int8.onnx").stat().st_size
    assert engines["torch fp32"]["size"] == run.best.stat().st_size
    assert engines["ONNX fp32"]["difference"][0] == 0.0
    assert [one["batch"] for one in engines["torch bf16"]["timings"]] == [1, 64, 512]
    assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for e in engines.values() for one in e["timings"])
    assert torch.get_num_threads() == before
    table = read_figures(output, {result["weights_sha256"]: run.folder.name})  # for the report
    assert table.header == HEADER
    assert [row[0] for row in table.rows] == list(engines)
    assert all(cell in shown for row in table.rows for cell in row)
    assert all(note in shown for note in table.notes[:-1])
    assert table.notes[-1] == written["command"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"speed\.json does not exist; expected a JSON file written by cifar-small bench"),
        (
            '{"bench": "inference"}',
            r"is damaged or was written by another version of cifar-small bench \(KeyError: 'results'\)",
        ),
        ('{"bench": "inference", "results": [{"run": 1}]}', "is damaged or was written by another version"),
        ('{"bench": "inference", "results": [], "environment": {}}', "is damaged or was written by another version"),
        ('{"bench": "steps"}', "contains no latency figures"),
        ("[1]", "contains no latency figures"),
        ("{", "is damaged"),
    ],
)
def test_other_files_are_no_figures(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "speed.json").write_text(content)
    with pytest.raises(CheckpointError, match=says):
        read_figures(tmp_path / "speed.json", {})
    with pytest.raises(CheckpointError, match="is a folder; expected a JSON file"):
        read_figures(tmp_path, {})
    (tmp_path / "speed.json").write_bytes(b"\xff\xfe{}\x80")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_figures(tmp_path / "speed.json", {})


@pytest.mark.usefixtures("quick")
def test_bench_makes_int8_itself_and_writes_markdown(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    monkeypatch.setattr(inference, "computes_in_bf16", lambda device: False)
    output = tmp_path / "speed.md"
    bench_runs([run], [], Settings((1,), rounds=1, seconds=0.001), data_root=None, output=output, command="mine")
    header, line, *rows = output.read_text().splitlines()
    assert header == "| " + " | ".join(HEADER) + " |"
    assert line.count("---") == len(HEADER)
    assert [row.removeprefix("| ").split(" | ")[0] for row in rows[:3]] == ["torch fp32", "ONNX fp32", "ONNX int8"]
    assert "no torch bf16: this processor does not compute in it" in output.read_text()
    assert output.read_text().endswith("`mine`\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--threads", "0"], 2, "--threads and --rounds must be whole numbers from 1 up"),
        (["--rounds", "0"], 2, "--threads and --rounds"),
        (["--seconds", "nan"], 2, "--seconds a positive number"),
        (["--output", "speed.txt"], 2, "expected a name that ends in .md or .json"),
        (["--int8", "FP32"], 2, "is in fp32; expected an int8 file written by cifar-small quantize"),
        (["--int8", "INT8", "INT8"], 2, "is the second int8 file of tiny, seed 0"),
        (["--int8", "OTHER"], 4, "made from tiny, seed 0 (weights 555555555555), which is none of these runs"),
    ],
)
def test_bench_refuses(
    arguments: list[str], code: int, message: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"FP32": run.folder / "fp32.onnx", "INT8": run.folder / "int8.onnx", "OTHER": tmp_path / "other.onnx"}
    if "OTHER" in arguments:
        of_other_weights(files["INT8"], files["OTHER"])
    assert main(["bench", str(run.folder), *(str(files.get(one, one)) for one in arguments)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_commands_refuse_to_replace_their_files(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.folder.glob("*.onnx")}
    for command in ("onnx", "quantize"):
        assert main([command, str(run.folder)]) == 2
        assert "exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.folder.glob("*.onnx")} == before
    assert main(["quantize", str(run.folder / "none")]) == 4


# ------------------------------------------------------------------------------------------------------- paired difference


def answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_paired_difference_by_hand() -> None:
    difference, low, high = paired_difference(*answers(80, 6, 2, 12))
    assert difference == pytest.approx(-0.04)
    center, half = (3 - 7) / 102, 1.959963984540054 * ((10 / 102 - (4 / 102) ** 2) / 102) ** 0.5
    assert (low, high) == pytest.approx((center - half, center + half))
    swapped = paired_difference(*reversed(answers(80, 6, 2, 12)))
    assert swapped == pytest.approx((-difference, -high, -low))


def test_paired_difference_of_equal_answers_has_width() -> None:
    difference, low, high = paired_difference(*answers(90, 0, 0, 10))
    assert difference == 0
    assert low == -high
    assert 0.01 < high < 0.05


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_paired_difference_stays_within_bounds(both: int, first: int, second: int, neither: int) -> None:
    if both + first + second + neither == 0:
        return
    difference, low, high = paired_difference(*answers(both, first, second, neither))
    assert -1 <= low < high <= 1
    assert -1 <= difference <= 1


def test_paired_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    shares, total, repeats = (0.9, 0.03, 0.02, 0.05), 1000, 2000
    covered = 0
    for both, first, second, neither in rng.multinomial(total, shares, repeats):
        _, low, high = paired_difference(*answers(both, first, second, neither))
        covered += low <= shares[2] - shares[1] <= high
    assert 0.94 < covered / repeats < 0.97


def test_tta_sets_an_int8_file_against_the_weights(run: Run, tmp_path: Path) -> None:
    """Every choice by the file stands against the same set by the weights, on the same images."""
    target = tmp_path / "tta.json"
    arguments = ["tta", str(run.folder), "--onnx", str(run.folder / "int8.onnx"), "--output", str(target)]
    assert main(arguments) == 0
    choices = {choice["views"]: choice for choice in json.loads(target.read_text())["choices"]}
    net, form = load_net(run), load_onnx(run, run.folder / "int8.onnx")
    val = load_own_splits(net)[1]
    for views, name in (("flip", "flip"), ("flip_shift@0.25", "flip_shift")):
        ours, theirs = predict_images(form, val, views).correct, predict_images(net, val, name).correct
        found = choices[f"{views} onnx int8"]
        assert found["against"] == name
        assert found["accuracy"] == ours.mean()
        assert (found["gained"], found["lost"], found["p"]) == mcnemar(ours, theirs)
    assert choices["learned"]["against"] == "none"
