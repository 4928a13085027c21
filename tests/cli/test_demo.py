"""The demonstration: eight steps that end in a valid, good submission, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_small.cli import demo
from cifar_small.config.schema import Rules
from cifar_small.data import load_test, load_unlabelled
from cifar_small.errors import UserError
from cifar_small.runs.predictions import load_predictions
from cifar_small.submission.submission_file import find_faults

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a demonstration with fewer epochs, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out é"
    short: dict[str, Any] = {
        "demo_resnet": [{"epochs": 4}],
        "demo_resnet_mixup": [{"epochs": 3, "mixup_alpha": 0.2}, {"epochs": 1, "mixup_alpha": 0.0}],
    }
    nets = {name: {**net, "phases": short[name]} for name, net in demo.NETS.items()}
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(demo, "NETS", nets)
        demo.run_demo(folder, "cifar-small demo")
    return folder, output.getvalue()


def test_eight_steps_in_order(shown: tuple[Path, str]) -> None:
    _, text = shown
    assert [int(number) for number in re.findall(r"^(\d)\. \S", text, re.MULTILINE)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "Done in" in text


def test_a_net_over_the_budget_is_refused(shown: tuple[Path, str]) -> None:
    folder, text = shown
    refusal = next(line for line in text.splitlines() if "refuses" in line)
    assert "over the budget of 200,000" in refusal
    assert not list(folder.rglob("never"))
    assert {path.name for path in (folder / "runs").iterdir()} == set(demo.NETS)


def test_submission_is_valid_and_far_better_than_chance(shown: tuple[Path, str]) -> None:
    folder, text = shown
    content = (folder / "submission" / "submission.csv").read_bytes()
    images, _ = load_unlabelled(folder / "digits_nolabel.pkl", rows=360)
    joined = load_predictions(folder / "ensemble.npz")
    assert find_faults(content, images.ids, joined.classes, Rules()) == []
    assert "valid, 360 rows" in text
    # scored here without the toolkit: each image of the file is found among the labelled ones by its pixels
    labelled = load_test(demo.COMMON_DATA)
    assert labelled.labels is not None
    label_of = {image.tobytes(): label for image, label in zip(labelled.images, labelled.labels.tolist(), strict=True)}
    answers = dict(line.split(",") for line in content.decode().splitlines()[1:])
    right = sum(
        int(answers[str(image)]) == label_of[pixels.tobytes()] for image, pixels in zip(images.ids, images.images, strict=True)
    )
    assert f"{right} of 360 right: {right / 360:.2%}" in text
    assert right > 0.8 * 360
    assert not np.array_equal(images.images, labelled.images)  # the file is shuffled


def test_everything_it_names_is_there(shown: tuple[Path, str]) -> None:
    folder, text = shown
    for name in ("configs", "runs/demo_resnet", "submission/submission.csv", "submission/submission.json", "ensemble.npz"):
        assert (folder / name).exists()
        assert name in text
    for config in re.findall(r"configs/(?!demo_)[\w./-]+\.yaml", text):
        assert (ROOT / config).exists(), f"{config} is not there"
    parameters = [load_predictions(folder / "runs" / name / "predictions" / "submit.npz").meta.parameters for name in demo.NETS]
    assert f"parameters {parameters[0]:,} + {parameters[1]:,} = {sum(parameters):,}" in text
    assert sum(parameters) <= demo.BUDGET


class Stopped(Exception):  # noqa: N818
    """In place of the long part."""


@pytest.fixture
def stops_after_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(demo, "load_test", stop)


@pytest.mark.usefixtures("stops_after_preparing")
def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds other files; name an empty folder with --output"):
        demo.run_demo(tmp_path, "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("stops_after_preparing")
def test_its_own_earlier_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()  # an empty one is taken
    with pytest.raises(Stopped):
        demo.run_demo(folder, "")
    (folder / "runs").mkdir()
    (folder / "runs" / "old").write_text("from last time")
    with pytest.raises(Stopped):
        demo.run_demo(folder, "")
    assert not (folder / "runs").exists()
    assert sorted(path.name for path in (folder / "configs").iterdir()) == [
        "demo_resnet.yaml",
        "demo_resnet_mixup.yaml",
        "demo_too_wide.yaml",
    ]


@pytest.mark.usefixtures("stops_after_preparing")
def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "demo"
    file.write_text("precious")
    with pytest.raises(UserError, match="demo"):
        demo.run_demo(file, "")
    assert file.read_text() == "precious"
