"""Which files of a folder of pictures are read, what is left out and said, and what is refused with what to do."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_small.config.schema import Data
from cifar_small.data import class_names, load_test, load_train
from cifar_small.errors import DataError
from tests.data.test_orientation import scenes
from tests.data.test_sources import folder

SCENES = scenes(8, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "data")


def read(root: Path, **more: Any) -> Data:
    return Data(source="folder", root=str(root), **more)


def flat(root: Path, text: str, name: str = "trainLabels.csv") -> Data:
    """A flat train/ with pictures 1.png to 8.png, and a CSV of labels."""
    (root / "train").mkdir(exist_ok=True)
    for number, image in enumerate(SCENES, start=1):
        Image.fromarray(image).save(root / "train" / f"{number}.png")
    (root / name).write_text(text)
    return read(root)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", "readme.txt", "labels.csv", "0.xml"])
def test_what_is_no_picture_by_its_ending_is_left_out_and_counted(root: Path, name: str) -> None:
    before = load_train(read(root))
    for place in ("train/ant", "train/bee", "test/bee"):
        (root / place / name).write_bytes(b"\xd0\xcf\x11\xe0 of other programs")
    for place in ("train/ant/.DS_Store", "train/._ant"):
        (root / place).write_bytes(b"hidden")
    for place in ("train/.ipynb_checkpoints", "train/ant/.ipynb_checkpoints", "train/__MACOSX", "train/bee/__MACOSX"):
        (root / place).mkdir()
    found = load_train(read(root))
    assert (found.sha256, before.notes) == (before.sha256, ())
    assert found.notes == (f"2 files of train/ left out (no pictures), first ant/{name}",)
    assert load_test(read(root)).notes == (f"1 file of test/ left out (no pictures), first bee/{name}",)


@pytest.mark.parametrize("name", ["2.jfif", "2", "2.0001", "2.PNG"])
def test_pictures_of_other_endings_are_read_as_before(root: Path, name: str) -> None:
    Image.new("RGB", (32, 32), (5, 6, 7)).save(root / "train" / "ant" / name, format="JPEG" if "jfif" in name else "PNG")
    found = load_train(read(root))
    assert (len(found), found.notes) == (5, ())
    assert np.abs(found.images[2].astype(int) - [5, 6, 7]).max() <= 2


@pytest.mark.parametrize(
    ("name", "content"), [("2.png", b"text"), ("2.jpeg", b""), ("2", b"text"), ("2.jfif", b"\xff\xd8\xff\0")]
)
def test_a_picture_that_cannot_be_read_still_fails(root: Path, name: str, content: bytes) -> None:
    (root / "train" / "ant" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"ant/{name}: is not a readable picture"):
        load_train(read(root))


def test_pictures_beside_the_class_folders_are_told(root: Path) -> None:
    shutil.copy(root / "train" / "ant" / "0.png", root / "train" / "lone.png")
    (root / "train" / "readme.txt").touch()
    assert load_train(read(root)).notes == ("1 file of train/ left out (beside the class folders), first lone.png",)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM"])
def test_pictures_of_other_formats_are_named_and_the_advised_line_converts_them(root: Path, kind: str) -> None:
    ending = f".{kind.lower()}"
    for place in ("ant", "bee"):
        Image.fromarray(SCENES[0]).save(root / "train" / place / f"2{ending}")
    message = (
        rf"train: has 2 pictures of the format {kind}, first ant/2\{ending}; expected PNG, JPEG or WebP; move the originals"
    )
    with pytest.raises(DataError, match=message) as caught:
        load_train(read(root))
    exec(str(caught.value).partition("once they are converted: ")[2], {})
    for place in ("ant", "bee"):
        (root / "train" / place / f"2{ending}").unlink()
    images = load_train(read(root)).images
    assert len(images) == 6
    if kind != "GIF":  # of 256 colors
        assert np.array_equal(images[[2, 5]], SCENES[[0, 0]])
    content = io.BytesIO()
    Image.fromarray(SCENES[0]).save(content, format=kind)
    (root / "train" / "ant" / "3.png").write_bytes(content.getvalue())  # renamed, not converted
    named = "is not a readable picture" if kind == "PPM" else f"is a {kind} picture; convert it to PNG"
    with pytest.raises(DataError, match=rf"ant/3\.png: {named}"):
        load_train(read(root))


def test_formats_that_pillow_does_not_open_are_named_without_a_line(root: Path) -> None:
    (root / "train" / "ant" / "2.HEIC").touch()
    with pytest.raises(DataError, match=r"1 picture of the format HEIC, first ant/2\.HEIC; .*once they are converted$"):
        load_train(read(root))


@pytest.mark.parametrize(
    ("pictures", "nested", "others"),
    [
        (["train/cat/0.png", "train/dog/0.png"], "train/train/cat", ", one of 2"),  # an archive unpacked a level too deep
        (["cat/0.png", "dog/0.png", "dog/dog/1.png"], "train/dog/dog", ""),
    ],
)
def test_a_folder_in_a_class_folder_is_named_with_what_to_move(
    tmp_path: Path, pictures: list[str], nested: str, others: str
) -> None:
    for name in pictures:
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCENES[0]).save(tmp_path / "train" / name)
    for reading in (load_train, class_names):
        with pytest.raises(DataError, match=f"{nested}: is a folder in a class folder{others}; expected pictures in"):
            reading(read(tmp_path))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("with_csv", [False, True])
def test_a_validation_folder_is_told_not_to_be_read(tmp_path: Path, name: str, with_csv: bool) -> None:
    data = flat(tmp_path, "id,label\n1,ant\n2,bee\n") if with_csv else read(folder(tmp_path))
    before = load_train(data)
    assert before.notes == ()
    (tmp_path / name / "ant").mkdir(parents=True)
    shutil.copy(next((tmp_path / "train").rglob("*.png")), tmp_path / name / "ant" / "9.png")
    found = load_train(data)
    assert found.sha256 == before.sha256
    assert found.notes == (
        f"{name}/ is not read: the validation images are data.val_size of train; to train on the others too, move them into "
        "the class folders of train/",
    )


@pytest.mark.parametrize(("one", "other"), [("auto", "Auto"), ("fire truck", "fire  truck"), ("ant", "ant ")])
def test_class_folders_that_differ_in_case_or_spaces_alone_are_refused(tmp_path: Path, one: str, other: str) -> None:
    first, second = sorted([one, other])
    with pytest.raises(DataError, match=rf"has the classes '{first}' and '{second}', which differ in case or spaces alone"):
        load_train(read(folder(tmp_path, (one, other, "bee"))))


def test_letters_are_classes_of_their_own(tmp_path: Path) -> None:
    assert load_train(read(folder(tmp_path / "folders", ("a", "A", "b")))).classes == ("A", "a", "b")
    assert load_train(flat(tmp_path, "id,label\n1,a\n2,A\n")).classes == ("A", "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,id\nant,1\nbee,2\nant,3\n", r"has the class before the picture, as in line 2: ant,1; expected .* exchange"),
        ("label,id\n3,1\n3,2\n2,4\n", r"has the class before the picture, as in line 2: 3,1;"),
        ("ant,1.png\nant,2.png\nbee,3.png\n", r"has the class before the picture, as in line 2: ant,2\.png;"),
        (
            ",id,label\n0,1,ant\n1,2,bee\n",
            r"line 1 has a row of 3 values, ',id,label'; .* save these two alone, without an index",
        ),
        ("id,label\n1,ant\n\n2,bee,x\n", r"line 4 has a row of 3 values, '2,bee,x';"),
        (
            "id,label\n1,auto\n2,bee\n3,Auto\n4,auto\n",
            r"'Auto' \(1 row, first in line 4\) and 'auto' \(2 rows, first in line 2\)",
        ),
        ("id,label\n1,ant\n2,bee\n1.png,ant\n", r"names a picture twice, 1\.png in lines 2 and 4; expected each once"),
        ("id,label\n1,ant\n90,bee\n", r"1 of 2 pictures are not in .*train, first '90' in line 3"),
    ],
)
def test_a_csv_of_another_form_is_refused_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_train(flat(tmp_path, text))


def test_numbers_of_classes_that_are_names_of_pictures_too_are_no_swapped_columns(tmp_path: Path) -> None:
    assert load_train(flat(tmp_path, "id,label\n1,3\n2,3\n3,1\n4,2\n")).classes == ("1", "2", "3")
    assert load_train(flat(tmp_path, "id,label\n1,3\n2,1\n3,2\n")).classes == ("1", "2", "3")


LABELS = "id,label\n1,ant\n2,bee\n3,ant\n"


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (LABELS, None),
        ("id,label\n3.png,ant\n2,bee\n1,ant\n", None),  # the same in another order
        ("id,label\n1,0\n2,1\n3,0\n", True),  # the same classes by number
        ("id,label\n1,ant\n2,bee\n", True),
        ("id,label\n1,ant\n7,bee\n", True),
        ("id,x,y,label\n1,0,5,ant\n", True),
        (
            "id,label\n1,ant\n2,ant\n3,ant\n",
            r"disagree on 1 picture, first 2: 'bee' in line 3, 'ant' in line 3; keep the right",
        ),
        (
            "id,label\n3,bee\n2,ant\n1,bee\n",
            r"disagree on 3 pictures, first 3: 'ant' in line 4, 'bee' in line 2; keep the right",
        ),
        ("id,label\n1,0\n2,1\n3,1\n", r"trainLabels\.csv and train\.csv disagree on 3 pictures"),
    ],
)
def test_a_second_csv_of_labels_is_told_and_refused_where_it_disagrees(tmp_path: Path, other: str, note: Any) -> None:
    flat(tmp_path, other, "train.csv")
    data = flat(tmp_path, LABELS)
    if isinstance(note, str):
        with pytest.raises(DataError, match=note):
            load_train(data)
        return
    found = load_train(data)
    assert found.labels is not None
    assert (found.classes, found.labels.tolist()) == (("ant", "bee"), [0, 1, 0])
    assert found.notes == (("train.csv is not read: trainLabels.csv beside it has the labels",) if note else ())


def test_a_flat_train_of_another_format_is_named(tmp_path: Path) -> None:
    data = flat(tmp_path, LABELS)
    Image.fromarray(SCENES[0]).save(tmp_path / "train" / "9.bmp")
    with pytest.raises(DataError, match=r"train: has 1 picture of the format BMP, first 9\.bmp"):
        load_train(data)
