"""The unlabelled file of a competition: every wrong one is refused by name, and nothing is assumed without saying so."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_small.config.schema import Data
from cifar_small.data import Images, color_notes, load_test, load_unlabelled, write_unlabelled
from cifar_small.data.orientation import CHW_BELOW, HWC_ABOVE, smoothness
from cifar_small.errors import DataError, UserError

MEAN = (0.4914, 0.4822, 0.4465)


def smooth(count: int = 6) -> np.ndarray:
    """Images of 8x8 patches whose colors differ, so that the layout can be told."""
    patches = np.random.default_rng(0).integers(20, 236, (count, 4, 4, 3))
    return patches.repeat(8, 1).repeat(8, 2).astype(np.uint8)


IMAGES = smooth()
IDS = np.arange(6)
CHW = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))


def save(folder: Path, value: object) -> Path:
    path = folder / "test_nolabel.pkl"
    path.write_bytes(pickle.dumps(value))
    return path


def content(data: Any = IMAGES, ids: Any = IDS) -> dict[bytes, Any]:
    return {b"data": data, b"ids": ids}


def test_written_file_reads_back_and_is_the_competition_format(tmp_path: Path) -> None:
    path = tmp_path / "out.pkl"
    write_unlabelled(path, IMAGES, IDS + 7)
    raw = pickle.loads(path.read_bytes())
    assert list(raw) == [b"data", b"ids"]
    assert (raw[b"data"].shape, raw[b"data"].dtype, raw[b"ids"].dtype) == ((6, 32, 32, 3), np.uint8, np.int64)
    loaded, notes = load_unlabelled(path, classes=("a", "b"), rows=6)
    assert np.array_equal(loaded.images, IMAGES)
    assert loaded.ids.tolist() == [7, 8, 9, 10, 11, 12]
    assert loaded.labels is None
    assert loaded.classes == ("a", "b")
    assert notes == ["ids are not 0..5 in order (they span 7..12); they are written as given"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.pkl"]


def test_write_refuses_wrong_images_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected uint8"):
        write_unlabelled(tmp_path / "x.pkl", CHW, IDS)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .* is a file, not a folder"):
        write_unlabelled(tmp_path / "file" / "x.pkl", IMAGES, IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (IMAGES, None),
        (IMAGES.reshape(6, 3072), "read as HWC"),
        (CHW, None),
        (CHW.reshape(6, 3072), "read as CHW"),
        (np.asfortranarray(IMAGES), None),
    ],
    ids=["HWC", "flat HWC", "CHW", "flat CHW", "Fortran"],
)
@pytest.mark.parametrize("text_keys", [False, True])
def test_every_layout_becomes_the_same_images(tmp_path: Path, data: np.ndarray, note: str | None, text_keys: bool) -> None:
    value = {"data": data, "ids": IDS} if text_keys else content(data)
    loaded, notes = load_unlabelled(save(tmp_path, value))
    assert np.array_equal(loaded.images, IMAGES)
    assert [note in line for line in notes] == ([True] if note else []) if note else notes == []


@pytest.mark.parametrize(("data", "truth"), [(CHW.reshape(6, 32, 32, 3), "CHW"), (IMAGES.reshape(6, 3, 32, 32), "HWC")])
def test_reshaped_instead_of_transposed_is_refused_until_told(tmp_path: Path, data: np.ndarray, truth: str) -> None:
    path = save(tmp_path, content(data))
    with pytest.raises(DataError, match=rf"pixels lie as {truth} \(smoothness \d\.\d\d"):
        load_unlabelled(path)
    loaded, notes = load_unlabelled(path, layout=truth)
    assert np.array_equal(loaded.images, IMAGES)
    assert notes == []


def test_a_layout_that_contradicts_the_pixels_is_noted(tmp_path: Path) -> None:
    _, notes = load_unlabelled(save(tmp_path, content(IMAGES.reshape(6, 3072))), layout="CHW")
    assert len(notes) == 1
    assert "pixels look like HWC" in notes[0]


def test_noise_and_constant_rows_have_no_layout_to_guess(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 3072), np.uint8)
    assert CHW_BELOW < (smoothness(noise) or 0) < HWC_ABOVE
    with pytest.raises(DataError, match=r"cannot be told .* expected CHW or HWC"):
        load_unlabelled(save(tmp_path, content(noise)))
    with pytest.raises(DataError, match=r"cannot be told .*constant.* expected CHW or HWC"):
        load_unlabelled(save(tmp_path, content(np.zeros((6, 3072), np.uint8))))
    assert len(load_unlabelled(save(tmp_path, content(noise.reshape(6, 32, 32, 3))))[0]) == 6


def changed(at: tuple[int, ...], value: float, dtype: str = "f8", scale: float = 1.0) -> np.ndarray:
    data = IMAGES.astype(dtype)
    if scale != 1:
        data = data * scale
    data[at] = value
    return data


REFUSED: dict[str, tuple[Any, str]] = {
    "no data": ({b"ids": IDS, b"labels": []}, r"has 'ids', 'labels'; expected 'data' and 'ids'"),
    "no ids": ({b"data": IMAGES}, r"has 'data'; expected 'data' and 'ids'"),
    "other keys": ({"x": 1, "y": 2}, r"has 'x', 'y'; expected 'data' and 'ids'"),
    "empty dict": ({}, "has no keys"),
    "both spellings": ({b"data": IMAGES, "data": IMAGES, b"ids": IDS}, "twice, as text and as bytes"),
    "bare array": (IMAGES, r"holds a ndarray \(6, 32, 32, 3\); expected a dict"),
    "list of images": (content([1, 2]), "data is a list"),
    "3071": (content(IMAGES.reshape(6, 3072)[:, :-1]), r"shape \(6, 3071\); expected \(N, 32, 32, 3\), \(N, 3, 32, 32\) or"),
    "28x28": (content(np.zeros((6, 28, 28), np.uint8)), r"shape \(6, 28, 28\); expected"),
    "scalar": (content(np.array(3)), "no images|data is a int"),
    "empty": (content(IMAGES[:0], IDS[:0]), "no images"),
    "NaN": (content(changed((4, 0, 0, 0), np.nan)), "1 image with NaN or infinite values, first in row 4"),
    "infinite": (content(changed((2, 0, 0, 0), np.inf, "f4")), "NaN or infinite values, first in row 2"),
    "negative float": (content(changed((0, 0, 0, 0), -1.5)), r"span -1.5\.\.\d+ .*normalized"),
    "negative int": (content(changed((0, 0, 0, 0), -1, "i8")), r"int64 values span -1\.\."),
    "too large": (content(changed((0, 0, 0, 0), 256, "i4")), r"span 20\.\.256"),
    "huge": (content(changed((0, 0, 0, 0), 1e308)), r"span 20\.\.1e\+308"),
    "0/1 ints": (content((IMAGES > 128).astype("i8")), r"span 0\.\.1, which could be"),
    "0/1 floats": (content((IMAGES > 128).astype("f4")), r"span 0\.\.1, which could be"),
    "just over 1": (content(changed((0, 0, 0, 0), 1.001, "f8", 1 / 255)), "which could be 0..1 or 0..255"),
    "booleans": (content(IMAGES > 128), "data is bool"),
    "duplicate ids": (content(ids=np.array([3, 1, 1, 2, 3, 0])), r"2 duplicate ids, first \[1, 3\]"),
    "fewer ids": (content(ids=IDS[:4]), "4 ids for 6 images"),
    "more ids": (content(ids=np.arange(9)), "9 ids for 6 images"),
    "words as ids": (content(ids=["a.png"] * 6), "id 'a.png' in row 0 is not a whole number"),
    "padded ids": (content(ids=[f"{i:05d}" for i in range(6)]), "id '00000' in row 0 is not a whole number"),
    "half ids": (content(ids=IDS + np.array([0, 0, 0, 0.5, 0, 0])), r"id '3.5' in row 3"),
    "lists as ids": (content(ids=[[i] for i in range(6)]), "id of type list in row 0 is not a whole number"),
    "an id of 200 digits": (content(ids=[10**200, 1, 2, 3, 4, 5]), "id of type int in row 0 is not a whole number"),
    "NaN id": (content(ids=np.array([0, np.nan, 2, 3, 4, 5])), "id 'nan' in row 1"),
    "boolean ids": (content(ids=[True, False, 2, 3, 4, 5]), "id 'True' in row 0"),
    "column of ids": (content(ids=IDS[:, None]), r"ids have shape \(6, 1\)"),
    "huge id": (content(ids=np.array([2**63, 1, 2, 3, 4, 5], np.uint64)), "id '9223372036854775808' in row 0"),
    "ids a dict": (content(ids={}), "ids is a dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_files_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    value, phrase = REFUSED[name]
    path = save(tmp_path, value)
    with pytest.raises(DataError, match=phrase) as caught:
        load_unlabelled(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (IMAGES.astype("i8"), "int64 values 20..235 were taken as 0..255"),
        (IMAGES.astype(">u2"), "uint16 values"),
        (IMAGES.astype("f4"), "float32 values 20..235 were taken as 0..255"),
        (IMAGES / 255, "were taken as 0..1"),
        ((IMAGES / 255).astype("f2"), "were taken as 0..1, rounded by up to 0.0"),
        (IMAGES + 0.25, "were taken as 0..255, rounded by up to 0.25"),
    ],
)
def test_other_number_types_give_the_same_pixels_and_a_note(tmp_path: Path, data: np.ndarray, note: str) -> None:
    loaded, notes = load_unlabelled(save(tmp_path, content(data)))
    assert np.array_equal(loaded.images, IMAGES)
    assert len(notes) == 1
    assert note in notes[0].replace(">u2", "uint16")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]),
        (np.array([10.0, 11, 12, 13, 14, 15]), [10, 11, 12, 13, 14, 15]),
        ([b"3", b"9", b"1", b"0", b"4", b"7"], [3, 9, 1, 0, 4, 7]),
        ([7, 0, 1, 2, 3, 2**62], [7, 0, 1, 2, 3, 2**62]),
    ],
)
def test_ids_keep_the_files_order_and_values(tmp_path: Path, ids: Any, expected: list[int]) -> None:
    loaded, notes = load_unlabelled(save(tmp_path, content(ids=ids)))
    assert loaded.ids.tolist() == expected
    assert np.array_equal(loaded.images, IMAGES)
    assert any("written as given" in note for note in notes)


def test_another_number_of_rows_needs_a_flag(tmp_path: Path) -> None:
    path = save(tmp_path, content())
    with pytest.raises(DataError, match=r"has 6 images; expected 10,000$") as caught:
        load_unlabelled(path, rows=10_000)
    assert caught.value.remedy == ("allow_rows=6", "config")
    assert len(load_unlabelled(path, rows=6)[0]) == 6


def test_odd_pictures_are_noted(tmp_path: Path) -> None:
    data = IMAGES.copy()
    data[1], data[3], data[4] = 0, 9, data[0]
    _, notes = load_unlabelled(save(tmp_path, content(data, IDS[::-1])))
    assert "1 image all zero, first ids [4]" in notes
    assert "1 image of one value throughout, first ids [2]" in notes
    assert "1 exact duplicate of earlier images, first ids 1 = 5" in notes
    _, notes = load_unlabelled(save(tmp_path, content((IMAGES > 128).astype(np.uint8))))
    assert any("largest pixel value is 1 of 255" in note for note in notes)


def test_npz_file(tmp_path: Path) -> None:
    for key in ("data", "images"):
        np.savez(tmp_path / f"{key}.npz", **{key: CHW, "ids": IDS})
        loaded, _ = load_unlabelled(tmp_path / f"{key}.npz")
        assert np.array_equal(loaded.images, IMAGES)
    np.savez(tmp_path / "labelled.npz", images=IMAGES, labels=np.zeros(len(IMAGES)))  # as CIFAR-10.2 is
    loaded, notes = load_unlabelled(tmp_path / "labelled.npz")
    assert loaded.ids.tolist() == [*range(len(IMAGES))]
    assert "the file has no ids: its images were numbered from 0 in its order" in notes
    with pytest.raises(DataError, match=r"id '007' in row 0 is not a whole number; .*store numbers, and set rules\.ids"):
        load_unlabelled(save(tmp_path, {**content(), b"ids": ["007"] * len(IMAGES)}))
    np.savez(tmp_path / "other.npz", pictures=IMAGES)
    with pytest.raises(DataError, match="has 'pictures'; expected 'data' or 'images' and 'ids'"):
        load_unlabelled(tmp_path / "other.npz")
    np.savez(tmp_path / "object.npz", data=np.array([{}]), ids=IDS)
    with pytest.raises(DataError, match="Python objects"):
        load_unlabelled(tmp_path / "object.npz")
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"not a whole \.npz"):
        load_unlabelled(tmp_path / "damaged.npz")


def test_labels_in_an_unlabelled_file_are_noted(tmp_path: Path) -> None:
    _, notes = load_unlabelled(save(tmp_path, {**content(), b"fine_labels": [0] * len(IMAGES), b"filenames": ["x"]}))
    assert any("the file also holds 'fine_labels', 'filenames', which are not read" in note for note in notes)
    _, notes = load_unlabelled(save(tmp_path, {**content(), b"filenames": ["x"]}))
    assert not any("also holds" in note for note in notes)


def test_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    loaded, notes = load_unlabelled(tmp_path / "images.npy")
    assert np.array_equal(loaded.images, IMAGES)
    assert loaded.ids.tolist() == list(range(len(IMAGES)))
    assert "the file has no ids: its images were numbered from 0 in its order" in notes
    np.save(tmp_path / "object.npy", np.array([{}]))
    with pytest.raises(DataError, match=r"object\.npy holds Python objects"):
        load_unlabelled(tmp_path / "object.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "images.npy").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut\.npy declares uint8 .* bytes, but has"):
        load_unlabelled(tmp_path / "cut.npy")
    with pytest.raises(DataError, match=r"absent\.npy"):
        load_unlabelled(tmp_path / "absent.npy")


def test_folder_of_pictures_is_sorted_by_number(tmp_path: Path) -> None:
    for image, name in zip(IMAGES, ("10", "9", "002", "33", "1", "100"), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").touch()
    loaded, notes = load_unlabelled(tmp_path)
    assert loaded.ids.tolist() == [1, 2, 9, 10, 33, 100]
    assert np.array_equal(loaded.images, IMAGES[[4, 2, 1, 0, 3, 5]])
    assert any("because they are no pictures" in note and note.endswith(": 1 entry") for note in notes)
    assert any("1 name with zeros in front, such as 002.png" in note for note in notes)
    Image.fromarray(IMAGES[0]).save(tmp_path / "01.png")
    with pytest.raises(DataError, match=r"1 duplicate ids, first \[1\]"):
        load_unlabelled(tmp_path)
    Image.fromarray(IMAGES[0]).save(tmp_path / "cat.png")
    with pytest.raises(DataError, match=r"cat\.png: is not named by a number"):
        load_unlabelled(tmp_path)


def test_an_id_below_0_is_refused_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"id -1 in row 2 is below 0; expected ids such as 0, 1, 2"):
        load_unlabelled(save(tmp_path, content(ids=[5, 4, -1, 3, 2, 1])))


def test_pictures_with_a_text_before_their_numbers_are_read_by_these(tmp_path: Path) -> None:
    for image, name in zip(IMAGES, ("10", "9", "2", "33", "1", "100"), strict=True):
        Image.fromarray(image).save(tmp_path / f"img_{name}.png")
    (tmp_path / "._img_1.png").write_bytes(b"of another system")
    loaded, notes = load_unlabelled(tmp_path)
    assert loaded.ids.tolist() == [1, 2, 9, 10, 33, 100]
    assert np.array_equal(loaded.images, IMAGES[[4, 2, 1, 0, 3, 5]])
    assert any("each name begins with 'img_', which the ids leave out" in note for note in notes)
    assert not any("no pictures" in note for note in notes)
    Image.fromarray(IMAGES[0]).save(tmp_path / "pic_11.png")
    with pytest.raises(DataError, match=r"img_.*\.png: is not named by a number; expected names such as 0\.png or img_0\.png"):
        load_unlabelled(tmp_path)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    for name in ("absent.pkl", "absent.npz"):
        with pytest.raises(DataError, match="no such file"):
            load_unlabelled(tmp_path / name)
    for name in ("absent.npy", "absent.bin", "absent.parquet"):
        with pytest.raises(DataError, match="does not exist; expected the competition's unlabelled file"):
            load_unlabelled(tmp_path / name)
    with pytest.raises(DataError, match=r"has no \.png, \.jpg, \.jpeg, \.webp files"):
        load_unlabelled(tmp_path)


def colored(change: Callable[[np.ndarray], np.ndarray], count: int = 200) -> Images:
    generator = np.random.default_rng(1)
    level = generator.normal(0, 25, (count, 1, 1, 1)) + np.array(MEAN) * 255 + generator.normal(0, 6, (count, 1, 1, 3))
    images = change(np.clip(np.broadcast_to(level, (count, 32, 32, 3)), 0, 255)).astype(np.uint8)
    return Images(np.ascontiguousarray(images), None, np.arange(count), (), "x")


def test_color_notes_say_swapped_or_far_and_otherwise_nothing() -> None:
    assert color_notes(colored(lambda x: x), MEAN) == []
    assert color_notes(colored(lambda x: x + 5), MEAN) == []  # as far off as a real competition's file
    swapped = color_notes(colored(lambda x: x[..., ::-1]), MEAN)
    assert len(swapped) == 1
    assert "red and blue look swapped" in swapped[0]
    dark = color_notes(colored(lambda x: x / 4), MEAN)
    assert len(dark) == 1
    assert "in training 0.491, 0.482, 0.447" in dark[0]
    assert color_notes(colored(lambda x: x[..., ::-1]), (0.5, 0.5, 0.5)) == []


@pytest.mark.real_data
def test_real_images_tell_their_layout_one_by_one(tmp_path: Path) -> None:
    if not os.environ.get("CIFAR_SMALL_DATA"):
        pytest.skip("CIFAR_SMALL_DATA is not set")
    images = load_test(Data())
    hwc = images.images[:2000]
    chw = np.ascontiguousarray(hwc.transpose(0, 3, 1, 2))
    assert min(smoothness(image.reshape(1, 3072)) or 0 for image in hwc) > HWC_ABOVE
    assert max(smoothness(image.reshape(1, 3072)) or 9 for image in chw) < CHW_BELOW
    mean = (0.4914, 0.48216, 0.44653)
    assert color_notes(images, mean) == []
    swapped = replace(images, images=np.ascontiguousarray(images.images[..., ::-1]))
    assert "swapped" in color_notes(swapped, mean)[0]
