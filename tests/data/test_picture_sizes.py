"""Pictures larger than 32x32: read at the size that the net wants, recognized by what they are at 32x32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cifar_small as cs
from cifar_small.cli.main import main
from cifar_small.config.schema import Config, Data
from cifar_small.data import load_test, load_train, load_unlabelled
from cifar_small.data import pictures as reading
from cifar_small.data.datamodule import load_splits
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.inference.predict import load_net, predict, predict_images
from cifar_small.runs.directory import Run
from cifar_small.transforms.preprocess import FromPixels
from cifar_small.transforms.views import View
from tests.conftest import tiny_raw

SIDE = 48
RNG = np.random.default_rng(0)


def write_pictures(root: Path, count: int = 24, size: tuple[int, int] = (96, 64)) -> Path:
    """Class folders of smooth fields with fine stripes of the class's direction, which 32 pixels do not show."""
    for part, numbers in (("train", range(count)), ("test", range(count, count + 6))):
        for number in numbers:
            place = root / part / ("across", "down")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            field = Image.fromarray(RNG.integers(60, 196, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
            stripes = 40 * (np.indices(size[::-1])[number % 2] // 1 % 2)[..., None]
            Image.fromarray((np.asarray(field, int) + stripes).clip(0, 255).astype(np.uint8)).save(place / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def raw_of(root: Path, **changes: Any) -> dict[str, Any]:
    data = {"source": "folder", "root": str(root), "val_size": 8, "train_limit": None}
    return tiny_raw(
        **{"data": data, "batch_size": 8, "input": {"size": SIDE}, "phases": [{"epochs": 1}], "rules": {"rows": 6}, **changes}
    )


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(cs.train(raw_of(root), tmp_path_factory.mktemp("runs") / "run", quiet=True).folder)


def test_the_middle_square_is_resized_straight_to_the_size_wanted(root: Path) -> None:
    data = Data(source="folder", root=str(root))
    images, before = load_train(data, SIDE), load_train(data)
    files = [file for name in ("across", "down") for file in sorted((root / "train" / name).iterdir())]
    for image, file in zip(images.images, files, strict=True):
        with Image.open(file) as picture:
            middle = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(16, 0, 80, 64))
        assert np.array_equal(image, np.asarray(middle))
    assert images.small is not None
    assert np.array_equal(images.small, before.images)
    assert images.sha256 == before.sha256  # of the same pictures, whatever the size: nets of two sizes are compared on them
    assert images.take(np.array([3, 1])).sha256 == before.take(np.array([3, 1])).sha256
    assert before.small is None


def test_pictures_that_are_all_32_by_32_stay_so_and_of_a_mixture_the_small_are_enlarged(tmp_path: Path) -> None:
    data = Data(source="folder", root=str(write_pictures(tmp_path, size=(32, 32))), val_size=8)
    assert (load_train(data, SIDE).side, load_train(data, SIDE).sha256) == (32, load_train(data).sha256)
    assert load_splits(data, SIDE)[2].plain().keys() == {"source", "sha256", "val_sha256", "train_sha256"}
    file = tmp_path / "train" / "across" / "00.png"
    small = np.asarray(Image.open(tmp_path / "train" / "across" / "02.png"))
    Image.open(file).resize((64, 64)).save(file)
    mixed = load_train(data, SIDE)
    assert mixed.side == SIDE
    assert np.array_equal(mixed.images[1], Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    assert np.array_equal(mixed.at_32[1], small)
    assert load_splits(data, SIDE)[2].side == SIDE
    assert load_test(data, SIDE).side == SIDE  # all 32x32 there, and read as the training part was


def test_more_pictures_than_the_memory_holds_are_refused_before_they_are_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * 3 * 24 * 1000**2
    monkeypatch.setattr(reading, "memory_at_hand", lambda: needed - 1)
    monkeypatch.setattr(reading, "read_picture", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match=r"24 pictures at 1000x1000 take 0\.1 GB of memory .* lower input\.size"):
        load_train(Data(source="folder", root=str(root)), 1000)


def test_a_run_on_larger_pictures_predicts_every_split_and_file_at_their_size(
    run: Run, root: Path, tmp_path: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    net = load_net(run)
    assert net.stored == SIDE
    for split, count in (("val", 8), ("test", 6)):
        _, found, _ = predict(run, split, overwrite=True)  # type: ignore[arg-type]
        assert len(found.ids) == count
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted((root / "test").rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(file.read_bytes())
    path, submit, notes = predict(run, "submit", file=flat)
    assert any("6 pictures of another size became 48x48" in note for note in notes)
    assert np.abs(submit.logits - predict(run, "test", overwrite=True)[1].logits).max() < 1e-5
    csv = tmp_path / "entry" / "submission.csv"
    cs.submit(path, csv)
    _, card, _ = said("audit", csv, "--run", run.folder, "--file", flat, "--repredict")
    faults = [line for line in card.splitlines() if line.startswith("FAIL") and "commit" not in line]  # of this very checkout
    assert faults == []
    assert "0 of 6 labels differ" in card
    for file in flat.iterdir():
        Image.open(file).resize((32, 32)).save(file)
    _, _, notes = predict(run, "submit", file=flat, overwrite=True)
    assert any("all images are 32x32; this net was trained on pictures read at 48x48" in note for note in notes)
    with pytest.raises(UserError, match="the images are 32x32, and this net was trained on pictures read at 48x48"):
        predict_images(net, load_unlabelled(flat, classes=net.classes)[0], "none")


def test_a_net_at_32_pixels_is_compared_with_it_on_the_same_images(run: Run, root: Path, tmp_path: Path) -> None:
    other = cs.train(raw_of(root, input={}), tmp_path / "other", quiet=True)
    assert load_net(Run(other.folder)).stored == 32
    comparison = cs.compare(run.folder, other.folder).comparison
    assert (len(comparison.pairs), comparison.refused) == (1, ())
    assert [what for what in comparison.unlike if "data" in what or "images" in what] == []


def test_a_run_of_before_is_predicted_as_before_and_not_continued(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(Config, "read_at", 32)
        run = Run(cs.train(raw_of(root), tmp_path / "run", quiet=True).folder)
    assert load_net(run).stored == 32
    _, val, _ = predict(run, "val", overwrite=True)
    assert val.meta.data is not None
    assert "side" not in val.meta.data.plain()
    monkeypatch.setattr(run.__class__, "summary", lambda self: None)
    with pytest.raises(CheckpointError, match="pictures brought to 32x32 as they were read; now they are read at 48x48"):
        cs.train(raw_of(root), run.folder, quiet=True)


def test_what_is_exported_takes_images_of_their_size(run: Run, root: Path) -> None:
    net = load_net(run)
    images = torch.from_numpy(load_test(net.config.data, SIDE).images).permute(0, 3, 1, 2)
    expected = torch.from_numpy(predict(run, "test", overwrite=True, views="none")[1].logits)
    with torch.no_grad():
        found = FromPixels(net.model.eval(), net.preprocess, net.stored)(images)
    assert (found - expected).abs().max() < 1e-4


def test_views_move_larger_images_by_as_much_of_them() -> None:
    image = torch.arange(64.0).expand(1, 1, 64, 64)
    assert torch.equal(View(columns=1)(image)[..., 2:], image[..., :-2])
    assert torch.equal(View(columns=1)(image[..., :32, :32])[..., 1:], image[..., :32, :31])


def test_a_rehearsal_with_pictures_that_the_competitions_pickle_would_shrink_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pickle holds 32x32; what a net of 48x48 says of these enlarged again is not what it says of the test pictures."""
    for side, code in ((SIDE, 2), (32, 0)):
        (tmp_path / f"{side}.yaml").write_text(yaml.safe_dump(raw_of(root, input={"size": side})))
        given = ["unlabelled", "--config", str(tmp_path / f"{side}.yaml"), "--output", str(tmp_path / f"{side}.pkl")]
        assert main(given) == code
        assert (tmp_path / f"{side}.pkl").exists() == (code == 0)
    assert "are read at 48x48, and the competition's pickle holds 32x32; rehearse with a folder" in capsys.readouterr().err


def test_pictures_of_32_by_32_can_be_rehearsed_with_whatever_the_net_is_given(tmp_path: Path, said: Any) -> None:
    write_pictures(tmp_path / "pictures", size=(32, 32))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(raw_of(tmp_path / "pictures")))
    assert said("unlabelled", "--config", tmp_path / "a.yaml", "--output", tmp_path / "a.pkl")[0] == 0
    loaded, _ = load_unlabelled(tmp_path / "a.pkl")
    assert np.array_equal(loaded.images, load_test(Data(source="folder", root=str(tmp_path / "pictures"))).images)
