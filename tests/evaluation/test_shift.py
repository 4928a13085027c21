"""Runs on shifted images: cached, resumable, never taken for val or test; the matrix, its tests and its error."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_raw

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Data
from cifar_small.data import Images, load_test, load_train
from cifar_small.data.evaluation_sets import load_corrupted, load_pair
from cifar_small.data.sources import CIFAR10_CLASSES
from cifar_small.errors import DataError, UserError
from cifar_small.evaluation import shift as shifts
from cifar_small.evaluation.shift import (
    ShiftMatrix,
    load_base,
    load_matrix,
    made_sets,
    mean_error,
    pair_set,
    predict_shifts,
    recipe_tests,
)
from cifar_small.inference.predict import Net, load_net
from cifar_small.metrics.significance import seed_difference
from cifar_small.reporting.shift_files import shift_tables
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.records import ShiftFacts
from cifar_small.training.train import train
from cifar_small.transforms.shifts import MCE_KINDS, shifted

KINDS, SEVERITIES = ["fog", "jpeg_420"], [1, 5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("shift") / "tiny-seed0")
    train(parse_config(tiny_raw()), run.folder, quiet=True)
    return run


@pytest.fixture
def net(trained: Run) -> Net:
    return load_net(trained)


def measure(trained: Run, net: Net, folder: Path, **more: bool) -> ShiftMatrix:
    base = load_base([net], "val", None)
    return predict_shifts([(trained, net)], made_sets(base, "val", KINDS, SEVERITIES, 0, folder / "sets"), folder, **more)


def test_a_set_is_made_once_and_predictions_are_of_it(
    trained: Run, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = measure(trained, net, tmp_path)
    assert [one.name for one in matrix.sets] == ["clean-0", "fog-1", "fog-5", "jpeg_420-1", "jpeg_420-5"]
    base = load_base([net], "val", None)
    cached = {path.name.rpartition("-")[0]: np.load(path) for path in (tmp_path / "sets").glob("*.npy")}
    assert cached.keys() == {"fog-1", "fog-5", "jpeg_420-1", "jpeg_420-5"}
    assert np.array_equal(cached["fog-5"], shifted("fog", 5, base.images, 0))
    predictions = load_predictions(tmp_path / "tiny-seed0" / "fog-5.npz")
    assert predictions.meta.split == "shift"
    assert predictions.meta.shift is not None
    assert (predictions.meta.shift.base, predictions.meta.shift.base_sha256) == ("val", base.sha256)
    assert np.array_equal(predictions.labels, base.labels)
    clean = load_predictions(trained.predictions / "val.npz")
    assert matrix.accuracy("tiny-seed0", matrix.sets[0]) == pytest.approx(clean.accuracy)
    assert matrix.accuracy("tiny-seed0", matrix.sets[2]) < clean.accuracy - 0.05
    assert [name for name, _ in load_matrix(tmp_path)] == ["tiny-seed0"] * 5
    (tmp_path / "tiny-seed0" / "fog-5.npz").unlink()
    monkeypatch.setattr(shifts, "shifted", lambda *_: pytest.fail("made again"))
    asked: list[str] = []
    predict = shifts.predict_images
    monkeypatch.setattr(
        shifts,
        "predict_images",
        lambda net, images, *more, **named: asked.append(images.source) or predict(net, images, *more, **named),
    )
    again = measure(trained, net, tmp_path)
    assert asked == [f"{base.source} fog-5"]
    assert all(np.array_equal(again.correct[key], right) for key, right in matrix.correct.items())


def test_runs_of_other_data_or_other_val_images_are_not_shown_the_same_shifts(net: Net) -> None:
    for key, message in (("val_sha256", "hold out different val images"), ("sha256", "was trained on other data than")):
        data = net.facts.data
        assert data is not None
        other = replace(net, facts=net.facts.updated(data=data.updated(**{key: "0" * 64})))
        with pytest.raises(UserError, match=message):
            load_base([net, other], "val", None)


def test_a_damaged_cache_is_made_again_and_another_seed_is_another_set(trained: Run, net: Net, tmp_path: Path) -> None:
    base = load_base([net], "val", 50)
    one = made_sets(base, "val", ["fog"], [2], 0, tmp_path)[1]
    first = one.load()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()

    def shorten() -> None:
        path.write_bytes(whole[:-1])

    damages = (
        lambda: np.save(path, first.images[:3]),
        lambda: np.save(path, first.images.astype(np.float32)),
        shorten,
        lambda: path.write_bytes(b""),
    )
    for damage in damages:
        damage()
        assert np.array_equal(one.load().images, first.images)
        assert path.read_bytes() == whole
    other = made_sets(base, "val", ["fog"], [2], 1, tmp_path)[1].load()
    assert not np.array_equal(other.images, first.images)
    assert len(list(tmp_path.iterdir())) == 2


def test_predictions_of_something_else_are_not_taken(trained: Run, net: Net, tmp_path: Path) -> None:
    measure(trained, net, tmp_path)
    base = load_base([net], "val", None)
    sets = made_sets(base, "val", KINDS, SEVERITIES, 1, tmp_path / "sets")
    with pytest.raises(UserError, match=r"clean-0.npz was predicted with other images; choose another folder"):
        predict_shifts([(trained, net)], sets, tmp_path)
    with pytest.raises(UserError, match="predicted with other views"):
        predict_shifts(
            [(trained, net)], sets[:0] + made_sets(base, "val", KINDS, SEVERITIES, 0, tmp_path), tmp_path, views="shift"
        )
    again = predict_shifts([(trained, net)], sets, tmp_path, overwrite=True)
    assert again.sets[1].seed == 1


def test_test_images_are_read_on_demand_and_recorded(
    trained: Run, tmp_path: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "tiny-seed0")
    words = ["shift", folder, "--kinds", "contrast", "--severities", 2, "--output", tmp_path / "out"]
    assert said(*words)[0] == 0
    assert Run(folder).test_readings() == []
    words[-1] = tmp_path / "test"
    for _ in range(2):  # the second finds everything there
        assert said(*words, "--split", "test")[0] == 0
    (reading,) = Run(folder).test_readings()
    assert reading.predictions == "clean-0.npz"
    assert reading.accuracy == load_predictions(tmp_path / "test" / "tiny-seed0" / "clean-0.npz").accuracy
    rows = list(csv.DictReader((tmp_path / "test" / "matrix.csv").read_text().splitlines()))
    assert [(row["kind"], row["severity"], row["base"], row["images"]) for row in rows] == [
        ("clean", "0", "test", "360"),
        ("contrast", "2", "test", "360"),
    ]
    assert (tmp_path / "test" / "matrix.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--kinds", "fogg"], "there is no kind of shift 'fogg'; did you mean fog?"),
        (["--severities", "9"], "there is no severity 9; expected 1 to 5"),
        (["--images", "1000"], "1,000 images of 200; expected 10 to 200; use --images"),
        (["--official", "CIFAR-10-C"], "CIFAR-10-C is made from CIFAR-10's test images; add --split test"),
        (["--pair", "fog=x.npz"], "fog is a kind of shift already; give the set another name"),
        (["--pair", "v6"], "'v6' names no labelled set; expected NAME=FILE.npz or NAME=IMAGES.npy,LABELS.npy"),
        (["--precision", "int8"], "int8.onnx"),
    ],
)
def test_a_wrong_option_ends_in_one_line(
    words: list[str], line: str, trained: Run, tmp_path: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = said("shift", trained.folder, "--output", tmp_path / "out", *words)
    assert code in (2, 3, 4)
    assert line in err
    assert err.count("\n") == 1


def test_views_that_there_are_not_are_refused_before_anything_is_read(
    trained: Run, tmp_path: Path, said: Callable[..., tuple[int, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        said("shift", trained.folder, "--output", tmp_path / "out", "--views", "flp")
    assert caught.value.code == 2
    assert "--views: expected one of none, flip, shift," in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_settings_under_one_name_are_another_recipe(trained: Run, tmp_path: Path) -> None:
    net, other = load_net(trained), load_net(trained)
    changed = other.config.model_copy(update={"label_smoothing": 0.3})
    other = replace(other, config=changed)
    another_seed = replace(net, config=net.config.model_copy(update={"seed": 1}))
    runs = [
        (Run(shutil.copytree(trained.folder, tmp_path / name)), one)
        for name, one in (("a", net), ("b", other), ("c", another_seed))
    ]
    base = load_base([net], "val", 50)
    matrix = predict_shifts(runs, made_sets(base, "val", ["fog"], [1], 0, tmp_path / "sets"), tmp_path / "out")
    assert matrix.recipes == {"a": ("tiny", 0), "b": ("tiny of b", 0), "c": ("tiny", 1)}


def test_predictions_of_another_precision_are_not_the_configs(trained: Run, net: Net, tmp_path: Path) -> None:
    sets = made_sets(load_base([net], "val", 50), "val", ["fog"], [1], 0, tmp_path / "sets")
    predict_shifts([(trained, net)], sets, tmp_path, precision="bf16")
    predict_shifts([(trained, net)], sets, tmp_path, precision="bf16")
    engine = net.config.engine.model_copy(update={"precision": "fp32"})
    fp32 = replace(net, config=net.config.model_copy(update={"engine": engine}))
    with pytest.raises(UserError, match="predicted with other precision"):
        predict_shifts([(trained, fp32)], sets, tmp_path)


def test_the_note_says_how_many_images_each_set_has() -> None:
    matrix = matrix_of({"a-0": [0.5, 0.6, 0.7]}, [("clean", 0), ("fog", 1), ("v6", 0)])
    few = {**matrix.correct, ("a-0", "v6-0"): np.ones(20, bool)}
    (table,) = shift_tables(replace(matrix, correct=few))
    assert table.notes[0].startswith("accuracy in %, mean over severities, on 400 images, 20 of v6;")


def matrix_of(right: dict[str, list[float]], sets: list[tuple[str, int]], images: int = 400) -> ShiftMatrix:
    """Runs `a-0`, `a-1`, `b-0`, ... with these accuracies on these sets."""
    facts = [ShiftFacts(kind=kind, severity=severity, family="x", base="val", base_sha256="x") for kind, severity in sets]
    correct = {
        (run, one.name): np.random.default_rng(place).permutation(np.arange(images) < round(share * images))
        for run, shares in right.items()
        for place, (one, share) in enumerate(zip(facts, shares, strict=True))
    }
    recipes = {run: (run.partition("-")[0], int(run.partition("-")[2])) for run in right}
    return ShiftMatrix(tuple(right), recipes, tuple(facts), correct)


def test_recipes_are_tested_over_their_seeds_where_they_have_some() -> None:
    sets = [("fog", 1), ("fog", 2), ("snow", 1)]
    right = {"a-0": [0.5, 0.6, 0.7], "a-1": [0.52, 0.6, 0.7], "b-0": [0.6, 0.7, 0.6], "b-1": [0.64, 0.7, 0.62]}
    fog, snow = recipe_tests(matrix_of(right, sets))
    expected = seed_difference([0.55, 0.56], [0.65, 0.67], paired=True)
    assert expected is not None
    assert (fog.difference, fog.low, fog.high, fog.p) == pytest.approx(expected)
    assert (fog.kind, fog.first, fog.second, fog.by) == ("fog", "a", "b", "the same seeds")
    assert snow.difference == pytest.approx(-0.09)
    assert fog.p_holm == pytest.approx(min(1, 2 * min(fog.p, snow.p)) if fog.p <= snow.p else max(2 * snow.p, fog.p))


def test_an_extended_run_is_no_seed_of_the_plain_recipe(trained: Run, tmp_path: Path) -> None:
    """As in `compare` and `results`; two of one config would be tested as two seeds of one recipe."""
    bent = Run(shutil.copytree(trained.folder, tmp_path / "bent-seed1"))
    env = json.loads(bent.env_file.read_text())
    env["sessions"].insert(0, {**env["sessions"][0], "epochs_planned": 1})
    bent.env_file.write_text(json.dumps(env))
    runs = [(run, load_net(run)) for run in (trained, bent)]
    assert shifts._recipes(["tiny-seed0", "bent-seed1"], runs) == {
        "tiny-seed0": ("tiny", 0),
        "bent-seed1": ("tiny of bent-seed1", 0),
    }


def test_single_runs_are_tested_over_images_that_count_once() -> None:
    """The severities of an image are no independent images: the same answers at two severities are no stronger evidence."""
    once = recipe_tests(matrix_of({"a-0": [0.5], "b-0": [0.55]}, [("fog", 1)]))[0]
    matrix = matrix_of({"a-0": [0.5, 0.5], "b-0": [0.55, 0.55]}, [("fog", 1), ("fog", 2)])
    twice = dict(matrix.correct)
    for run in ("a-0", "b-0"):
        twice[run, "fog-2"] = twice[run, "fog-1"]
    found = recipe_tests(ShiftMatrix(matrix.runs, matrix.recipes, matrix.sets, twice))[0]
    assert (found.difference, found.low, found.p) == pytest.approx((once.difference, once.low, once.p))
    assert (once.by, once.difference) == ("images", pytest.approx(0.05))


def test_mean_corruption_error_is_the_mean_over_kinds_of_means_over_severities() -> None:
    sets = [(kind, severity) for kind in MCE_KINDS for severity in (1, 2)]
    sets.append(("warm", 1))
    matrix = matrix_of({"a-0": [0.5, 0.7] * 14 + [0.1, 0.1, 0.0]}, sets, 100)
    assert mean_error(matrix, "a-0") == pytest.approx((14 * 0.4 + 0.9) / 15)
    assert mean_error(matrix_of({"a-0": [0.5]}, [("fog", 1)]), "a-0") is None


def photographs(count: int) -> np.ndarray:
    return (
        np.cumsum(np.cumsum(np.random.default_rng(0).integers(-3, 4, (count, 32, 32, 3)), 1), 2)
        .clip(-100, 100)
        .astype(np.int16)
        + 128
    )


def test_official_files_hold_five_severities_one_after_the_other(tmp_path: Path) -> None:
    images = photographs(50).astype(np.uint8)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10), 5).astype(np.uint8))
    part = load_corrupted(tmp_path, "fog", 3, CIFAR10_CLASSES)
    assert np.array_equal(part.images, images[20:30])
    assert part.labels is not None
    assert part.labels.tolist() == list(range(10))
    (one, two) = shifts.official_sets(tmp_path, CIFAR10_CLASSES, [1, 5])
    assert (one.facts.name, one.facts.family) == ("fog-1", "weather")
    assert np.array_equal(two.load().images, images[40:])
    np.save(tmp_path / "snow.npy", images)
    assert [one.facts.name for one in shifts.official_sets(tmp_path, CIFAR10_CLASSES, [2], ["snow"])] == ["snow-2"]
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10) // 5, 5))  # of two classes, so that a part can be stratified
    for severity in (-1, 0, 6):
        with pytest.raises(UserError, match=f"there is no severity {severity}; CIFAR-10-C has 1 to 5"):
            shifts.official_sets(tmp_path, CIFAR10_CLASSES, [1, severity])
    (part,) = shifts.official_sets(tmp_path, ("cat", "dog"), [3], ["fog"], 4)
    assert np.bincount(part.load().labels).tolist() == [2, 2]
    assert part.facts.base_sha256 == part.load().sha256
    np.save(tmp_path / "fog.npy", images[:49])
    with pytest.raises(DataError, match=r"fog.npy: is \(49, 32, 32, 3\) with 50 labels; expected \(50000, 32, 32, 3\)"):
        load_corrupted(tmp_path, "fog", 1, CIFAR10_CLASSES)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"no labels.npy; expected CIFAR-10-C"):
        shifts.official_sets(tmp_path, CIFAR10_CLASSES, None)


def test_cifar_10_1_and_10_2_are_read_as_they_are_published(tmp_path: Path) -> None:
    images, labels = photographs(20).astype(np.uint8), np.arange(20) % 10
    np.save(tmp_path / "data.npy", images)
    np.save(tmp_path / "labels.npy", labels.astype(np.int32))
    np.savez(tmp_path / "cifar102_test.npz", images=images, labels=labels)
    pair = pair_set(f"v6={tmp_path / 'data.npy'},{tmp_path / 'labels.npy'}", CIFAR10_CLASSES)
    assert (pair.facts.name, pair.facts.base, len(pair.load())) == ("v6-0", "files", 20)
    other = load_pair(tmp_path / "cifar102_test.npz", None, CIFAR10_CLASSES)
    assert isinstance(other, Images)
    assert pair.facts.base_sha256 == other.sha256
    np.savez(tmp_path / "half.npz", images=images)
    with pytest.raises(DataError, match=r"half.npz: has images; expected images and labels"):
        load_pair(tmp_path / "half.npz", None, CIFAR10_CLASSES)
    np.save(tmp_path / "labels.npy", labels / 2)
    with pytest.raises(DataError, match=r"labels are float64 \(20,\); expected whole numbers"):
        load_pair(tmp_path / "data.npy", tmp_path / "labels.npy", CIFAR10_CLASSES)


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("test", "are of the test split, and the runs' records have to say so; "),
        ("train", "was trained or selected on, pixel by pixel"),
    ],
)
def test_a_pair_of_images_whose_use_has_to_be_known_is_refused(
    trained: Run, tmp_path: Path, said: Callable[..., tuple[int, str, str]], part: str, line: str
) -> None:
    images = {"test": load_test, "train": load_train}[part](Data(source="digits"))
    np.savez(tmp_path / "mine.npz", images=images.images[:200], labels=images.labels[:200])
    words = ["shift", trained.folder, "--kinds", "fog", "--severities", "1", "--output", tmp_path / "out"]
    code, _, err = said(*words, "--pair", f"mine={tmp_path / 'mine.npz'}")
    assert code in (2, 3)
    assert line in err
    assert err.count("\n") == 1
    assert trained.test_readings() == []
    if part == "test":
        assert "--split test" in err


def test_training_on_an_evaluation_set_is_refused(tmp_path: Path) -> None:
    from cifar_small.config.schema import Data
    from cifar_small.data.sources import load_train

    np.savez(tmp_path / "cifar102_test.npz", images=photographs(20).astype(np.uint8), labels=np.arange(20) % 10)
    with pytest.raises(DataError, match="images and labels without a split: a set for evaluation, which is not trained on"):
        load_train(Data(source="npz", root=str(tmp_path / "cifar102_test.npz")))
