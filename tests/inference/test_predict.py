"""The only inference path: views by the pixel, logits by hand, files by their ids, and every reading of `test` on record."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from scipy.ndimage import gaussian_filter

from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import VIEW_SETS, Data
from cifar_small.data import load_test, load_train, write_unlabelled
from cifar_small.data.datamodule import load_splits, to_tensor
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.inference.forward import compute_logits, least_certain
from cifar_small.inference.predict import images_of, load_net, load_own_splits, predict
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions, sha256_of_shared
from cifar_small.training.train import train
from cifar_small.transforms.preprocess import normalize
from cifar_small.transforms.views import CROPS, VIEWS, View

CONFIG = parse_config(tiny_raw(phases=[{"epochs": 1}], views="shift"))
PIXELS = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("predict") / "trained")
    train(CONFIG, run.folder, quiet=True)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, for a test to do with as it likes."""
    return Run(shutil.copytree(trained.folder, tmp_path / "run"))


def unlabelled(folder: Path, count: int = 360, first: int = 1000) -> Path:
    path = folder / "nolabel.pkl"
    write_unlabelled(path, load_test(CONFIG.data).images[:count], np.arange(first, first + count))
    return path


def test_predicting_waits_for_no_package_that_it_does_not_use(run: Run) -> None:
    """Each of these takes a second or so to import, some torch's compiler as a side effect of a call."""
    code = "import sys; from cifar_small.cli.main import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    command = [sys.executable, "-c", code, "predict", str(run.folder), "--split", "val", "--views", "flip"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "cifar_small.inference.predict" in loaded
    assert not loaded & {
        *("torch._dynamo", "torchvision", "albumentations", "matplotlib", "pandas", "sklearn", "scipy.stats", "sympy"),
    }


def rewrite(run: Run, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what is in `best.pt`, with a checksum that fits."""
    state = load_checkpoint(run.best)
    change(state)
    save_checkpoint(run.best, state)


# ------------------------------------------------------------------------------------------------------------------ views


def views_of(name: str) -> list[torch.Tensor]:
    return [view(PIXELS) for view, _ in VIEWS[name]]


def test_every_choice_of_views_has_weights_that_sum_to_one() -> None:
    assert tuple(VIEWS) == VIEW_SETS
    for name, views in VIEWS.items():
        assert sum(weight for _, weight in views) == pytest.approx(1, abs=1e-12), name
        assert all(weight > 0 for _, weight in views)
        assert all(view(PIXELS).shape == PIXELS.shape for view, _ in views)


def test_none_is_the_image_and_flip_adds_exactly_the_mirror() -> None:
    (same,) = views_of("none")
    assert torch.equal(same, PIXELS)
    same, mirror = views_of("flip")
    assert torch.equal(same, PIXELS)
    assert np.array_equal(mirror.numpy(), PIXELS.numpy()[:, :, :, ::-1])
    assert [weight for _, weight in VIEWS["flip"]] == [0.5, 0.5]


@pytest.mark.parametrize("pad", ["reflect", "constant"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (-1, 0), (0, 1), (0, -1), (2, 2), (-3, 1), (0, 0)])
def test_shift_moves_the_content_down_and_right(rows: int, columns: int, pad: Any) -> None:
    shifted = View(rows, columns, pad)(PIXELS).numpy()
    source = PIXELS.numpy()
    for row in range(32):
        for column in range(32):
            from_row, from_column = row - rows, column - columns
            inside = 0 <= from_row < 32 and 0 <= from_column < 32
            if pad == "constant" and not inside:
                assert (shifted[:, :, row, column] == 0).all()
                continue
            if not inside:  # reflected: row -1 is row 1, row 32 is row 30
                from_row, from_column = (31 - abs(31 - abs(place)) for place in (from_row, from_column))
            assert (shifted[:, :, row, column] == source[:, :, from_row, from_column]).all()


def test_shift_views_are_the_centre_and_four_neighbors_without_a_mirror() -> None:
    expected = [PIXELS, *(View(*by)(PIXELS) for by in ((1, 0), (-1, 0), (0, 1), (0, -1)))]
    assert all(torch.equal(one, other) for one, other in zip(views_of("shift"), expected, strict=True))
    assert [weight for _, weight in VIEWS["shift"]] == [0.5, 0.125, 0.125, 0.125, 0.125]


def test_flip_shift_views_are_three_places_and_their_mirrors() -> None:
    places = [(PIXELS, 0.25), (View(1, 1)(PIXELS), 0.125), (View(-1, -1)(PIXELS), 0.125)]
    expected = [(view, weight) for place, weight in places for view in (place, place.flip(3))]
    assert [weight for _, weight in VIEWS["flip_shift"]] == [weight for _, weight in expected]
    assert all(torch.equal(one, other) for one, (other, _) in zip(views_of("flip_shift"), expected, strict=True))


def test_fourth_view_of_flips_shift_blur_is_really_shifted() -> None:
    same, mirror, upside_down, shifted, blurred = views_of("flips_shift_blur")
    assert torch.equal(same, PIXELS)
    assert torch.equal(mirror, PIXELS.flip(3))
    assert torch.equal(upside_down, PIXELS.flip(2))
    assert not torch.equal(shifted, PIXELS)
    assert torch.equal(shifted[:, :, 2:, 2:], PIXELS[:, :, :-2, :-2])
    assert (shifted[:, :, :2] == 0).all()
    assert (shifted[:, :, :, :2] == 0).all()
    expected = np.stack(
        [[gaussian_filter(channel, 1, truncate=2, mode="mirror") for channel in image] for image in PIXELS.numpy()]
    )
    assert np.allclose(blurred.numpy(), expected, atol=1e-6)  # within each channel, unlike a filter over the whole array


def test_views_of_larger_pictures_move_and_blur_by_as_much_more() -> None:
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 2, 64, 64)).astype(np.float32))
    assert torch.equal(View(rows=1)(pixels)[:, :, 2:], pixels[:, :, :-2])
    assert torch.equal(View(columns=-3)(pixels)[:, :, :, :-6], pixels[:, :, :, 6:])
    expected = [[gaussian_filter(plane, 2, truncate=2, mode="mirror") for plane in image] for image in pixels.numpy()]
    assert np.allclose(View(blurred=True)(pixels).numpy(), expected, atol=1e-6)


def test_random_crops_are_ten_different_ones_within_four_pixels() -> None:
    assert len(set(CROPS)) == len(VIEWS["random_crops"]) == 10
    assert all(max(abs(view.rows), abs(view.columns)) <= 4 for view in CROPS)
    assert 0 < sum(view.mirrored for view in CROPS) < 10


def test_equal_views_are_one_and_names_tell_them_apart() -> None:
    every = [view for views in VIEWS.values() for view, _ in views]
    distinct = set(every)
    assert (len(every), len(distinct)) == (29, 23)
    assert len({str(view) for view in distinct}) == 23
    assert str(View()) == "the image"
    assert str(View(2, -1, "constant", mirrored=True)) == "moved +2,-1 over zeros mirrored"


# ----------------------------------------------------------------------------------------------------------------- logits


def test_normalize_against_numpy() -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    images[0, 0, 0, :2] = 200, 255
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    expected = (images / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    got = normalize(torch.from_numpy(images), mean, std)
    assert got.dtype == torch.float32
    assert np.allclose(got.numpy(), expected, atol=2e-6)


def test_to_tensor_is_planes_of_the_same_pixels_and_reads_read_only_arrays() -> None:
    images = load_test(CONFIG.data).take(np.arange(5))
    images.images.flags.writeable = False
    assert np.array_equal(to_tensor(images, torch.device("cpu")).numpy(), images.images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("views", VIEWS)
def test_logits_are_the_weighted_mean_over_views(views: str, trained: Run) -> None:
    net = load_net(trained)
    pixels = to_tensor(load_test(CONFIG.data).take(np.arange(12)), torch.device("cpu"))
    got = compute_logits(net.model, pixels, net.preprocess, views, "fp32", 500)
    net.model.eval()
    by_hand = np.zeros((12, 10))
    with torch.no_grad():
        for view, weight in VIEWS[views]:
            by_hand += weight * net.model(view(normalize(pixels, net.mean, net.std))).double().numpy()
    assert got.dtype == torch.float32
    assert np.allclose(got.numpy(), by_hand, atol=1e-4)
    assert by_hand.std() > 0.05  # the net answers something


@pytest.mark.parametrize(("views", "share", "count"), [("flip_shift", 0.25, 15), ("random_crops", 0.1, 6), ("flip", 0.001, 1)])
def test_selective_views_give_the_whole_set_to_the_least_certain_images(
    views: str, share: float, count: int, trained: Run
) -> None:
    net = load_net(trained)
    pixels = to_tensor(load_test(CONFIG.data).take(np.arange(60)), torch.device("cpu"))

    def logits(choice: str) -> torch.Tensor:
        return compute_logits(net.model, pixels, net.preprocess, choice, "fp32", 7)

    seen: list[int] = []
    with net.model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0]))):
        got = logits(f"{views}@{share}")
    others = [view for view, _ in VIEWS[views] if view != View()]
    assert sum(seen) == 60 + count * len(others)  # the plain look is not repeated
    plain, whole = logits("none"), logits(views)
    certainty = plain.softmax(1).amax(1)
    chosen = torch.zeros(60, dtype=torch.bool)
    chosen[sorted(range(60), key=lambda image: float(certainty[image]))[:count]] = True
    assert torch.equal(got[~chosen], plain[~chosen])
    assert torch.allclose(got[chosen], whole[chosen], atol=1e-5)
    assert not torch.allclose(got[chosen], plain[chosen], atol=1e-3)


def test_of_equally_certain_images_the_first_are_chosen() -> None:
    logits = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    assert least_certain(logits, 0.5).tolist() == [3, 1]
    assert least_certain(logits, 0.75).tolist() == [3, 1, 2]


def test_batch_size_does_not_change_logits_and_the_net_stays_as_it_was(trained: Run) -> None:
    net = load_net(trained)
    pixels = to_tensor(load_test(CONFIG.data).take(np.arange(40)), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    net.model.train()
    whole, odd, single = (compute_logits(net.model, pixels, net.preprocess, "flip", "fp32", size) for size in (500, 7, 1))
    assert net.model.training
    assert torch.allclose(whole, odd, atol=1e-4)
    assert torch.allclose(whole, single, atol=1e-4)
    assert torch.equal(whole.argmax(1), odd.argmax(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.model.state_dict().items())


# ----------------------------------------------------------------------------------------------------------------- splits


def test_val_is_what_training_predicted(run: Run, tmp_path: Path) -> None:
    target, predictions, notes = predict(run, "val", output=tmp_path / "again.npz", command="again")
    training = load_predictions(run.predictions / "val.npz")
    again = load_predictions(target)
    _, val, _ = load_splits(CONFIG.data)
    assert notes == []
    assert again.logits.tobytes() == training.logits.tobytes() == predictions.logits.tobytes()
    assert again.ids.tolist() == training.ids.tolist() == val.ids.tolist()
    assert again.labels is not None
    assert val.labels is not None
    assert again.labels.tolist() == val.labels.tolist()
    differing = {key for key, value in again.meta if value != getattr(training.meta, key)}
    assert differing <= {"command", "file", "sha256", "run"}
    assert again.meta.weights_sha256 == hashlib.sha256(run.best.read_bytes()).hexdigest()
    summary = run.summary()
    assert summary is not None
    assert summary.val_accuracy == again.accuracy
    assert not run.test_readings_file.exists()


def test_each_reading_of_test_is_recorded(run: Run) -> None:
    target, predictions, _ = predict(run, "test", command="first")
    (reading,) = run.test_readings()
    images = load_test(CONFIG.data)
    assert images.labels is not None
    assert reading.accuracy == float((predictions.logits.argmax(1) == images.labels).mean())
    assert (reading.command, reading.views, reading.images) == ("first", "shift", 360)
    assert (target, reading.predictions) == (run.predictions / "test.npz", "test.npz")
    assert reading.predictions_sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert reading.weights_sha256 == hashlib.sha256(run.best.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="exists already"):
        predict(run, "test")
    assert len(run.test_readings()) == 1
    other, _, _ = predict(run, "test", views="none", command="second")
    predict(run, "test", overwrite=True, command="third")
    assert other.name == "test_none.npz"
    assert [(one.command, one.views) for one in run.test_readings()] == [
        ("first", "shift"),
        ("second", "none"),
        ("third", "shift"),
    ]
    assert run.test_readings()[0] == reading
    assert run.test_readings_file.read_text().count("\n") == 3


def test_test_images_must_belong_to_the_training_part(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train_part, test = load_own_splits(load_net(run))[0], load_test(CONFIG.data)
    monkeypatch.setattr("cifar_small.inference.predict.load_test", lambda *_: train_part.take(np.arange(200)))
    with pytest.raises(DataError, match="200 of 200 images are among those the net was trained or selected on"):
        predict(run, "test")
    monkeypatch.setattr("cifar_small.inference.predict.load_test", lambda *_: test)
    official = {load_train(CONFIG.data).sha256: train_part.sha256}
    monkeypatch.setattr("cifar_small.data.test_split._OFFICIAL", official)
    with pytest.raises(DataError, match="360 images, not the official test part of the data this net was trained on"):
        predict(run, "test")
    monkeypatch.setattr("cifar_small.data.test_split._OFFICIAL", dict.fromkeys(official, test.sha256))
    predict(run, "test")
    (reading,) = run.test_readings()
    assert reading.images_sha256 == test.sha256
    rewrite(run, lambda state: state["data"].update(sha256="0" * 64))
    with pytest.raises(CheckpointError, match="was trained on other data"):
        predict(run, "test", overwrite=True)
    assert run.test_readings() == [reading]


def test_submit_keeps_the_ids_of_the_file_and_is_no_reading(run: Run, tmp_path: Path) -> None:
    target, predictions, notes = predict(run, "submit", file=unlabelled(tmp_path))
    assert target == run.predictions / "submit.npz"
    assert predictions.ids.tolist() == list(range(1000, 1360))
    assert predictions.labels is None
    assert any("they span 1000..1359" in note for note in notes)
    predict(run, "val", views="none")
    assert not run.test_readings_file.exists()
    _, test, _ = predict(run, "test")
    assert predictions.logits.tobytes() == test.logits.tobytes()  # the same pixels under other ids


def test_images_that_lie_otherwise_than_in_training_are_noted(run: Run, tmp_path: Path) -> None:
    images = load_test(Data(source="digits")).images
    for name, some in (("right", images), ("turned", images.transpose(0, 2, 1, 3))):
        write_unlabelled(tmp_path / f"{name}.pkl", np.ascontiguousarray(some), np.arange(len(some)))
    _, _, notes = predict(run, "submit", file=tmp_path / "right.pkl")
    assert notes == []
    _, _, (note,) = predict(run, "submit", file=tmp_path / "turned.pkl", overwrite=True)
    assert "these look like rows and columns exchanged, or a turn by 90 degrees" in note


def test_images_of_another_scale_than_in_training_are_noted(run: Run, tmp_path: Path) -> None:
    images = load_test(Data(source="digits")).images
    write_unlabelled(tmp_path / "dark.pkl", (images * 0.3).astype(np.uint8), np.arange(len(images)))
    _, _, notes = predict(run, "submit", file=tmp_path / "dark.pkl")
    assert any("on the right scale" in note for note in notes)


def test_the_layout_of_flat_rows_reaches_the_file(run: Run, tmp_path: Path) -> None:
    """Of noise the pixel order cannot be told."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
    (tmp_path / "noise.pkl").write_bytes(pickle.dumps({"data": noise, "ids": np.arange(5)}))
    with pytest.raises(DataError, match=r"the layout of \(5, 3072\) cannot be told"):
        predict(run, "submit", file=tmp_path / "noise.pkl", allow_rows=5)
    logits = [
        predict(run, "submit", file=tmp_path / "noise.pkl", allow_rows=5, layout=layout, overwrite=True)[1].logits
        for layout in ("CHW", "HWC")
    ]
    assert not np.allclose(*logits)


def test_data_that_moved_is_found_by_its_new_place(tmp_path: Path) -> None:
    images = load_train(Data(source="digits"))
    assert images.labels is not None
    arrays = {"train_images": images.images[:400], "train_labels": images.labels[:400]}
    arrays["classes"] = np.array(images.classes)
    np.savez(tmp_path / "data.npz", **arrays, test_images=images.images[400:500], test_labels=images.labels[400:500])
    data = {"source": "npz", "root": str(tmp_path / "data.npz"), "val_size": 100}
    train(parse_config(tiny_raw(data=data, phases=[{"epochs": 1}])), tmp_path / "run", quiet=True)
    before = load_predictions(tmp_path / "run" / "predictions" / "val.npz").logits
    (tmp_path / "data.npz").rename(tmp_path / "elsewhere.npz")
    with pytest.raises(UserError, match=r"data\.npz"):
        predict(Run(tmp_path / "run"), "val", overwrite=True)
    _, again, _ = predict(Run(tmp_path / "run"), "val", overwrite=True, data_root=str(tmp_path / "elsewhere.npz"))
    assert np.array_equal(again.logits, before)


def test_a_file_in_the_wrong_order_of_memory_is_refused(run: Run, tmp_path: Path) -> None:
    images = load_test(Data(source="digits")).images
    write_unlabelled(tmp_path / "planes.pkl", images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.arange(len(images)))
    with pytest.raises(
        DataError, match=r"pixels \(32, 32, 3\) reshaped to \(3, 32, 32\) and transposed, .* colors side by side"
    ):
        predict(run, "submit", file=tmp_path / "planes.pkl")


def test_number_of_rows_is_checked_and_the_message_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    file = unlabelled(tmp_path, 5)
    with pytest.raises(DataError, match=r"has 5 images; expected 360$"):
        predict(run, "submit", file=file)
    assert not (run.predictions / "submit.npz").exists()
    _, predictions, _ = predict(run, "submit", file=file, allow_rows=5)
    assert predictions.ids.tolist() == [1000, 1001, 1002, 1003, 1004]


@pytest.mark.parametrize(("split", "file"), [("submit", None), ("val", "x.pkl"), ("test", "x.pkl")])
def test_file_belongs_to_submit(split: Any, file: str | None, run: Run) -> None:
    with pytest.raises(UserError, match="expected one for submit, and for no other"):
        predict(run, split, file=Path(file) if file else None)
    assert not run.test_readings_file.exists()


def test_existing_output_is_refused_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "mine.npz"
    output.write_text("precious")
    with pytest.raises(UserError, match=r"mine\.npz exists already"):
        predict(run, "test", output=output)
    assert output.read_text() == "precious"
    assert not run.test_readings_file.exists()


def test_a_reading_that_cannot_be_recorded_is_an_error_for_the_user(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(descriptor: int) -> None:
        if ".jsonl" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(UserError, match=r"test_readings\.jsonl"):
        predict(run, "test")


# ------------------------------------------------------------------------------------------------------------ wrong weights


def test_classes_in_another_order_are_refused(run: Run) -> None:
    rewrite(run, lambda state: state["classes"].reverse())
    with pytest.raises(CheckpointError, match=r"as trained, and .* have the same classes in another order"):
        predict(run, "test")
    assert not run.test_readings_file.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["config"]["model"].update(widths=[8, 16, 24]), "does not fit the net its own config describes"),
        (lambda state: state["config"]["model"].update(blocks=[2, 1, 1]), "does not fit the net"),
        (lambda state: state["weights"].pop("fc.bias"), "does not fit the net"),
        (lambda state: state["weights"].update(extra=torch.zeros(1)), "does not fit the net"),
        (lambda state: state.update(parameters=7), "says 7 parameters; its net has"),
    ],
)
def test_weights_of_another_net_are_refused(change: Callable[[Any], Any], message: str, run: Run) -> None:
    rewrite(run, change)
    with pytest.raises(CheckpointError, match=message):
        predict(run, "val", views="none")


def test_weights_that_are_not_finite_write_no_predictions(run: Run) -> None:
    rewrite(run, lambda state: state["weights"]["fc.bias"].fill_(float("nan")))
    with pytest.raises(DataError, match=r"360 of 360 images have NaN or infinite logits, first ids \[0, 1, 2, 3, 4\]"):
        predict(run, "test")
    assert not (run.predictions / "test.npz").exists()
    assert not run.test_readings_file.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_one_flipped_bit_is_refused(share: float, run: Run) -> None:
    content = bytearray(run.best.read_bytes())
    content[int(share * len(content))] ^= 4
    run.best.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.pt"):
        predict(run, "val", views="none")


def test_missing_and_foreign_weights_are_refused(run: Run, tmp_path: Path) -> None:
    run.best.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*best\.pt: No such file"):
        predict(run, "val", views="none")
    torch.save({"weights": {}}, run.best)
    with pytest.raises(CheckpointError, match="is truncated, or was not written by cifar-small"):
        predict(run, "val", views="none")
    with pytest.raises(CheckpointError, match=r"none does not exist: expected a run directory"):
        predict(Run(tmp_path / "none"), "val")
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match=r"none has no config\.yaml"):
        predict(Run(tmp_path / "none"), "val")
    (tmp_path / "epoch-0002.pt").touch()
    with pytest.raises(
        CheckpointError, match=rf"0002\.pt is a file; .* name its folder, {tmp_path}, and the checkpoint epoch-0002$"
    ):
        load_net(Run(tmp_path / "epoch-0002.pt"))


def test_last_in_place_of_best_is_refused(run: Run) -> None:
    shutil.copy(run.last, run.best)
    with pytest.raises(CheckpointError, match=r"best\.pt"):
        predict(run, "val", views="none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_no_silent_fallback(run: Run) -> None:
    with pytest.raises(UserError, match=r"engine\.device is cuda but no GPU was found"):
        predict(run, "val", views="none", device="cuda")


def test_a_device_that_does_not_exist_is_an_error_for_the_user(run: Run) -> None:
    with pytest.raises(UserError, match="gpu"):
        predict(run, "val", views="none", device="gpu")


def test_meta_says_what_made_it(trained: Run) -> None:
    meta = load_predictions(trained.predictions / "val.npz").meta
    assert json.loads(json.dumps(meta.plain())) == meta.plain()
    assert (meta.name, meta.seed, meta.views, meta.split, meta.run) == ("tiny", 0, "shift", "val", "trained")
    assert meta.rules["rows"] == 360
    assert meta.lineage == []
    assert meta.parameters == sum(p.numel() for p in load_net(trained).model.parameters())


# ------------------------------------------------------------------------------------- the images of a predictions file


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_of_predictions_are_those_that_were_predicted(split: Any, run: Run) -> None:
    _, predictions, _ = predict(run, split, views="none")
    images = images_of(predictions)
    assert images.ids.tolist() == predictions.ids.tolist()
    expected = load_test(CONFIG.data) if split == "test" else load_splits(CONFIG.data)[1]
    assert np.array_equal(images.images, expected.images)
    net = load_net(run)
    logits = compute_logits(net.model, to_tensor(images, torch.device("cpu")), net.preprocess, "none", "fp32", 500)
    assert logits.numpy().tobytes() == predictions.logits.tobytes()


def test_images_of_an_ensemble_are_its_members(run: Run) -> None:
    predictions = load_predictions(run.predictions / "val.npz")
    images = images_of(predictions.with_meta(config=None, members=[predictions.meta.facts()]))
    assert images.ids.tolist() == predictions.ids.tolist()


def test_what_an_unfinished_run_selects_by_is_said(tmp_path: Path) -> None:
    """With `selection: last` no epoch is the best so far."""
    run = Run(tmp_path / "run")
    train(parse_config({**config_dict(CONFIG), "selection": "last"}), run.folder, quiet=True)
    (run.folder / "summary.json").unlink()
    _, _, notes = predict(run, "val", overwrite=True)
    said = "these are the weights of epoch 1 of 1, the last so far; training to the end replaces them"
    assert notes == [f"{run.folder} has not finished: {said}"]


def test_images_of_nets_that_held_out_others_are_those_that_all_held_out(run: Run) -> None:
    own = load_predictions(run.predictions / "val.npz")
    other = parse_config({**config_dict(CONFIG), "data": {**config_dict(CONFIG)["data"], "split_seed": 1}})
    other_val = load_splits(other.data)[1]
    shared = np.intersect1d(own.ids, other_val.ids)
    assert 0 < len(shared) < len(own.ids)
    members = [own.meta.facts(), own.meta.facts().updated(config=config_dict(other))]
    digest = sha256_of_shared([own.meta.images_sha256, other_val.sha256], shared)
    joined = own.at(shared)
    assert joined is not None
    joined = joined.with_meta(config=None, members=members, images_sha256=digest)
    images = images_of(joined)
    assert images.ids.tolist() == shared.tolist()
    assert np.array_equal(images.labels, joined.labels)
    with pytest.raises(UserError, match="now holds other images than those predicted"):
        images_of(joined.with_meta(images_sha256=sha256_of_shared([own.meta.images_sha256], shared)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": None}, "does not say which split of which data"),
        ({"split": "submit"}, "does not say which split of which data"),
        ({"images_sha256": "0" * 64}, "digits train now holds other images than those predicted"),
    ],
)
def test_images_that_cannot_be_had_are_an_error_for_the_user(change: dict[str, Any], message: str, run: Run) -> None:
    predictions = load_predictions(run.predictions / "val.npz")
    with pytest.raises(UserError, match=message):
        images_of(predictions.with_meta(**change))


def test_val_of_other_data_is_refused(run: Run) -> None:
    net = load_net(run)
    assert load_own_splits(net)[1].ids.tolist() == load_splits(CONFIG.data)[1].ids.tolist()
    rewrite(run, lambda state: state["data"].update(sha256="0" * 64))
    with pytest.raises(CheckpointError, match="trained on other data than digits train now holds"):
        load_own_splits(load_net(run))
