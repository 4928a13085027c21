"""Distillation: the loss by its formula, teachers that see the pupil's pixels and never change, and records that name them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from benchmarks.cli import main as bench
from benchmarks.kill_resume import CONFIG as EVERYTHING
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

import cifar_small.training.batches as batches
import cifar_small.training.distillation as distill_module
from cifar_small.cli.main import main
from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config, Distill
from cifar_small.config.shortening import smoke_config
from cifar_small.data import datamodule
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.errors import CheckpointError, ConfigError, DataError
from cifar_small.export.onnx_export import write_onnx
from cifar_small.export.quantize import calibration_images, static_int8
from cifar_small.files import sha256_file
from cifar_small.inference.ensemble import combine
from cifar_small.inference.onnx_session import OnnxModel, read_onnx, seal_model
from cifar_small.inference.predict import load_net, load_own_splits, predict
from cifar_small.models import build_model
from cifar_small.models.counting import count_parameters
from cifar_small.reporting.timeline import phase_rows
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import plain_all
from cifar_small.submission.submission_file import check_rules
from cifar_small.training.batches import Batch
from cifar_small.training.build import build_trainer
from cifar_small.training.distillation import Teacher, TeacherTargets, distilled_loss, load_teacher_targets
from cifar_small.training.hard_images import load_hard_images
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer
from cifar_small.transforms.preprocess import normalize

ROOT = Path(__file__).resolve().parents[2]
# The pupil of these tests is narrower than its teachers.
PUPIL = {"family": "resnet", "widths": [4, 8, 8], "blocks": [1, 1, 1], "strides": [2, 2, 2]}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two teachers with dropout, trained on other images too than a pupil has."""
    folder = tmp_path_factory.mktemp("teachers")
    raw = tiny_raw(data={"source": "digits", "val_size": 200, "train_limit": 600}, phases=[{"epochs": 1}])
    raw["model"]["dropout"] = 0.5
    for seed in (0, 1):
        train(parse_config({**raw, "name": f"teacher{seed}", "seed": seed}), folder / f"t{seed}", quiet=True)
    return Run(folder / "t0"), Run(folder / "t1")


def pupil(*runs: Run, **changes: Any) -> Config:
    distill = {"teachers": [str(run.folder) for run in runs], "temperature": 3.0, "kd_weight": 0.7}
    return parse_config(tiny_raw(model=PUPIL, **{"distill": distill, **changes}))


def train_an_epoch(config: Config, folder: Path) -> Trainer:
    """The steps of the first epoch alone, without evaluation, checkpoints and pictures."""
    trainer = build_trainer(resolve_config(config), Run(folder), quiet=True)
    trainer.train_epoch(trainer.resolved.phases[0], SimpleNamespace(update=lambda count: None))
    return trainer


def teacher_targets_of(config: Config) -> tuple[dict[int, TeacherTargets], DataModule]:
    datamodule = load_datamodule(config)
    return load_teacher_targets(resolve_config(config), datamodule, 16)[0], datamodule


# ----------------------------------------------------------------------------------------------------------------------- loss


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 10_000),
    st.floats(0.5, 20),
    st.floats(0.01, 1),
    st.sampled_from([0.0, 0.1]),
)
def test_loss_and_its_gradient_by_formula(seed: int, temperature: float, weight: float, smoothing: float) -> None:
    """(1 - w) CE + w T^2 KL with mixed labels; the gradient of a logit is (1 - w)(p - y) + w T (p_T - q)."""
    rng = np.random.default_rng(seed)
    z, y, q = rng.normal(0, 3, (5, 4)), rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), 5)
    q[0] = [1, 0, 0, 0]  # a teacher may be sure
    logits = torch.tensor(z, requires_grad=True)
    targets = torch.tensor(np.concatenate([y, q], axis=1))
    loss = distilled_loss(logits, targets, Distill(teachers=("a",), temperature=temperature, kd_weight=weight), smoothing)
    loss.backward()
    smooth = (1 - smoothing) * y + smoothing / 4
    hard = -(smooth * log_softmax(z, axis=1)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(q > 0, q * (np.log(q) - log_softmax(z / temperature, axis=1)), 0).sum()
    assert loss.item() == pytest.approx((1 - weight) * hard + weight * temperature**2 * divergence, rel=1e-9)
    expected = (1 - weight) * (softmax(z, axis=1) - smooth) + weight * temperature * (softmax(z / temperature, axis=1) - q)
    assert logits.grad is not None
    assert np.allclose(logits.grad.numpy(), expected, atol=1e-9)


def test_a_pupil_that_agrees_with_its_teacher_has_nothing_to_learn_from_it() -> None:
    logits = torch.randn(6, 3, requires_grad=True)
    said = torch.softmax(logits.detach() / 2, dim=1)
    targets = torch.cat((torch.full((6, 3), 1 / 3), said), dim=1)
    loss = distilled_loss(logits, targets, Distill(teachers=("a",), temperature=2.0, kd_weight=1.0), 0.0)
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


# ------------------------------------------------------------------------------------------------------------------- teachers


def test_several_teachers_speak_by_the_mean_of_their_probabilities(teachers: tuple[Run, Run]) -> None:
    teacher_targets, datamodule = teacher_targets_of(pupil(*teachers))
    pixels = normalize(datamodule.images[:40], datamodule.mean, datamodule.std)
    targets = torch.eye(10)[datamodule.labels[:40]]
    taught = teacher_targets[0].of_pixels(targets, pixels, torch.arange(40), 0, "fp32")
    assert torch.equal(taught[:, :10], targets)
    said = []
    for run in teachers:
        net = load_net(run)
        with torch.no_grad():
            said.append(torch.softmax(net.model.eval()(normalize(datamodule.images[:40], net.mean, net.std)) / 3.0, dim=1))
    torch.testing.assert_close(taught[:, 10:], (said[0] + said[1]) / 2, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(said[0], said[1], atol=1e-2)
    assert torch.equal(teacher_targets[0].of_images(targets, torch.arange(40)), targets)  # nets wait for the pixels


def test_a_teacher_is_given_pixels_in_its_own_normalization(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    odd = Run(tmp_path / "odd")
    shutil.copytree(teachers[0].folder, odd.folder)
    save_checkpoint(odd.best, {**load_checkpoint(odd.best), "mean": [0.1, 0.5, 0.3], "std": [0.2, 0.9, 0.5]})
    teacher_targets, datamodule = teacher_targets_of(pupil(odd))
    net = load_net(odd)
    raw = datamodule.images[:20]
    with torch.no_grad():
        expected = net.model.eval()(normalize(raw, net.mean, net.std))
    got = teacher_targets[0].teachers[0](normalize(raw, datamodule.mean, datamodule.std))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    # With equal statistics the pixels are the pupil's own, to the bit.
    same = teacher_targets_of(pupil(Run(train_on_the_same(tmp_path))))[0][0].teachers[0]
    assert torch.equal(same.scale, torch.ones(1, 3, 1, 1))
    assert torch.equal(same.offset, torch.zeros(1, 3, 1, 1))


def train_on_the_same(folder: Path) -> Path:
    train(parse_config(tiny_raw(phases=[{"epochs": 1}])), folder / "same", quiet=True)
    return folder / "same"


def test_only_the_pupil_learns(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    """Teachers neither train, nor move their statistics, nor drop anything out, nor are they counted or saved."""
    trainer = train_an_epoch(pupil(*teachers), tmp_path)
    models = [teacher.model for teacher in trainer.batches.teacher_targets[0].teachers]
    for model, run in zip(models, teachers, strict=True):
        state = load_checkpoint(run.best)["weights"]
        assert not model.training
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    own = {id(parameter) for parameter in trainer.state.model.parameters()}
    assert {id(one) for group in trainer.state.optimizer.param_groups for one in group["params"]} == own
    assert all(parameter.grad is not None for parameter in trainer.state.model.parameters())
    pixels = torch.randn(4, 3, 32, 32)
    assert torch.equal(models[0](pixels), models[0](pixels))  # dropout is off


def test_teachers_see_the_pupils_pixels_at_full_resolution(
    teachers: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Augmented and mixed as the pupil gets them, before they are made smaller for it; slice by slice of 16."""
    asked: list[list[torch.Tensor]] = [[], []]
    given: list[torch.Tensor] = []
    answer, resize = Teacher.__call__, batches.resize

    def recorded(self: Teacher, pixels: torch.Tensor) -> torch.Tensor:
        asked[len(asked[0]) > len(asked[1])].append(pixels.clone())
        return answer(self, pixels)

    monkeypatch.setattr(Teacher, "__call__", recorded)
    monkeypatch.setattr(batches, "resize", lambda pixels, *how: given.append(pixels.clone()) or resize(pixels, *how))
    config = pupil(
        *teachers,
        cutmix_alpha=1.0,
        augment={"crop": 2, "flip": "none", "cutout": 6},
        resolution=24,
        engine={"device": "cpu", "precision": "fp32", "threads": 1, "micro_batch_size": 16},
    )
    train_an_epoch(config, tmp_path)
    assert len(given) == 4  # 256 images in batches of 64
    for of_one in asked:
        assert torch.equal(torch.cat(of_one), torch.cat(given))
        assert {tuple(part.shape) for part in of_one} == {(16, 3, 32, 32)}


def seen_targets(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Of each step: what was mixed how, which images, and the targets that were trained on."""
    seen: list[tuple[Any, ...]] = []
    step, backward = Trainer.step, Trainer.backward

    def stepped(self: Trainer, phase: Any, batch: Batch, stopped: torch.Tensor) -> Any:
        seen.append((batch.mix, batch.chosen, self.data))
        return step(self, phase, batch, stopped)

    def backed(self: Trainer, pixels: Any, targets: torch.Tensor, *rest: Any, **named: Any) -> Any:
        seen[-1] = (*seen[-1], targets.clone())
        return backward(self, pixels, targets, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stepped)
        patch.setattr(Trainer, "backward", backed)
        train_an_epoch(config, folder)
    return seen


def test_labels_are_mixed_whoever_teaches(teachers: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pupil(teachers[0], mixup_alpha=1.0)
    for mix, chosen, module, targets in seen_targets(config, tmp_path, monkeypatch):
        labels = torch.eye(10)[module.labels[chosen]]
        torch.testing.assert_close(targets[:, :10], mix.weight * labels + (1 - mix.weight) * labels[mix.partner])
        torch.testing.assert_close(targets.sum(1), torch.full((64,), 2.0))


# ----------------------------------------------------------------------------------------------------------------------- onnx


@pytest.fixture(scope="module")
def in_onnx(teachers: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first teacher with its ONNX file."""
    run = Run(shutil.copytree(teachers[0].folder, tmp_path_factory.mktemp("onnx") / "t0"))
    pytest.importorskip("onnxscript")
    write_onnx(load_net(run), run.folder / "fp32.onnx")
    return run


def test_an_onnx_file_answers_in_place_of_the_weights(in_onnx: Run, tmp_path: Path) -> None:
    file = in_onnx.folder / "fp32.onnx"
    ours = {"input": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}}  # whose pixels are not the teacher's
    by_run, by_file = (
        teacher_targets_of(pupil(in_onnx, distill={"teachers": [str(path)]}, **ours))[0][0].teachers[0]
        for path in (in_onnx.folder, file)
    )
    levels = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pixels = normalize(levels, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    torch.testing.assert_close(by_file(pixels), by_run(pixels), atol=1e-3, rtol=1e-3)
    assert (by_run.sha256, by_file.sha256) == (load_net(in_onnx).facts.weights_sha256, sha256_file(file))
    summary = train(pupil(phases=[{"epochs": 1}], distill={"teachers": [str(file)]}), tmp_path / "run", quiet=True)
    (facts,) = summary.teachers
    assert (facts.name, facts.run, facts.file, facts.sha256) == ("teacher0", "t0", "fp32.onnx", by_file.sha256)
    assert facts.weights_sha256 == [by_run.sha256]


def test_a_run_does_not_go_on_with_another_file_of_the_same_weights(
    in_onnx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    file = Path(shutil.copytree(in_onnx.folder, tmp_path / "t0")) / "fp32.onnx"
    config = pupil(distill={"teachers": [str(file)]})
    train_until_save(config, tmp_path / "run", 1, monkeypatch)
    model = onnx.load_from_string(read_onnx(file))
    properties = {entry.key: entry.value for entry in model.metadata_props if entry.key != "sha256"}
    file.write_bytes(seal_model(model, {**properties, "note": "written again"}))
    with pytest.raises(CheckpointError, match="was started with other teachers"):
        train(config, tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize(("flags", "refused"), [({"avx2"}, True), ({"avx2", "avx_vnni"}, False)])
def test_a_file_whose_sums_may_overflow_on_this_processor_does_not_teach(
    flags: set[str], refused: bool, in_onnx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(shutil.copytree(in_onnx.folder, tmp_path / "t0"))
    net = load_net(run)
    images = calibration_images(net, load_own_splits(net)[0], 100)
    content = static_int8(net, (run.folder / "fp32.onnx").read_bytes(), images, reduce_range=False)[0]
    (run.folder / "int8.onnx").write_bytes(content)
    monkeypatch.setattr("cifar_small.environment._cpu_facts", lambda: ("a processor", frozenset(flags)))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    config = pupil(distill={"teachers": [str(run.folder / "int8.onnx")]})
    if refused:
        with pytest.raises(
            ConfigError, match=r"int8\.onnx has weights of 8 bits, .*give the run, .*or a file of weights of 7 bits.* VNNI"
        ):
            teacher_targets_of(config)
    else:
        assert isinstance(teacher_targets_of(config)[0][0].teachers[0].model, OnnxModel)


def test_a_net_does_not_teach_twice_nor_see_images_of_more_pixels_than_its_file_takes(in_onnx: Run) -> None:
    file = in_onnx.folder / "fp32.onnx"
    both = pupil(distill={"teachers": [str(in_onnx.folder), str(file)]})
    with pytest.raises(ConfigError, match="two have the same weights; leave one out"):
        teacher_targets_of(both)
    after: dict[str, Any] = {"input": {"size": 48, "augment": "after"}}
    message = r"phases\.0\.{}: .*fp32\.onnx takes images of 32x32, and this phase augments them at 48x48; give the run"
    with pytest.raises(ConfigError, match=message.format("distill")):
        teacher_targets_of(pupil(distill={"teachers": [str(file)]}, **after))
    proxy = {"select": {"share": 0.5, "proxy": str(file)}}
    config = parse_config(tiny_raw(phases=[{"epochs": 1, **proxy}], **after))
    with pytest.raises(ConfigError, match=message.format("select")):
        load_hard_images(resolve_config(config), load_datamodule(config), 16)
    before = parse_config(tiny_raw(phases=[{"epochs": 1, **proxy}], input={"size": 48}))
    found, _ = load_hard_images(resolve_config(before), load_datamodule(before), 16)
    assert isinstance(found[0].proxy.model, OnnxModel)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("damaged", CheckpointError, "is damaged: its content does not match its SHA-256"),
        ("missing", CheckpointError, "cannot read .*none.onnx"),
        ("another's", CheckpointError, "was made from the weights .* of teacher0, seed 0; best.pt of the run is"),
        ("GPU", ConfigError, r"distill: .*fp32.onnx computes on the CPU and this run on meta; give the run, .*copy"),
    ],
)
def test_onnx_files_that_cannot_teach_are_refused(
    what: str, error: type[Exception], message: str, in_onnx: Run, teachers: tuple[Run, Run], tmp_path: Path
) -> None:
    whole = in_onnx.folder / "fp32.onnx"
    run = Path(shutil.copytree((teachers[1] if what == "another's" else in_onnx).folder, tmp_path / "copy"))
    content = bytearray(whole.read_bytes())
    content[1000] ^= what == "damaged"
    (run / "fp32.onnx").write_bytes(content)
    given = run / ("none.onnx" if what == "missing" else "fp32.onnx")
    config = pupil(distill={"teachers": [str(given)]})
    data = load_datamodule(config)
    if what == "GPU":
        data = replace(data, device=torch.device("meta"))
    with pytest.raises(error, match=message):
        load_teacher_targets(resolve_config(config), data, 16)


# ----------------------------------------------------------------------------------------------------------------------- file


@pytest.fixture(scope="module")
def spoken(teachers: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the mean of both teachers says of the training images, in another order than theirs."""
    files = [predict(run, "train", views="none")[0] for run in teachers]
    assert [file.name for file in files] == ["train.npz", "train.npz"]
    both = combine([load_predictions(file) for file in files], "probabilities")
    order = np.random.default_rng(0).permutation(len(both.ids))
    assert both.labels is not None
    path = tmp_path_factory.mktemp("spoken") / "both.npz"
    Predictions(both.ids[order], both.logits[order], both.labels[order], both.classes, both.meta).save(path)
    return path


def by_file(path: Path, **changes: Any) -> Config:
    return pupil(distill={"predictions": str(path), "temperature": 3.0, "kd_weight": 0.7}, **changes)


def test_a_file_is_joined_by_id_and_mixed_as_labels_are(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = load_predictions(spoken)
    row = {int(number): softmax(logits / 3.0) for number, logits in zip(said.ids, said.logits, strict=True)}
    for kind in ("cutmix_alpha", "ricap_beta"):
        config = by_file(spoken, **{kind: 1.0}, mix_prob=0.5)
        steps = seen_targets(config, tmp_path, monkeypatch)
        assert {mix.kind for mix, *_ in steps} == {"none", kind.partition("_")[0]}
        for mix, chosen, module, targets in steps:
            own = torch.tensor(np.array([row[int(module.ids[index])] for index in chosen]))
            if mix.kind == "ricap":
                shares = [
                    (bottom - top) * (right - left) / 1024 for top, bottom, left, right in (one.box for one in mix.patches)
                ]
                expected = sum(share * own[one.partner] for share, one in zip(shares, mix.patches, strict=True))
            else:
                expected = mix.weight * own + (1 - mix.weight) * own[mix.partner]
            torch.testing.assert_close(targets[:, 10:], expected.float(), atol=1e-5, rtol=1e-4)


def test_predictions_of_train_are_of_the_images_trained_on(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    _, predictions, _ = predict(teachers[0], "train", output=tmp_path / "train.npz")
    datamodule = load_datamodule(teachers[0].config())
    assert predictions.meta.split == "train"
    assert predictions.ids.tolist() == datamodule.ids.tolist()
    assert predictions.labels is not None
    assert predictions.labels.tolist() == datamodule.labels.tolist()
    assert not teachers[0].test_readings_file.exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("rows", ConfigError, r"lacks [0-9]+ of the 256 training images, first ids \[.*the whole training split"),
        ("labels", ConfigError, "has other labels than the training images"),
        ("classes", ConfigError, "the same names in the same order are needed"),
        ("nothing", DataError, "distill.predictions: .* does not exist; expected predictions of the training images"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    spoken: Path, tmp_path: Path, change: str, error: type[Exception], message: str
) -> None:
    said = load_predictions(spoken)
    ids, logits, labels, classes = said.ids, said.logits, said.labels, said.classes
    assert labels is not None
    if change == "rows":
        ids, logits, labels = ids[::2], logits[::2], labels[::2]
    elif change == "labels":
        labels = np.roll(labels, 1)
    elif change == "classes":
        classes = (*classes[1:], classes[0])
    if change != "nothing":
        Predictions(ids, logits, labels, classes, said.meta).save(tmp_path / "file.npz")
    with pytest.raises(error, match=message):
        train(by_file(tmp_path / "file.npz"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("val", r"phases\.0\.distill: .*file\.npz held out other images than this config"),
        ("lineage", r"phases\.0\.distill: .*file\.npz was initialized from other weights \(imagenet\)"),
    ],
)
@pytest.mark.parametrize("members", [1, 2])
def test_a_file_answers_to_the_rules_of_teachers(
    members: int, what: str, message: str, spoken: Path, teachers: tuple[Run, Run], tmp_path: Path
) -> None:
    """Alone, and as one of an ensemble whose other member is without fault."""
    one, other = (load_predictions(run.predictions / "train.npz") for run in teachers)
    assert one.meta.data is not None
    changes: dict[str, Any] = (
        {"data": one.meta.data.updated(val_sha256="0" * 64)} if what == "val" else {"lineage": ["imagenet"]}
    )
    one = one.with_meta(**changes)
    said = one if members == 1 else combine([other, one], "probabilities")
    said.save(tmp_path / "file.npz")
    with pytest.raises(ConfigError, match=message):
        train(by_file(tmp_path / "file.npz"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------------------- whole runs


def test_a_pupil_learns_and_its_record_names_its_teachers(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    config = pupil(*teachers, phases=[{"epochs": 1}, {"epochs": 1, "distill": None}])
    summary = train(config, tmp_path / "run", quiet=True)
    run = Run(tmp_path / "run")
    expected = [(f"teacher{seed}", seed, f"t{seed}", False, []) for seed in (0, 1)]
    keys = ("name", "seed", "run", "pretrained", "lineage")
    assert [tuple(one.picked(*keys).values()) for one in summary.teachers] == expected
    hashes = [load_net(teacher).facts.weights_sha256 for teacher in teachers]
    assert [one.weights_sha256 for one in summary.teachers] == [[one] for one in hashes]
    counts = [one.parameters for one in summary.teachers]
    assert counts == [load_net(teacher).parameters for teacher in teachers]
    assert summary.parameters == count_parameters(build_model(config.model, 10)) < min(counts)
    best = load_checkpoint(run.best)
    assert best["teachers"] == plain_all(summary.teachers)
    assert best["lineage"] == []
    assert {name: value.shape for name, value in best["weights"].items()} == {
        name: value.shape for name, value in build_model(config.model, 10).state_dict().items()
    }
    meta = load_predictions(run.predictions / "val.npz").meta
    assert meta.teachers == summary.teachers
    assert meta.parameters == summary.parameters
    record = tmp_path / "record"
    assert main(["record", str(run.folder), "--output", str(record)]) == 0
    assert json.loads((record / "record.json").read_text())["run"]["summary"]["teachers"] == plain_all(summary.teachers)


def test_the_budget_is_the_pupils_alone(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    config = pupil(teachers[0], phases=[{"epochs": 1}])
    count = count_parameters(build_model(config.model, 10))
    exact = {"max_params": count, "rows": None}
    with pytest.raises(ConfigError, match=f"1 over the budget of {count - 1:,}"):
        train(pupil(teachers[0], rules={**exact, "max_params": count - 1}), tmp_path / "over", quiet=True)
    allowed = pupil(teachers[0], rules=exact)
    assert build_trainer(resolve_config(allowed), Run(tmp_path), quiet=True).checkpoints.parameters == count


def everything(teacher: Run) -> dict[str, Any]:
    """All that has state, with a teacher in the first phase and another temperature in the second."""
    phases = [{**EVERYTHING["phases"][0], "epochs": 1}, {**EVERYTHING["phases"][1], "epochs": 1, "distill": {"temperature": 2}}]
    return {
        **EVERYTHING,
        "engine": {**EVERYTHING["engine"], "keep_every": 1, "keep_last": None},
        "schedule": {"name": "cosine"},
        "phases": phases,
        "distill": {"teachers": [str(teacher.folder)], "kd_weight": 0.5},
    }


@pytest.fixture(scope="module")
def undisturbed(teachers: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(parse_config(everything(teachers[0])), folder, quiet=True)
    return folder


@pytest.mark.parametrize("saves", [2, 4])  # within the first phase, within the second
def test_a_killed_run_goes_on_to_the_same_bits(
    teachers: tuple[Run, Run], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    config = parse_config(everything(teachers[0]))
    train_until_save(config, tmp_path / "run", saves, monkeypatch)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert fingerprint(tmp_path / "run") == fingerprint(undisturbed)


def test_with_another_teacher_the_run_is_another(teachers: tuple[Run, Run], undisturbed: Path, tmp_path: Path) -> None:
    """The control of the test above: what it compares depends on the teacher."""
    train(parse_config(everything(teachers[1])), tmp_path / "run", quiet=True)
    assert fingerprint(tmp_path / "run") != fingerprint(undisturbed)


def test_a_run_does_not_go_on_with_other_teachers(
    teachers: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Run(tmp_path / "teacher")
    shutil.copytree(teachers[0].folder, teacher.folder)
    config = pupil(teacher)
    train_until_save(config, tmp_path / "run", 1, monkeypatch)
    shutil.copy(teachers[1].best, teacher.best)
    with pytest.raises(CheckpointError, match=r"was started with other teachers: teacher0 \(seed 0\) .* then, teacher1"):
        train(config, tmp_path / "run", resume=True, quiet=True)
    shutil.copy(teachers[0].best, teacher.best)
    assert train(config, tmp_path / "run", resume=True, quiet=True).epochs == 2


def altered(teacher: Run, folder: Path, **changes: Any) -> Run:
    shutil.copytree(teacher.folder, folder)
    save_checkpoint(folder / "best.pt", {**load_checkpoint(teacher.best), **changes})
    return Run(folder)


def test_a_teacher_that_began_with_weights_that_saw_our_val_images_is_refused(
    teachers: tuple[Run, Run], tmp_path: Path
) -> None:
    data = load_checkpoint(teachers[0].best)["data"]
    former = {"name": "former", "data": {**data, "val_sha256": "0" * 64}, "weights_sha256": "0" * 64}
    teacher = altered(teachers[0], tmp_path / "teacher", ancestors=[former])
    with pytest.raises(CheckpointError, match=r"former.* held out other images|former.* other val images"):
        train(pupil(teacher), tmp_path / "run", quiet=True)


def test_teachers_that_cannot_or_must_not_teach_are_refused(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    names = load_checkpoint(teachers[0].best)["classes"]
    for number, (changes, message) in enumerate([
        ({"classes": names[::-1]}, r"phases.0.distill: .* have the same classes in another order, first 9 and 0"),
        (
            {"data": {**load_checkpoint(teachers[0].best)["data"], "val_sha256": "0"}},
            "held out other images than this config, so it may have been trained on some of this run's val images",
        ),
        ({"lineage": ["imagenet"]}, r"initialized from other weights \(imagenet\).*rules say pretrained_teacher: forbidden"),
    ]):  # fmt: skip
        teacher = altered(teachers[0], tmp_path / f"teacher{number}", **changes)
        with pytest.raises(ConfigError, match=message):
            train(pupil(teacher), tmp_path / "run", quiet=True)
    with pytest.raises(CheckpointError, match="expected a run directory"):
        train(pupil(Run(tmp_path / "nowhere")), tmp_path / "run", quiet=True)
    (tmp_path / "teacher2" / "summary.json").unlink()
    with pytest.raises(CheckpointError, match="has not finished"):
        train(pupil(Run(tmp_path / "teacher2")), tmp_path / "run", quiet=True)
    shutil.copytree(teachers[0].folder, tmp_path / "again")
    with pytest.raises(ConfigError, match="two have the same weights"):
        train(pupil(teachers[0], Run(tmp_path / "again")), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_pretrained_teacher_stays_in_its_pupils_lineage(teachers: tuple[Run, Run], tmp_path: Path) -> None:
    teacher = altered(teachers[0], tmp_path / "teacher", lineage=["imagenet"])
    rules = {"max_params": 100_000, "rows": None, "pretrained": True}
    summary = train(pupil(teacher, rules=rules, phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    assert summary.teachers[0].pretrained
    predictions = load_predictions(tmp_path / "run" / "predictions" / "val.npz")
    assert predictions.meta.lineage == ["imagenet (through teacher teacher0 (seed 0))"]
    check_rules(predictions)
    predictions.meta.rules.update(pretrained=False, pretrained_teacher="allowed")
    check_rules(predictions)
    predictions.meta.rules["pretrained_teacher"] = "forbidden"
    with pytest.raises(ConfigError, match="imagenet"):
        check_rules(predictions)


# --------------------------------------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"temperature": 2.0}}, "distill: give either teachers, .* or predictions, .*; got neither"),
        ({"distill": {"teachers": ["a"], "predictions": "b.npz"}}, "got both"),
        ({"distill": {"teachers": ["a"], "kd_weight": 0}}, r"distill.kd_weight: .* greater than 0"),
        ({"distill": {"teachers": ["a"], "temprature": 2}}, "did you mean 'temperature'"),
        ({"distill": {"teachers": ["a"], "kd_weight": 1.0}, "label_smoothing": 0.1}, "label_smoothing 0.1 has no effect while"),
        ({"phases": [{"epochs": 1, "distill": {"temperature": 2.0}}]}, "phases.0.distill: give either teachers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str, tiny: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


def test_phases_inherit_change_and_drop_teachers(tiny: Callable[..., Config]) -> None:
    config = tiny(
        distill={"teachers": ["runs/a"]},
        phases=[{"epochs": 1}, {"epochs": 1, "distill": {"temperature": 2.0}}, {"epochs": 1, "distill": None}],
    )
    first, second, third = (phase.settings.distill for phase in resolve_phases(config))
    assert first == Distill(teachers=("runs/a",), temperature=4.0, kd_weight=0.9)
    assert second == Distill(teachers=("runs/a",), temperature=2.0, kd_weight=0.9)
    assert third is None
    assert parse_config(config_dict(config)) == config
    assert phase_rows(resolve_phases(config))["kd_weight"] == ["0.9", "0.9", "-"]
    assert "distill" not in config_dict(tiny())
    assert "kd_weight" not in phase_rows(resolve_phases(tiny()))


def test_the_example_is_legal_and_says_so() -> None:
    path = ROOT / "configs" / "distill_compact.yaml"
    config, text = load_config(path), path.read_text()
    assert f"# parameters  {count_parameters(build_model(config.model, 10)):,} of 5,000,000" in text
    assert "cifar-small train --config configs/distill_compact.yaml" in text
    assert load_config(path, [("distill", "null")]).distill is None


def test_the_bench_of_steps_says_that_it_has_no_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_raw(distill={"teachers": ["runs/a"]})))
    assert bench(["steps", str(path)]) == 2
    assert "has teachers, which the bare net does not ask" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"distill": {"predictions": "runs/t.npz"}},
            DataError,
            "distill.predictions: runs/t.npz does not exist; expected predictions of the training images: of each teacher, a "
            "run that held out the same val, `cifar-small predict RUN --split train --views flip --output EACH.npz`, then "
            "`cifar-small ensemble EACH.npz ... --method probabilities --output runs/t.npz` (of one teacher alone, its file); "
            "to try or train the net without teachers, distill: null",
        ),
        (
            {"phases": [{"epochs": 1, "distill": {"predictions": "runs/t.npz"}}, {"epochs": 1}]},
            DataError,
            "phases.0.distill.predictions: runs/t.npz does not exist; ",
        ),
        (
            {"distill": {"teachers": ["runs/t"]}},
            CheckpointError,
            "distill.teachers: runs/t does not exist; expected a run directory written by cifar-small train: train it first, "
            "or go without (distill: null)",
        ),
        (
            {"phases": [{"epochs": 1}, {"epochs": 1, "select": {"share": 0.5, "proxy": "runs/t"}}]},
            CheckpointError,
            "phases.1.select.proxy: runs/t does not exist; ",
        ),
    ],
)
def test_teachers_that_are_not_there_are_told_before_data_is_read(
    changes: dict[str, Any],
    error: type[Exception],
    said: str,
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datamodule, "load_train", lambda *_: pytest.fail("data was read"))
    with pytest.raises(error) as caught:
        train(tiny(**changes), tmp_path / "run", quiet=True)
    assert str(caught.value).startswith(said)
    with pytest.raises(error, match="does not exist; expected"):
        train(smoke_config(tiny(**changes)), tmp_path / "smoke", quiet=True)


def test_nothing_is_loaded_where_nobody_teaches(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill_module, "load_net", lambda run: pytest.fail("a net was loaded"))
    config = tiny()
    assert load_teacher_targets(resolve_config(config), load_datamodule(config), 16) == ({}, [])
