"""Teachers that are asked once a view: the student is taught on the very pixels they saw, resumed to the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw, train_until_save

import cifar_small.training.teacher_cache as module
import cifar_small.training.trainer as trainer_module
import cifar_small.training.view_cache as view_cache
from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config
from cifar_small.errors import ConfigError, Terminated
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.batches import Batch
from cifar_small.training.build import build_trainer
from cifar_small.training.distillation import Teacher
from cifar_small.training.train import train
from cifar_small.training.trainer import Trainer

CROPPED = {"crop": 2, "flip": "alternating", "cutout": 6}
STUDENT = {"family": "resnet", "widths": [4, 8, 8], "blocks": [1, 1, 1], "strides": [2, 2, 2]}
IMAGES = 256  # of which an epoch sees four batches of 64


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("teacher") / "run")
    train(parse_config(tiny_raw(name="teacher", phases=[{"epochs": 1}])), run.folder, quiet=True)
    return run


def student(teacher: Run, views: int | None, epochs: int = 3, **changes: Any) -> Config:
    distill = {"teachers": [str(teacher.folder)], "temperature": 3.0, "kd_weight": 0.7, "cached_views": views}
    settings = {"model": STUDENT, "augment": CROPPED, "phases": [{"epochs": epochs}], **changes}
    return parse_config(tiny_raw(distill=distill, **settings))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]  # type: ignore[no-any-return]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the teacher was asked about, call by call."""
    counts: list[int] = []
    answer = Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, pixels: counts.append(len(pixels)) or answer(self, pixels))
    return counts


MIXED = {"cutmix_alpha": 1.0, "mixup_alpha": 0.5, "mix_prob": 0.8}


@pytest.mark.parametrize("mixing", [{}, MIXED], ids=["plain", "mixed"])
def test_as_many_views_as_epochs_are_the_training_without_a_cache(
    teacher: Run, tmp_path: Path, asked: list[int], mixing: dict[str, Any]
) -> None:
    train(student(teacher, None, **mixing), tmp_path / "plain", quiet=True)
    asked.clear()
    train(student(teacher, 3, **mixing), tmp_path / "cached", quiet=True)
    assert sum(asked) == 3 * IMAGES
    for name, value in weights_of(tmp_path / "plain").items():
        torch.testing.assert_close(weights_of(tmp_path / "cached")[name], value, rtol=1e-3, atol=1e-4)
    assert not (tmp_path / "cached" / "cached_views").exists()


@pytest.mark.parametrize(
    "augment",
    [CROPPED, {"engine": "torchvision", "policy": "trivialaugment_wide", "crop": 4}, {"policy": "trivialaugment", "crop": 4}],
    ids=["crops", "image by image", "distorted"],
)
def test_every_epoch_shows_the_pixels_its_teacher_saw(
    teacher: Run, tmp_path: Path, asked: list[int], augment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 2 shows the views of epoch 0, image by image, in another order, with the teacher's answers to these."""
    seen: list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = [[], [], []]
    backward, step = Trainer.backward, Trainer.step
    rows: list[torch.Tensor] = []

    def stepped(self: Trainer, phase: Any, batch: Batch, stopped: torch.Tensor) -> Any:
        rows.append(batch.chosen)
        return step(self, phase, batch, stopped)

    def backed(self: Trainer, pixels: torch.Tensor, targets: torch.Tensor, *rest: Any, **named: Any) -> Any:
        seen[self.state.epoch].append((rows[-1], pixels.clone(), targets.clone()))
        return backward(self, pixels, targets, *rest, **named)

    monkeypatch.setattr(Trainer, "step", stepped)
    monkeypatch.setattr(Trainer, "backward", backed)
    config = student(teacher, 2, augment=augment)
    train(config, tmp_path / "run", quiet=True)
    assert sum(asked) == 2 * IMAGES
    trainer = build_trainer(resolve_config(config), Run(tmp_path), quiet=True)
    net = trainer.batches.teacher_targets[0].teachers[0]
    first, second, third = ([torch.cat(parts) for parts in zip(*epoch, strict=True)] for epoch in seen)
    for chosen, pixels, targets in (first, second, third):
        assert torch.equal(targets[:, :10], torch.eye(10)[trainer.data.labels[chosen]])
        with torch.no_grad():
            expected = torch.softmax(net(pixels) / 3.0, dim=1)
        torch.testing.assert_close(targets[:, 10:], expected, rtol=1e-4, atol=1e-5)
    for epoch, same in ((first, True), (second, False)):
        place = {int(image): number for number, image in enumerate(epoch[0])}
        both = [(number, place[int(image)]) for number, image in enumerate(third[0]) if int(image) in place]
        assert len(both) > IMAGES / 2
        equal = [torch.equal(third[1][here], epoch[1][there]) for here, there in both]
        assert all(equal) if same else np.mean(equal) < 0.5
    assert not torch.equal(third[0], first[0])


@pytest.mark.parametrize(("epochs", "share"), [(5, 1.0), (4.6, 1.0), (5, 0.5)], ids=["whole", "in part", "the hardest"])
def test_mixed_batches_come_again_in_another_order_with_what_the_teacher_said_of_them(
    teacher: Run, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch, epochs: float, share: float
) -> None:
    """Epochs 2 and 4 show the batches of epoch 0, epoch 3 those of epoch 1; of 300 images 44 are in no batch."""
    seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    backward = Trainer.backward

    def backed(self: Trainer, pixels: torch.Tensor, targets: torch.Tensor, *rest: Any, **named: Any) -> Any:
        seen.setdefault(self.state.epoch, []).append((pixels.clone(), targets.clone()))
        return backward(self, pixels, targets, *rest, **named)

    monkeypatch.setattr(Trainer, "backward", backed)
    data = {"source": "digits", "val_size": 200, "train_limit": 300}
    phase = {"epochs": epochs} | ({"select": {"share": share, "proxy": str(teacher.folder)}} if share < 1 else {})
    config = student(teacher, 2, data=data, **{**MIXED, "phases": [phase]})
    train(config, tmp_path / "run", quiet=True)
    assert sum(asked) == (2 if share == 1 else 2 + epochs) * IMAGES  # the proxy is the teacher too, and sees every batch
    net = build_trainer(resolve_config(config), Run(tmp_path), quiet=True).batches.teacher_targets[0].teachers[0]
    hashes = {epoch: [hash(pixels.numpy().tobytes()) for pixels, _ in steps] for epoch, steps in seen.items()}
    assert len({*hashes[0], *hashes[1]}) == 8
    assert set(hashes[0]) == set(hashes[2])
    assert set(hashes[1]) == set(hashes[3])
    assert len(hashes[4]) == (4 if epochs == 5 else 2)
    assert set(hashes[4]) <= set(hashes[0])
    assert hashes[0] != hashes[2]
    assert hashes[4] not in (hashes[0][: len(hashes[4])], hashes[2][: len(hashes[4])])
    mixed = 0
    for pixels, targets in (step for steps in seen.values() for step in steps):
        with torch.no_grad():
            torch.testing.assert_close(targets[:, 10:], torch.softmax(net(pixels) / 3.0, dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(targets[:, :10].sum(1), torch.ones(len(targets)))
        mixed += bool((targets[:, :10].max(1).values < 1).any())
    assert mixed > 10


CHANGING = {"phases": [{"epochs": 3}, {"epochs": 2, "resolution": 24, "distill": {"cached_views": 2, "temperature": 2.0}}]}


@pytest.fixture(scope="module", params=[{}, MIXED], ids=["plain", "mixed"])
def undisturbed(request: pytest.FixtureRequest, teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, str]:
    config = student(teacher, 2, **CHANGING, **request.param, engine=STEPWISE)
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config, folder, quiet=True)
    return config, fingerprint(folder)


STEPWISE = {"device": "cpu", "precision": "fp32", "threads": 1, "checkpoint_steps": 1}


@pytest.mark.parametrize("saves", [2, 10, 14])
def test_a_killed_run_goes_on_to_the_same_bits_and_asks_nobody_again(
    undisturbed: tuple[Config, str], tmp_path: Path, asked: list[int], saves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the first epoch, within the third, which shows the first view again, and within the next phase."""
    config, expected = undisturbed
    train_until_save(config, tmp_path / "run", saves, monkeypatch)
    kept = sorted((tmp_path / "run" / "cached_views").glob("*-teachers*.npy"))
    assert [np.load(path).shape for path in kept] == [(IMAGES, 10)] * 2
    asked.clear()
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert sum(asked) == (2 * IMAGES if saves < 12 else 0)  # of the second phase alone
    assert fingerprint(tmp_path / "run") == expected


def test_the_key_covers_all_that_the_answers_depend_on(teacher: Run, tmp_path: Path) -> None:
    names = []
    cases: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"resolution": 16},
        {"augment": {"crop": 3}},
        {"sha256": "0"},
        {"precision": "bf16"},
        {"mixup_alpha": 1.0},
        {"mixup_alpha": 1.0, "mix_prob": 0.5},
        {"mixup_alpha": 1.0, "ricap_beta": 0.3},
        {"mixup_alpha": 1.0, "batch_size": 32},
    ]
    for number, changes in enumerate(cases):
        sha256, precision = changes.pop("sha256", None), changes.pop("precision", "fp32")
        run = Run(tmp_path / str(number))
        run.folder.mkdir()
        trainer = build_trainer(resolve_config(student(teacher, 2, **changes)), run, quiet=True)
        targets = trainer.batches.teacher_targets[0]
        if sha256 is not None:
            targets.teachers = [replace(targets.teachers[0], sha256=sha256)]
        module.fill_answers(run, trainer.batches, trainer.resolved.phases[0], precision)
        names.append({path.name for path in view_cache.cache_folder(run).iterdir()})
    assert [len(each) for each in names] == [2] * 10
    assert len(set.union(*names)) == 20


def test_a_config_without_it_keeps_the_hash_that_it_had(teacher: Run) -> None:
    without = config_dict(student(teacher, None))["distill"]
    assert without == {"teachers": [str(teacher.folder)], "predictions": None, "temperature": 3.0, "kd_weight": 0.7}
    assert config_dict(student(teacher, 2))["distill"] == {**without, "cached_views": 2}


def test_a_signal_ends_a_run_while_its_teachers_answer(
    teacher: Run, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view under way is lost, those before it stay; the time of answers is none of the epoch's."""
    config, answer = student(teacher, 2, engine=STEPWISE), Teacher.__call__
    monkeypatch.setattr(view_cache, "SLICE", 64)

    def interrupted(self: Teacher, pixels: torch.Tensor) -> torch.Tensor:
        if sum(asked) == IMAGES + 64:  # in the second of four slices of the second view
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "__call__", interrupted)
        with pytest.raises(Terminated, match=r"stopped by SIGTERM; the run is saved in .*run and can be resumed"):
            train(config, tmp_path / "run", quiet=True)
    assert sum(asked) == IMAGES + 128
    asked.clear()
    summary = train(config, tmp_path / "run", resume=True, quiet=True)
    assert sum(asked) == IMAGES
    assert summary is not None
    train(config, tmp_path / "whole", quiet=True)
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


def test_answers_take_none_of_an_epochs_speed(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a step moves by a second, and the answers by a thousand."""
    now, step = [0.0], Trainer.step

    def moves(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (now.__setitem__(0, now[0] + seconds), call(*given))[1]

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Trainer, "step", moves(1, step))
    monkeypatch.setattr(trainer_module, "fill_answers", moves(1000, module.fill_answers))
    summary = train(student(teacher, 2, epochs=2), tmp_path / "run", quiet=True)
    rows = load_checkpoint(tmp_path / "run" / "last.pt")["rows"]
    assert [row["images_per_second"] for row in rows] == [64, 64]
    assert [row["seconds"] for row in rows] == [1004, 1008]
    assert summary is not None
    assert summary.seconds >= 1008


def test_more_than_the_bound_is_refused(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_cache, "MAX_BYTES", 4 * 10 * 2 * IMAGES - 1)
    with pytest.raises(ConfigError, match=r"distill.cached_views 2 would keep 0\.0 GB of probabilities; at most .*: lower it"):
        train(student(teacher, 2), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"predictions": "a.npz", "cached_views": 2}}, "cached_views 2 has no effect beside predictions"),
        ({"augment": {"engine": "own.py:noise"}}, "goes with no augmentation of your own"),
        ({"augment": {"crop": 0, "flip": "none"}}, "would keep equal views, for nothing is random"),
        ({"phases": [{"epochs": 1}]}, "is more than the phase's 1 epochs, which gains nothing"),
        ({"distill": {"teachers": ["a"], "cached_views": 1}}, "would keep a single random view of each image"),
    ],
)
def test_what_would_mislead_is_refused(changes: dict[str, Any], message: str) -> None:
    base = {"distill": {"teachers": ["a"], "cached_views": 2}, "augment": {"crop": 4}, "phases": [{"epochs": 2}]}
    with pytest.raises(ConfigError, match=message):
        parse_config(tiny_raw(**{**base, **changes}))


def test_a_file_of_the_cache_that_was_cut_short_is_computed_again(tmp_path: Path) -> None:
    path, expected = tmp_path / "view.npy", torch.arange(6.0)
    assert torch.equal(view_cache.load_or_compute(path, torch.float32, lambda: expected), expected)
    whole = path.read_bytes()
    for content in (whole[:-1], b""):
        path.write_bytes(content)
        assert torch.equal(view_cache.load_or_compute(path, torch.float32, lambda: expected), expected)
        assert path.read_bytes() == whole
    kept = view_cache.load_or_compute(path, torch.float32, lambda: pytest.fail("it is there"))
    assert torch.equal(kept, expected)
