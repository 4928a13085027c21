"""What other programs hold images in: CIFAR's binary and MATLAB versions, parquet, .npy pairs; pictures of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cifar_small.config.schema import Data
from cifar_small.data import Images, load_test, load_train, load_unlabelled
from cifar_small.data.pictures import fitted, read_picture, read_pictures
from cifar_small.data.sources import has_test_part
from cifar_small.errors import DataError
from tests.data.test_orientation import MISREAD, scenes
from tests.data.test_sources import C10, COARSE, FINE, cifar10, cifar100, folder, unpacked

SCENES = scenes(8, 0)


def binary(root: Path, files: dict[str, Any], keys: tuple[bytes, ...], names: dict[str, list[bytes]]) -> None:
    """CIFAR's binary version of the same batches."""
    root.mkdir()
    for name, lines in names.items():
        (root / name).write_bytes(b"\n".join(lines) + b"\n")
    for name, batch in files.items():
        if b"data" in batch:
            labels = np.stack([np.array(batch[key], np.uint8) for key in keys], axis=1)
            np.concatenate([labels, batch[b"data"]], axis=1).tofile(root / f"{name}.bin")


def matlab(root: Path, files: dict[str, Any]) -> None:
    """CIFAR's MATLAB version of the same batches: labels as columns, names as a cell array."""
    root.mkdir()
    for name, batch in files.items():
        content = {}
        for key, value in batch.items():
            cells = isinstance(value, list) and isinstance(value[0], bytes)
            column = np.array([text.decode() for text in value], object) if cells else np.asarray(value, np.uint8)
            content[key.decode()] = column[:, None] if column.ndim == 1 else column
        savemat(root / f"{name}.mat", content)


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "cifar100_coarse"])
def test_every_version_of_cifar_is_the_same_images(tmp_path: Path, source: Any) -> None:
    ten = source == "cifar10"
    files, keys = (cifar10(), (b"labels",)) if ten else (cifar100(), (b"coarse_labels", b"fine_labels"))
    python = unpacked(tmp_path / "python", files, "cifar-10-batches-py" if ten else "cifar-100-python")
    for place in ("binary", "matlab"):
        (tmp_path / place).mkdir()
    names = {"batches.meta.txt": [*C10, b""]} if ten else {"fine_label_names.txt": FINE, "coarse_label_names.txt": COARSE}
    binary(tmp_path / "binary" / ("cifar-10-batches-bin" if ten else "cifar-100-binary"), files, keys, names)
    matlab(tmp_path / "matlab" / ("cifar-10-batches-mat" if ten else "cifar-100-matlab"), files)
    for load in (load_train, load_test):
        expected = load(Data(source=source, root=str(python)))
        for place in ("binary", "matlab"):
            found = load(Data(source=source, root=str(tmp_path / place)))
            assert (found.sha256, found.source, found.classes) == (expected.sha256, expected.source, expected.classes)


def test_damaged_versions_of_cifar_are_named(tmp_path: Path) -> None:
    binary(tmp_path / "bin", cifar10(), (b"labels",), {"batches.meta.txt": C10})
    (tmp_path / "bin" / "test_batch.bin").write_bytes(bytes(3074))
    with pytest.raises(DataError, match=r"test_batch\.bin: .*; expected rows of 3,073 bytes"):
        load_test(Data(root=str(tmp_path / "bin")))
    matlab(tmp_path / "mat", cifar10())
    file = tmp_path / "mat" / "test_batch.mat"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=r"test_batch\.mat: is not a whole MATLAB file .*expected a \.mat file up to version 7"):
        load_test(Data(root=str(tmp_path / "mat")))
    file.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"test_batch\.mat: is HTML or XML; it may be a login page"):
        load_test(Data(root=str(tmp_path / "mat")))


def test_unlabelled_files_of_other_programs(tmp_path: Path) -> None:
    planes = SCENES.transpose(0, 3, 1, 2).reshape(8, 3072)
    savemat(tmp_path / "a.mat", {"data": planes, "ids": np.arange(5, 13)[:, None], "labels": np.zeros((8, 1))})
    np.concatenate([np.zeros((8, 1), np.uint8), planes], axis=1).tofile(tmp_path / "b.bin")
    np.save(tmp_path / "c.npy", SCENES)
    for name, first in (("a.mat", 5), ("b.bin", 0), ("c.npy", 0)):
        images, notes = load_unlabelled(tmp_path / name)
        assert np.array_equal(images.images, SCENES)
        assert images.ids.tolist() == list(range(first, first + 8))
        assert any("'labels', which are not read" in note for note in notes) == (name != "c.npy")
        assert any("numbered from 0" in note for note in notes) == (first == 0)
    savemat(tmp_path / "d.mat", {"X": planes})
    with pytest.raises(DataError, match=r"d\.mat: has 'X'; expected 'data' or 'images' and 'ids'"):
        load_unlabelled(tmp_path / "d.mat")


def write_table(
    path: Path,
    pictures: np.ndarray,
    labels: list[Any],
    names: list[str] | None,
    ids: list[Any] | None = None,
    column: str = "label",
) -> None:
    """A parquet table as the Hugging Face hub has it."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    cells = []
    for number, picture in enumerate(pictures):
        file = path.with_suffix(f".{number}.png")
        Image.fromarray(picture).save(file)
        cells.append({"bytes": file.read_bytes(), "path": None})
        file.unlink()
    columns = {"img": cells, column: pyarrow.array(labels, pyarrow.int64())}
    table = pyarrow.table(columns if ids is None else {**columns, "id": ids})
    if names:
        features = {column: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)


def test_parquet_tables(tmp_path: Path) -> None:
    for split, part in (("train", SCENES[:6]), ("test", SCENES[6:])):
        write_table(tmp_path / f"{split}-00000-of-00001.parquet", part, [1, 0] * (len(part) // 2), ["ant", "bee"])
    train, test = (load(Data(source="folder", root=str(tmp_path))) for load in (load_train, load_test))
    assert train.labels is not None
    assert (train.classes, train.labels.tolist(), len(test)) == (("ant", "bee"), [1, 0, 1, 0, 1, 0], 2)
    assert np.array_equal(train.images, SCENES[:6])
    assert load_train(Data(source="folder", root=str(tmp_path))).notes == ()
    write_table(tmp_path / "validation-0.parquet", SCENES[:2], [0, 1], ["ant", "bee"])
    (note,) = load_train(Data(source="folder", root=str(tmp_path))).notes
    assert note.startswith("validation-0.parquet is not read: the validation images are data.val_size of train")
    unlabelled, notes = load_unlabelled(tmp_path / "test-00000-of-00001.parquet")
    assert np.array_equal(unlabelled.images, SCENES[6:])
    assert any("'label', which are not read" in note for note in notes)
    for ids in ([7, 3], ["7", "3"]):
        write_table(tmp_path / "ids.parquet", SCENES[:2], [0, 1], None, ids)
        found, notes = load_unlabelled(tmp_path / "ids.parquet")
        assert found.ids.tolist() == [7, 3]
        assert any("ids stand as str and were read" in note for note in notes) == (ids == ["7", "3"])
    for ids, bad in (([7, None], "None"), (["7", "a"], "a")):
        write_table(tmp_path / "ids.parquet", SCENES[:2], [0, 1], None, ids)
        with pytest.raises(DataError, match=f"id '{bad}' in row 1 is not a whole number"):
            load_unlabelled(tmp_path / "ids.parquet")
    (tmp_path / "plain_text").mkdir()
    write_table(tmp_path / "plain_text" / "train-0.parquet", SCENES, [*range(8)], None)
    (tmp_path / "train-00000-of-00001.parquet").unlink()
    ten = load_train(Data(source="cifar10", root=str(tmp_path)))
    assert ten.labels is not None
    assert (ten.classes[0], ten.labels.tolist()) == ("airplane", [*range(8)])
    assert np.array_equal(ten.images, SCENES)


@pytest.mark.parametrize("source", ["folder", "npz", "cifar100"])
def test_names_that_are_numbers_are_not_left_in_the_order_of_text(source: Any, tmp_path: Path) -> None:
    """As `class_encode_column` and `np.unique` leave them: class 2 would be predicted as 12."""
    names = sorted(map(str, range(100)))
    codes = [names.index(str(number)) for number in (2, 19, 10, 99)]
    assert codes[0] == 12
    for split in ("train", "test"):
        if source == "npz":
            np.save(tmp_path / f"{split}_images.npy", SCENES[:4])
            np.save(tmp_path / f"{split}_labels.npy", np.array(codes))
            np.save(tmp_path / "classes.npy", np.array(names))
        else:
            column = "fine_label" if source == "cifar100" else "label"
            write_table(tmp_path / f"{split}-00000-of-00001.parquet", SCENES[:4], codes, names, column=column)
    data = Data(source=source, root=str(tmp_path))
    for images in (load_train(data), load_test(data)):
        assert images.labels is not None
        assert images.labels.tolist() == [2, 19, 10, 99]
        assert images.classes == tuple(map(str, range(100)))


def test_numbers_in_an_order_of_their_own_stay_in_it(tmp_path: Path) -> None:
    np.save(tmp_path / "train_images.npy", SCENES[:4])
    np.save(tmp_path / "train_labels.npy", np.array([0, 1, 2, 1]))
    np.save(tmp_path / "classes.npy", np.array(["5", "10", "3"]))
    images = load_train(Data(source="npz", root=str(tmp_path)))
    assert images.labels is not None
    assert (images.labels.tolist(), images.classes) == ([0, 1, 2, 1], ("5", "10", "3"))


def test_the_shards_of_a_table_are_read_in_their_order(tmp_path: Path) -> None:
    shards = ((1, SCENES[5:], [2, 0, 1]), (0, SCENES[:5], [1, 1, 2, 0, 1]))
    for number, part, labels in shards:
        write_table(tmp_path / f"train-0000{number}-of-00002.parquet", part, labels, None)
    train = load_train(Data(source="folder", root=str(tmp_path)))
    assert train.labels is not None
    assert train.labels.tolist() == [1, 1, 2, 0, 1, 2, 0, 1]
    assert np.array_equal(train.images, SCENES)


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_classes_without_names_are_counted_in_the_training_labels(source: Any, tmp_path: Path) -> None:
    """A test part need not hold the highest."""
    for split, labels in (("train", [0, 1, 2, 3]), ("test", [0, 1, 1, 2])):
        if source == "folder":
            write_table(tmp_path / f"{split}-00000-of-00001.parquet", SCENES[:4], labels, None)
        else:
            np.save(tmp_path / f"{split}_images.npy", SCENES[:4])
            np.save(tmp_path / f"{split}_labels.npy", np.array(labels)[:, None])
    train, test = (load(Data(source=source, root=str(tmp_path))) for load in (load_train, load_test))
    assert test.labels is not None
    assert train.classes == test.classes == ("0", "1", "2", "3")
    assert test.labels.tolist() == [0, 1, 1, 2]


def pair(root: Path, images: np.ndarray, labels: list[int], names: tuple[str, str]) -> Images:
    root.mkdir()
    np.save(root / f"{names[0]}.npy", images)
    np.save(root / f"{names[1]}.npy", np.array(labels))
    return load_train(Data(source="npz", root=str(root)))


def test_pairs_of_npy_files(tmp_path: Path) -> None:
    for number, names in enumerate([("train_images", "train_labels"), ("x_train", "y_train"), ("train_data", "train_labels")]):
        found = pair(tmp_path / str(number), SCENES, [0, 1, 2, 3] * 2, names)
        assert found.labels is not None
        assert (found.classes, found.labels.tolist()) == (("0", "1", "2", "3"), [0, 1, 2, 3] * 2)
        assert np.array_equal(found.images, SCENES)
    (tmp_path / "0" / "classes.txt").write_text("ant\nbee\ncow\ndog\n\n")
    assert load_train(Data(source="npz", root=str(tmp_path / "0"))).classes == ("ant", "bee", "cow", "dog")
    with pytest.raises(DataError, match=r"has no test_images\.npy or test_data\.npy or x_test\.npy"):
        load_test(Data(source="npz", root=str(tmp_path / "0")))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["ant", "bee"] * 4, r"train: labels are <U3 \(8,\); expected whole numbers"),
        ([0.0, float("nan")] * 4, r"labels are float64 \(8,\); expected whole numbers"),
        (np.array([0, -1] * 4).astype(np.uint32), r"a label is 4,294,967,295, among 8 images; expected classes counted from 0"),
    ],
)
def test_labels_that_number_no_classes_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pair(tmp_path / "pair", SCENES, labels, ("train_images", "train_labels"))


def test_a_label_column_with_missing_values_is_said_to_be_so(tmp_path: Path) -> None:
    write_table(tmp_path / "train-00000-of-00001.parquet", SCENES[:2], [0, None], None)
    with pytest.raises(DataError, match="label is int64, 1 of it missing; expected whole numbers"):
        load_train(Data(source="folder", root=str(tmp_path)))


@pytest.mark.parametrize("what", MISREAD)
def test_arrays_of_other_programs_in_a_wrong_order_of_memory_are_refused(tmp_path: Path, what: str) -> None:
    """One check for every array of images, by whatever reader it came."""
    wrong = np.ascontiguousarray(MISREAD[what](scenes(60, 1)))
    with pytest.raises(DataError, match=r"the pixels look like"):
        pair(tmp_path / "pair", wrong, [0, 1] * 30, ("train_images", "train_labels"))
    files = cifar10()
    for name, batch in files.items():
        if name != "batches.meta":
            batch[b"data"] = wrong[:20].transpose(0, 3, 1, 2).reshape(-1, 3072)
            batch[b"labels"] = [0, 1] * 10
    matlab(tmp_path / "mat", files)
    binary(tmp_path / "bin", files, (b"labels",), {"batches.meta.txt": C10})
    for place in ("mat", "bin"):
        with pytest.raises(DataError, match=r"cifar10 train: the pixels look like"):
            load_train(Data(root=str(tmp_path / place)))
    for name, content in (("a.npy", wrong), ("b.mat", {"data": wrong})):
        np.save(tmp_path / name, content) if name == "a.npy" else savemat(tmp_path / name, content)
        with pytest.raises(DataError, match=r"pixels l"):
            load_unlabelled(tmp_path / name)
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(wrong):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
    with pytest.raises(DataError, match=r"the pixels look like"):
        load_unlabelled(tmp_path / "pictures")


def test_tinted_text_is_taken_as_it_is_where_it_comes_from_pictures_or_is_said_to_be_right(tmp_path: Path) -> None:
    """Dark blue dots on cream are a little smoother in another order of memory, which no array of photographs would be."""
    ink, paper = np.array([20, 20, 90]), np.array([250, 240, 215])
    text = np.where(np.random.default_rng(0).random((60, 32, 32, 1)) < 0.4, ink, paper).astype(np.uint8)
    with pytest.raises(DataError, match=r"if they are right as they are, set data\.layout: HWC$"):
        pair(tmp_path / "pair", text, [0, 1] * 30, ("train_images", "train_labels"))
    found = load_train(Data(source="npz", root=str(tmp_path / "pair"), layout="HWC"))
    assert np.array_equal(found.images, text)
    np.save(tmp_path / "text.npy", text)
    with pytest.raises(DataError, match=r"the pixels look like") as caught:
        load_unlabelled(tmp_path / "text.npy")
    assert caught.value.remedy == ("layout=HWC",)
    assert np.array_equal(load_unlabelled(tmp_path / "text.npy", layout="HWC")[0].images, text)
    for name in ("train/a", "train/b", "unlabelled"):
        (tmp_path / name).mkdir(parents=True)
        for number, image in enumerate(text[:20]):
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
    by_name = np.argsort([str(number) for number in range(20)])
    assert np.array_equal(load_train(Data(source="folder", root=str(tmp_path))).images[:20], text[by_name])
    assert np.array_equal(load_unlabelled(tmp_path / "unlabelled")[0].images, text[:20])


def test_pictures_of_any_size_and_kind_become_32_by_32(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 64), (255, 0, 0))
    wide.paste((10, 20, 30), (16, 0, 80, 64))  # the middle square has one color, what is cut off another
    for name in ("a.png", "b.jpg", "c.webp"):
        wide.save(tmp_path / name, lossless=True) if name == "c.webp" else wide.save(tmp_path / name)
        pixels, small, resized, transparent = read_pictures([tmp_path / name], "here")
        assert (resized, transparent, small, pixels.shape) == (1, 0, None, (1, 32, 32, 3))
        assert np.abs(pixels.astype(int)[0, :, 2:-2] - [10, 20, 30]).max() <= (12 if name == "b.jpg" else 0)
    stripes = Image.fromarray((np.arange(64)[:, None] // 2 % 2 * 255).repeat(64, 1).astype(np.uint8))
    stripes.save(tmp_path / "d.png")
    rows = fitted(read_picture(tmp_path / "d.png"), 32)[4:-4, 0, 0].astype(int)  # stripes two pixels high become one pixel high
    assert set(np.sign(np.diff(rows[::2] - rows[1::2]))) == {0}
    thin = Image.fromarray((np.arange(64)[:, None] % 2 * 255).repeat(64, 1).astype(np.uint8))
    thin.save(tmp_path / "e.png")
    assert (
        np.abs(fitted(read_picture(tmp_path / "e.png"), 32).astype(int) - 127.5).max() < 30
    )  # antialiased, not every other line
    turned = Image.new("RGB", (32, 32))
    turned.paste((200, 200, 200), (0, 0, 32, 16))
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "f.jpg", exif=exif, quality=100)
    upright = fitted(read_picture(tmp_path / "f.jpg"), 32)
    assert (upright[2].mean() < 5, upright[-3].mean() > 195) == (True, True)


HIDDEN, SEEN = (200, 10, 30), (10, 200, 30)  # colors of a picture's upper and lower half


def see_through(kind: str, alpha: int) -> tuple[Image.Image, dict[str, Any]]:
    """A picture of two halves, the upper with this alpha, and how it is saved."""
    image = Image.new("RGB", (32, 32), SEEN)
    image.paste(HIDDEN, (0, 0, 32, 16))
    mask = Image.new("L", (32, 32), 255)
    mask.paste(alpha, (0, 0, 32, 16))
    match kind:
        case "LA":
            image = image.convert("LA")
            image.putalpha(mask)
        case "P":
            image = image.quantize(2)
            upper = image.getpixel((0, 0))
            return image, {"transparency": bytes(alpha if index == upper else 255 for index in range(2))}
        case "L tRNS":
            image = image.convert("L")
            return image, {"transparency": image.getpixel((0, 0)) if alpha == 0 else 7}  # 7 stands nowhere
        case "RGB tRNS":
            return image, {"transparency": HIDDEN if alpha == 0 else (1, 2, 3)}
        case _:
            image.putalpha(mask)
    return image, {"lossless": True, "exact": True} if kind == "WebP" else {}


@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L tRNS", "RGB tRNS", "WebP"])
def test_what_is_transparent_is_shown_on_white_and_what_is_opaque_as_it_is(tmp_path: Path, kind: str, alpha: int) -> None:
    image, how = see_through(kind, alpha)
    file = tmp_path / ("a.webp" if kind == "WebP" else "a.png")
    image.save(file, **how)
    found = read_pictures([file], "here")
    with Image.open(file) as picture:
        opaque = np.asarray(picture.convert("RGBA"))[..., :3]
    assert found.transparent == (alpha == 0)
    assert np.array_equal(found.pixels[0, 16:], opaque[16:])
    assert np.array_equal(found.pixels[0, :16], opaque[:16] if alpha else np.full((16, 32, 3), 255))


def test_what_is_half_transparent_is_mixed_with_white_before_it_is_resized(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (0, 100, 200, 51)).save(tmp_path / "a.png")  # a fifth
    found = read_pictures([tmp_path / "a.png"], "here", side=48)
    assert found.small is not None
    for pixels in (found.pixels, found.small):
        assert (pixels == [204, 224, 244]).all()
    assert found.notes == ("1 picture with transparent pixels, shown on white",)


def test_transparent_pictures_are_told_wherever_pictures_are_read(tmp_path: Path) -> None:
    root, clear = folder(tmp_path / "classes"), Image.new("RGBA", (32, 32), (9, 9, 9, 0))
    data, note = Data(source="folder", root=str(root)), "{} with transparent pixels, shown on white"
    assert load_train(data).notes == ()
    for name in ("train/ant/7.png", "train/bee/7.png", "test/ant/7.png"):
        clear.save(root / name)
    images = load_train(data)
    assert images.images[[2, 5]].min() == 255
    assert images.notes == images.take(np.arange(1)).notes == (note.format("2 pictures"),)
    assert load_test(data).notes == (note.format("1 picture"),)
    (tmp_path / "flat").mkdir()
    for number in range(2):
        clear.save(tmp_path / "flat" / f"{number}.png")
    assert note.format("2 pictures") in load_unlabelled(tmp_path / "flat")[1]


def test_transparent_pictures_in_a_table_are_told(tmp_path: Path) -> None:
    write_table(tmp_path / "train-0.parquet", np.zeros((2, 32, 32, 4), np.uint8), [0, 1], None)
    images, note = load_train(Data(source="folder", root=str(tmp_path))), "2 pictures with transparent pixels, shown on white"
    assert (images.notes, images.images.min()) == ((note,), 255)
    assert note in load_unlabelled(tmp_path / "train-0.parquet")[1]


def test_pictures_in_class_folders_and_unlabelled_ones_are_resized(tmp_path: Path) -> None:
    root = folder(tmp_path / "classes")
    Image.fromarray(SCENES[0]).resize((50, 40)).save(root / "train" / "bee" / "2.jpg")
    assert len(load_train(Data(source="folder", root=str(root)))) == 5
    (tmp_path / "flat").mkdir()
    for number, image in enumerate(SCENES):
        Image.fromarray(image).resize((64, 64)).save(tmp_path / "flat" / f"{number}.webp")
    images, notes = load_unlabelled(tmp_path / "flat")
    assert images.ids.tolist() == [*range(8)]
    assert "8 pictures of another size became 32x32: the middle square, by Pillow's bicubic kernel with antialiasing" in notes


def test_unlabelled_pictures_in_a_table_say_that_they_were_resized(tmp_path: Path) -> None:
    large = np.repeat(np.repeat(SCENES, 2, 1), 2, 2)
    write_table(tmp_path / "a.parquet", large, [0] * 8, None)
    images, notes = load_unlabelled(tmp_path / "a.parquet")
    assert images.side == 32
    assert "8 pictures of another size became 32x32: the middle square, by Pillow's bicubic kernel with antialiasing" in notes


def test_a_flat_folder_with_a_csv_of_labels(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number, image in enumerate(SCENES, start=1):
        Image.fromarray(image).save(tmp_path / "train" / f"{number}.png")
    rows = [(3, "frog"), (1, "cat"), (2, "frog"), (8, "ant")]
    table = tmp_path / "trainLabels.csv"
    table.write_text("id,label\n" + "".join(f"{number},{name}\n" for number, name in rows))
    data = Data(source="folder", root=str(tmp_path))
    train = load_train(data)
    assert train.labels is not None
    assert (train.classes, train.labels.tolist()) == (("ant", "cat", "frog"), [2, 1, 2, 0])
    assert np.array_equal(train.images, SCENES[[2, 0, 1, 7]])
    with pytest.raises(DataError, match=r"trainLabels\.csv labels train/ alone; there is no labelled test part"):
        load_test(data)
    assert not has_test_part(data)
    table.write_text("1,cat\n2,frog\n")
    with pytest.raises(DataError, match=r"trainLabels\.csv: begins with the picture '1'; expected a header such as id,label"):
        load_train(data)
    table.write_text("file,number\n1.png,10\n2.png,9\n")
    assert load_train(data).classes == ("9", "10")
    table.write_text("file,number\n1.png,10.0\n2.png,9.0\n3.png,0.0\n")  # as pandas writes a column that had gaps
    found = load_train(data)
    assert (found.classes, found.labels.tolist() if found.labels is not None else None) == (("0", "9", "10"), [2, 1, 0])
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert load_train(data).classes == ("0", "9", "10")
    Image.fromarray(SCENES[0]).save(tmp_path / "train" / "8.webp")
    for text, phrase in (
        (
            "id,label\n1,cat\n8,cat\n",
            r"1 picture without an ending of which there are two .*: 8\.png and 8\.webp; write",
        ),
        ("id,label\n9,cat\n", r"1 of 1 pictures are not in .*train, first '9'"),
        ("id,label\n1,cat\n2,\n3, \n", "2 pictures without a class, first '2'; expected one for each"),
        ("id;label\n1;cat\n", r"has a row of 1 value, 'id;label'; expected a header .* with a comma between them"),
        ("id,label\n", "has no rows; expected a header such as id,label and a row for each picture"),
        ("id,label\n1,cat\n1.png,cat\n", "names a picture twice"),
        (
            "id,label,more\n1,cat,2\n",
            "has a row of 3 values, 'id,label,more'; expected a header such as id,label and rows of two",
        ),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=phrase):
            load_train(data)


def test_a_csv_of_labels_beside_folders_is_not_passed_over(tmp_path: Path) -> None:
    """An archive unpacked a level too deep, or other folders beside the pictures; class folders stand for themselves."""
    (tmp_path / "train" / "train").mkdir(parents=True)
    Image.fromarray(SCENES[0]).save(tmp_path / "train" / "train" / "1.png")
    (tmp_path / "train.csv").write_text("id,label\n1,cat\n")
    data = Data(source="folder", root=str(tmp_path))
    with pytest.raises(DataError, match=r"has one folder alone, train; if train\.csv labels the pictures in it, move"):
        load_train(data)
    (tmp_path / "train" / "train").rename(tmp_path / "train" / "a")
    (tmp_path / "train" / "b").mkdir()
    Image.fromarray(SCENES[1]).save(tmp_path / "train" / "b" / "2.png")
    assert load_train(data).classes == ("a", "b")
    Image.fromarray(SCENES[2]).save(tmp_path / "train" / "1.png")
    with pytest.raises(DataError, match=r"has pictures, which train\.csv labels, and folders \(a, b\) beside them"):
        load_train(data)


def test_a_flat_folder_without_its_csv_says_what_this_is_to_be_called(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number, image in enumerate(SCENES, start=1):
        Image.fromarray(image).save(tmp_path / "train" / f"{number:05}.png")
    (tmp_path / "y_train.csv").write_text("id,label\n1,cat\n")
    data = Data(source="folder", root=str(tmp_path))
    with pytest.raises(DataError, match=r"pictures without class folders; .* in trainLabels\.csv or .*, not y_train\.csv"):
        load_train(data)
    (tmp_path / "y_train.csv").rename(tmp_path / "trainLabels.csv")
    with pytest.raises(DataError, match="own names have zeros in front, as 00001: write the CSV with its names as text"):
        load_train(data)


def test_a_matlab_file_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.mat: there is no such file; expected a \.mat file"):
        load_unlabelled(tmp_path / "gone.mat")


def test_labels_of_a_table_are_whole_numbers_of_train(tmp_path: Path) -> None:
    for split, part in (("train", SCENES[:6]), ("test", SCENES[6:])):
        write_table(tmp_path / f"{split}-0.parquet", part, [1, 0] * (len(part) // 2), None)
    data = Data(source="folder", root=str(tmp_path))
    assert load_test(data).classes == ("0", "1")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for column, message in (
        ({"label": ["cat"] * 6}, r"train-0\.parquet: label is string, 0 of it missing; expected whole numbers"),
        ({"label": [1, 0, None, 1, 0, 1]}, r"label is int64, 1 of it missing; expected whole numbers"),
        ({"other": [1] * 6}, r"train-0\.parquet: has no column label, which the other split has"),
    ):
        parquet.write_table(pyarrow.table(column), tmp_path / "train-0.parquet")
        with pytest.raises(DataError, match=message):
            load_test(data)
    (tmp_path / "train-0.parquet").unlink()
    with pytest.raises(DataError, match="there are no parquet files of train, whose label names the classes"):
        load_test(data)
