"""Labelled sources: the official batches as a folder or archive, digits, .npz files, folders of PNGs, and the download."""

from __future__ import annotations

import hashlib
import http.server
import io
import math
import os
import pickle
import shutil
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cifar_small.config.schema import Data
from cifar_small.data import Images, cifar, class_names, load_test, load_train
from cifar_small.data.datamodule import channel_moments
from cifar_small.data.download import _SameScheme, download
from cifar_small.data.sources import classes_at_hand, has_test_part
from cifar_small.data.test_split import count_copies, is_official, more_copies_than_chance
from cifar_small.errors import DataError

C10 = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
FINE = [f"fine{number:02d}".encode() for number in range(100)]
COARSE = [f"coarse{number:02d}".encode() for number in range(20)]


@pytest.fixture(autouse=True)
def _no_own_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("real_data"):
        return
    monkeypatch.delenv("CIFAR_SMALL_DATA", raising=False)
    monkeypatch.setattr(cifar, "_CACHE", tmp_path / "cache")


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def cifar10(**changes: Any) -> dict[str, Any]:
    """Four images a batch, the official names; `changes` replace files or keys of data_batch_2."""
    files: dict[str, Any] = {"batches.meta": {b"label_names": C10}}
    for seed, name in enumerate(["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]):
        files[name] = {b"data": pixels(4, seed), b"labels": [seed, 1, 2, 9]}
    files["data_batch_2"] |= {key.encode(): value for key, value in changes.items()}
    return files


def cifar100() -> dict[str, Any]:
    files: dict[str, Any] = {"meta": {b"fine_label_names": FINE, b"coarse_label_names": COARSE}}
    for seed, name in enumerate(["train", "test"]):
        files[name] = {b"data": pixels(3, seed), b"fine_labels": [0, 50, 99], b"coarse_labels": [3, 19, 0]}
    return files


def unpacked(folder: Path, files: dict[str, Any], name: str = "cifar-10-batches-py") -> Path:
    (folder / name).mkdir(parents=True)
    for file, value in files.items():
        (folder / name / file).write_bytes(pickle.dumps(value, 2))
    return folder


def packed(path: Path, files: dict[str, Any], extra: list[tuple[tarfile.TarInfo, bytes]] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for info, raw in extra or []:
            archive.addfile(info, io.BytesIO(raw))
        for file, value in files.items():
            raw = pickle.dumps(value, 2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{file}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def test_cifar10_is_found_in_every_place_and_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = unpacked(tmp_path / "unpacked", cifar10())
    archive = packed(tmp_path / "packed" / "cifar-10-python.tar.gz", cifar10())
    expected = np.concatenate([pixels(4, seed) for seed in range(5)]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for place in (root, root / "cifar-10-batches-py", archive, archive.parent):
        for given in (place, None):
            monkeypatch.setenv("CIFAR_SMALL_DATA", str(place if given is None else tmp_path))
            train = load_train(Data(root=given and str(given)))
            assert np.array_equal(train.images, expected)
            assert train.labels is not None
            assert train.labels.tolist() == [n for seed in range(5) for n in (seed, 1, 2, 9)]
            assert train.ids.tolist() == list(range(20))
            assert train.classes[:2] == ("airplane", "automobile")
            assert train.source == "cifar10 train"
    test = load_test(Data(root=str(root)))
    assert (len(test), test.source, test.images[3, 5, 7].tolist()) == (
        4,
        "cifar10 test",
        pixels(4, 5)[3, [167, 1191, 2215]].tolist(),
    )
    assert sorted(entry.name for entry in archive.parent.iterdir()) == ["cifar-10-python.tar.gz"]  # nothing was extracted


def test_fine_and_coarse_labels_are_chosen_by_name(tmp_path: Path) -> None:
    root = str(unpacked(tmp_path, cifar100(), "cifar-100-python"))
    fine, coarse = load_train(Data(source="cifar100", root=root)), load_test(Data(source="cifar100_coarse", root=root))
    assert fine.labels is not None
    assert coarse.labels is not None
    assert (fine.labels.tolist(), len(fine.classes), fine.classes[99]) == ([0, 50, 99], 100, "fine99")
    assert (coarse.labels.tolist(), len(coarse.classes), coarse.source) == ([3, 19, 0], 20, "cifar100_coarse test")


def test_fine_labels_under_the_coarse_name_are_refused(tmp_path: Path) -> None:
    files = cifar100()
    files["train"][b"coarse_labels"] = files["train"][b"fine_labels"]
    root = str(unpacked(tmp_path, files, "cifar-100-python"))
    with pytest.raises(DataError, match=r"labels span 0\.\.99; expected 0\.\.19 \(20 classes\)"):
        load_train(Data(source="cifar100_coarse", root=root))


def test_class_count_is_the_sources(tmp_path: Path) -> None:
    files = cifar100()
    files["meta"][b"coarse_label_names"] = FINE
    with pytest.raises(DataError, match="names 100 classes; cifar100_coarse has 20"):
        load_train(Data(source="cifar100_coarse", root=str(unpacked(tmp_path, files, "cifar-100-python"))))


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"data": pixels(4, 1)[:, :-1]}, r"data_batch_2: images are uint8 \(4, 3071\); expected uint8 \(N, 3072\)"),
        ({"data": pixels(4, 1).astype(float)}, r"images are float64 \(4, 3072\)"),
        ({"labels": [1, 2, 3]}, "data_batch_2: 3 labels for 4 images"),
        ({"labels": [1, 2, 3, 10]}, r"labels span 0\.\.10; expected 0\.\.9 \(10 classes\)"),
        ({"labels": [1, 2, 3, -1]}, r"labels span -1\.\.9"),
        ({"labels": [1, 2, 3, 0.5]}, "labels are float64 .*whole numbers"),
        ({"labels": [1, 2, 3, [4]]}, "labels are not one list"),
        ({"labels": None}, "'labels' is a NoneType"),
    ],
)
def test_batches_that_do_not_fit_together_are_refused(tmp_path: Path, changes: dict[str, Any], phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        load_train(Data(root=str(unpacked(tmp_path, cifar10(**changes)))))


def test_missing_keys_files_and_images(tmp_path: Path) -> None:
    files = cifar10()
    files["data_batch_3"] = {b"data": pixels(4, 1), b"fine_labels": [0] * 4}
    with pytest.raises(DataError, match="data_batch_3: has no 'labels', only data, fine_labels"):
        load_train(Data(root=str(unpacked(tmp_path / "a", files))))
    files = cifar10()
    del files["data_batch_4"]
    with pytest.raises(DataError, match="data_batch_4: there is no such file"):
        load_train(Data(root=str(unpacked(tmp_path / "b", files))))
    files["test_batch"] = {b"data": pixels(4, 1)[:0], b"labels": []}
    with pytest.raises(DataError, match="cifar10 test: no images"):
        load_test(Data(root=str(unpacked(tmp_path / "c", files))))
    (tmp_path / "absent").mkdir()
    with pytest.raises(DataError, match=r"has neither cifar-10-batches-py/ nor cifar-10-python\.tar\.gz; .*CIFAR_SMALL_DATA"):
        load_train(Data(root=str(tmp_path / "absent")))


@pytest.mark.parametrize("source", ["cifar10", "npz", "folder"])
def test_a_place_that_is_not_there_is_told_with_its_setting(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative one, as a run's config may name, with the folder from which it is looked for."""
    monkeypatch.chdir(tmp_path)
    advice = f"give the place of the {source} data as data.root or CIFAR_SMALL_DATA"
    for root, found in (
        ("mine/all", f"data.root mine/all: there is no such file or folder in {tmp_path}, the working folder, from which this"),
        (str(tmp_path / "gone"), f"data.root {tmp_path / 'gone'}: there is no such file or folder; {advice}"),
    ):
        with pytest.raises(DataError) as caught:
            load_train(Data(source=source, root=root))
        assert str(caught.value).startswith(found)
        assert str(caught.value).endswith(advice)
        assert caught.value.remedy == ("data_root",)
    monkeypatch.setenv("CIFAR_SMALL_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"^CIFAR_SMALL_DATA .*gone: there is no such file or folder; give"):
        load_train(Data(source=source))


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


UNSAFE = {
    "parent": (info("../outside"), "'../outside' leads out of its folder"),
    "inner parent": (info("cifar-10-batches-py/../../outside"), "leads out of its folder"),
    "absolute": (info("/tmp/outside"), "leads out of its folder"),
    "symlink": (info("cifar-10-batches-py/data_batch_1", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a special file"),
    "hard link": (info("cifar-10-batches-py/data_batch_1", tarfile.LNKTYPE, "batches.meta"), "is a link or a special file"),
    "fifo": (info("cifar-10-batches-py/data_batch_1", tarfile.FIFOTYPE), "is a link or a special file"),
    "device": (info("cifar-10-batches-py/x", tarfile.CHRTYPE), "is a link or a special file"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_members_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    member, phrase = UNSAFE[name]
    archive = packed(tmp_path / "in" / "cifar-10-python.tar.gz", cifar10(), [(member, b"")])
    with pytest.raises(DataError, match=phrase) as caught:
        load_train(Data(root=str(archive.parent)))
    assert str(caught.value).startswith(str(archive))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cifar-10-python.tar.gz", "in"]


def test_oversized_members_and_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path / "cifar-10-python.tar.gz", cifar10())
    monkeypatch.setattr(cifar, "_MEMBER_BYTES", 5000)
    with pytest.raises(DataError, match=r"data_batch_1 has [\d,]+ bytes; expected at most 5,000"):
        load_train(Data(root=str(archive)))
    monkeypatch.setattr(cifar, "_ARCHIVE_BYTES", 60_000)
    monkeypatch.setattr(cifar, "_MEMBER_BYTES", 10**9)
    with pytest.raises(DataError, match="unpacks to more than 60,000 bytes"):
        load_train(Data(root=str(archive)))


def test_damaged_and_incomplete_archives_are_refused(tmp_path: Path) -> None:
    files = cifar10()
    archive = packed(tmp_path / "cifar-10-python.tar.gz", files)
    raw = archive.read_bytes()
    archive.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"not a whole \.tar\.gz archive"):
        load_train(Data(root=str(archive)))
    archive.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"not a whole \.tar\.gz archive"):
        load_train(Data(root=str(archive)))
    del files["data_batch_5"]
    packed(archive, files)
    with pytest.raises(DataError, match="has no cifar-10-batches-py/data_batch_5"):
        load_train(Data(root=str(archive)))
    twice = (info("cifar-10-batches-py/batches.meta", size=len(pickle.dumps({}))), pickle.dumps({}))
    packed(archive, cifar10(), [twice])
    with pytest.raises(DataError, match=r"has cifar-10-batches-py/batches\.meta twice"):
        load_train(Data(root=str(archive)))


def test_without_a_root_the_official_archive_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(url: str, md5: str, target: Path) -> None:
        calls.append((url, md5, target))
        packed(target, cifar10())

    monkeypatch.setattr(cifar, "download", fetch)
    assert len(load_train(Data())) == 20
    assert len(load_test(Data())) == 4
    target = tmp_path / "cache" / "cifar-10-python.tar.gz"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert calls == [(url, "c58f30108f718f92721af3b95e74349a", target)]


def test_digits_are_split_once_and_enlarged_smoothly() -> None:
    train, test = load_train(Data(source="digits")), load_test(Data(source="digits"))
    assert (len(train), len(test), train.classes) == (1437, 360, tuple("0123456789"))
    assert train.labels is not None
    assert test.labels is not None
    assert np.bincount(test.labels).min() >= 34
    assert {image.tobytes() for image in train.images}.isdisjoint(image.tobytes() for image in test.images)
    assert (train.images.max(), train.images.min()) == (255, 0)
    assert (train.images[..., 0] == train.images[..., 2]).all()
    steps = np.abs(np.diff(train.images[..., 0].astype(int), axis=2))
    assert steps.max() < 128  # copies of pixels would step by up to 255
    assert load_test(Data(source="digits")).sha256 == test.sha256


def test_digits_are_those_that_scikit_learn_loads() -> None:
    theirs = load_digits()
    small = [Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)) for image in theirs.images]
    enlarged = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).tobytes() for image in small]
    parts = [load_train(Data(source="digits")), load_test(Data(source="digits"))]
    ours = [
        (image[..., 0].tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(ours) == sorted(zip(enlarged, theirs.target.tolist(), strict=True))


def npz(path: Path, **changes: Any) -> Path:
    images = pixels(6, 0).reshape(6, 32, 32, 3)
    arrays = {"train_images": images, "train_labels": np.array([0, 1, 2, 0, 1, 2], "u1"), "test_images": images[:2]}
    arrays |= {"test_labels": np.array([2, 0]), "classes": np.array(["ant", "bee", "cow"])} | changes
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_npz_source(tmp_path: Path) -> None:
    path = str(npz(tmp_path / "own.npz"))
    train, test = load_train(Data(source="npz", root=path)), load_test(Data(source="npz", root=path))
    assert train.labels is not None
    assert train.labels.dtype == np.int64
    assert (train.labels.tolist(), train.classes, train.ids.tolist()) == (
        [0, 1, 2, 0, 1, 2],
        ("ant", "bee", "cow"),
        [*range(6)],
    )
    assert np.array_equal(test.images, pixels(6, 0).reshape(6, 32, 32, 3)[:2])


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"train_labels": np.array([0, 1, 2, 0, 1, 3])}, r"labels span 0\.\.3; expected 0\.\.2"),
        ({"train_labels": np.array([0, 1])}, "2 labels for 6 images"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 0.5])}, "labels are float64"),
        (
            {"train_images": np.zeros((6, 28, 28, 3), np.uint8)},
            r"images are uint8 \(6, 28, 28, 3\); expected uint8 \(N, 32, 32, 3\)",
        ),
        ({"train_images": np.zeros((0, 32, 32, 3), np.uint8), "train_labels": np.zeros(0, int)}, "no images"),
        ({"train_labels": None}, "has no train_labels, only classes, test_images"),
        ({"classes": np.array(["ant", 1, None], object)}, "Python objects"),
        ({"classes": np.arange(3)}, "classes is int64"),
        ({"train_labels": np.zeros(6, int), "classes": np.array(["ant"])}, "has one class, 'ant'; expected two or more"),
    ],
)
def test_wrong_npz_files_are_refused(tmp_path: Path, changes: dict[str, Any], phrase: str) -> None:
    with pytest.raises(DataError, match=phrase) as caught:
        load_train(Data(source="npz", root=str(npz(tmp_path / "own.npz", **changes))))
    assert "own.npz" in str(caught.value)


def test_npz_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32, 3)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", header.getvalue() + bytes(50))
    with pytest.raises(DataError, match=r"train_images\.npy declares uint8 \(1099511627776, .*but has 50"):
        load_train(Data(source="npz", root=str(path)))


def folder(root: Path, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (32, 32), (number, index, 200)).save(root / split / name / f"{index}.png")
    return root


def test_folder_source_converts_other_pixel_formats(tmp_path: Path) -> None:
    root = folder(tmp_path)
    Image.new("L", (32, 32), 77).save(root / "train" / "bee" / "2.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 255)).save(root / "train" / "bee" / "3.png")
    Image.new("RGB", (32, 32), (9, 8, 7)).quantize(4).save(root / "train" / "bee" / "4.png")
    train = load_train(Data(source="folder", root=str(root)))
    assert train.classes == ("ant", "bee")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert train.images[:, 0, 0].tolist() == [
        [0, 0, 200],
        [0, 1, 200],
        [1, 0, 200],
        [1, 1, 200],
        [77, 77, 77],
        [1, 2, 3],
        [9, 8, 7],
    ]
    assert len(load_test(Data(source="folder", root=str(root)))) == 4


def test_what_is_no_npz_or_png_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"data\.npz: is a git-lfs pointer; run `git lfs pull`"):
        load_train(Data(source="npz", root=str(tmp_path / "data.npz")))
    (tmp_path / "data.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64")
    with pytest.raises(DataError, match=r"data\.mat: is a MATLAB file; read it with scipy\.io\.loadmat and save"):
        load_train(Data(source="npz", root=str(tmp_path / "data.mat")))


def test_folders_named_by_numbers_stand_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    root = folder(tmp_path, tuple(str(number) for number in range(12)))
    train = load_train(Data(source="folder", root=str(root)))
    assert train.classes == tuple(str(number) for number in range(12))
    assert train.labels is not None
    assert train.labels.tolist() == train.images[:, 0, 0, 0].tolist() == sorted([*range(12)] * 2)
    for split in ("train", "test"):
        (root / split / "01").mkdir()
    with pytest.raises(DataError, match="two class folders have the same number"):
        load_train(Data(source="folder", root=str(root)))


def test_training_needs_no_test_folder(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert has_test_part(Data(source="folder", root=str(root)))
    shutil.rmtree(root / "test")
    assert not has_test_part(Data(source="folder", root=str(root)))
    assert len(load_train(Data(source="folder", root=str(root)))) == 4
    with pytest.raises(DataError, match=r"test: there is no such folder; .* where accuracy on test is wanted"):
        load_test(Data(source="folder", root=str(root)))


def test_arrays_without_a_test_part(tmp_path: Path) -> None:
    arrays = {"train_labels": np.array([0, 1]), "classes": np.array(["ant", "bee"])}
    np.savez(tmp_path / "own.npz", **arrays)
    (tmp_path / "own").mkdir()
    np.save(tmp_path / "own" / "train_labels.npy", arrays["train_labels"])
    places = [Data(source="npz", root=str(tmp_path / name)) for name in ("own.npz", "own")]
    assert [has_test_part(data) for data in places] == [False, False]
    assert [classes_at_hand(data) for data in places] == [2, 2]
    np.savez(tmp_path / "own.npz", test_labels=np.array([0]), **arrays)
    np.save(tmp_path / "own" / "y_test.npy", np.array([0]))
    assert [has_test_part(data) for data in places] == [True, True]
    np.savez(tmp_path / "own.npz", classes=np.array("ant"))
    assert classes_at_hand(places[0]) is None
    assert classes_at_hand(Data(source="npz", root=str(tmp_path / "gone.npz"))) is None


def test_training_needs_no_labels_in_the_test_folder(tmp_path: Path) -> None:
    root = folder(tmp_path)
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    Image.new("RGB", (32, 32)).save(root / "test" / "1.png")
    data = Data(source="folder", root=str(root))
    assert not has_test_part(data)
    assert (len(load_train(data)), len(class_names(data))) == (4, 2)
    with pytest.raises(DataError, match=r"test: has no class folders, so its pictures have no labels; expected test/<class>/"):
        load_test(data)


def test_the_order_of_classes_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(folder(tmp_path, ("bird", "car", "plane")))
    with monkeypatch.context() as patched:  # names need no picture
        patched.setattr("cifar_small.data.pictures.read_picture", lambda *_: pytest.fail("a picture was decoded"))
        assert class_names(Data(source="folder", root=root)) == ("bird", "car", "plane")
    data = Data(source="folder", root=root, classes=("plane", "car", "bird"))
    train = load_train(data)
    assert train.labels is not None
    assert (train.classes, class_names(data)) == (("plane", "car", "bird"),) * 2
    assert train.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert train.images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    for wrong in (("plane", "car"), ("plane", "car", "bird", "bird"), ("plane", "car", "dog")):
        with pytest.raises(DataError, match=r"data\.classes does not name its 3 classes once each"):
            load_train(Data(source="folder", root=root, classes=wrong))


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    data = Data(source="folder", root=str(root))
    Image.new("1", (8200, 8200)).save(root / "train" / "bee" / "large.png")
    with pytest.raises(DataError, match=r"large\.png: is 8200x8200 pixels; expected at most 67,108,864 in all"):
        load_train(data)
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(root / "train" / "bee" / "large.png")
    with pytest.raises(DataError, match=r"large\.png: has pixel format I;16"):
        load_train(data)
    (root / "train" / "bee" / "large.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"large\.png: is not a readable picture"):
        load_train(data)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(root / "train" / "bee" / "large.png")
    (root / "train" / "bee" / "large.png").write_bytes((root / "train" / "bee" / "large.png").read_bytes()[:300])
    with pytest.raises(DataError, match=r"large\.png: is not a readable picture \(OSError: .*truncated"):
        load_train(data)
    (root / "test" / "cow").mkdir()
    with pytest.raises(DataError, match=r"train and test differ in their class folders \(cow\)"):
        load_train(data)
    (tmp_path / "absent").mkdir()
    with pytest.raises(DataError, match=r"absent.train: there is no such folder; expected train/<class>"):
        load_train(Data(source="folder", root=str(tmp_path / "absent")))
    with pytest.raises(DataError, match=r"set data\.root or CIFAR_SMALL_DATA"):
        load_train(Data(source="folder"))


CONTENT = bytes(range(256)) * 2000


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + (self.path == "/cut")))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_good_download_is_put_in_place(tmp_path: Path, server: str) -> None:
    target = tmp_path / "new" / "file.tar.gz"
    download(f"{server}/file", hashlib.md5(CONTENT).hexdigest(), target, allow_http=True)
    assert target.read_bytes() == CONTENT
    assert [entry.name for entry in target.parent.iterdir()] == ["file.tar.gz"]


@pytest.mark.parametrize(
    ("path", "phrase"),
    [
        ("/file", rf"md5 is {hashlib.md5(CONTENT).hexdigest()}, expected 0123; got 512,000 bytes starting with b'.x00.x01"),
        ("/absent", r"cannot download .*Not Found.*put it at .*file\.tar\.gz.*CIFAR_SMALL_DATA"),
        ("/cut", "cannot download .*512,000"),
    ],
)
def test_failed_download_leaves_what_was_there(tmp_path: Path, server: str, path: str, phrase: str) -> None:
    target = tmp_path / "file.tar.gz"
    target.write_bytes(b"before")
    with pytest.raises(DataError, match=phrase):
        download(server + path, "0123", target, allow_http=True)
    assert target.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.tar.gz"]


def test_too_large_download_is_stopped(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_small.data.download.MAX_BYTES", 300_000)
    with pytest.raises(DataError, match="sends more than 300,000 bytes"):
        download(f"{server}/file", "0123", tmp_path / "file", allow_http=True)
    assert not list(tmp_path.iterdir())


def test_offline_is_one_line_with_address_path_and_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError(OSError("Name or service not known"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    monkeypatch.setattr(cifar, "_CACHE", tmp_path)
    with pytest.raises(DataError) as caught:
        load_train(Data())
    message = str(caught.value)
    for part in (
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        str(tmp_path / "cifar-10-python.tar.gz"),
        "CIFAR_SMALL_DATA",
    ):
        assert part in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x"])
def test_only_https_is_downloaded(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="expected an https:// address"):
        download(url, "0123", tmp_path / "x")


def test_a_redirect_away_from_https_is_refused() -> None:
    handler, request = _SameScheme(), urllib.request.Request("https://example.org/x")
    headers: Any = {}
    with pytest.raises(urllib.error.URLError, match="not https"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", headers, "http://example.org/x")
    followed = handler.redirect_request(request, io.BytesIO(), 302, "Found", headers, "https://example.org/y")
    assert followed is not None
    assert followed.full_url == "https://example.org/y"


def real(folder: str) -> None:
    root = os.environ.get("CIFAR_SMALL_DATA")
    if not root or not (Path(root) / folder).is_dir():
        pytest.skip(f"no {folder} under CIFAR_SMALL_DATA")


def test_moments_are_exact_for_as_many_pixels_as_there_are() -> None:
    """numpy's mean of float32 images stops at 2^24 over the count: 0.96 here, 0.33 for all of CIFAR-10."""
    images = np.full((17_000, 32, 32, 3), 255, np.uint8)
    images[:170] = 0
    mean, std = channel_moments(Images(images, None, np.arange(len(images)), (), "white"))
    assert mean == pytest.approx((0.99,) * 3, abs=1e-12)
    assert std == pytest.approx((math.sqrt(0.99 * 0.01),) * 3, abs=1e-9)


@pytest.mark.real_data
def test_real_cifar10_is_not_as_even_as_it_looks() -> None:
    """Its five files have 935 to 1,053 images of a class, so that none is a split; one image in 89 has no color."""
    real("cifar-10-batches-py")
    train, test = load_train(Data()), load_test(Data())
    assert train.labels is not None
    counts = np.stack([np.bincount(part) for part in np.split(train.labels, 5)])
    assert (counts.min(), counts.max(), counts[4].min(), counts[4].max()) == (935, 1053, 981, 1030)
    assert (counts.sum(axis=0) == 5000).all()
    gray = [int((part.images == part.images[..., :1]).all(axis=(1, 2, 3)).sum()) for part in (train, test)]
    assert gray == [562, 106]


@pytest.mark.real_data
def test_real_cifar10_is_the_published_data() -> None:
    real("cifar-10-batches-py")
    train, test = load_train(Data()), load_test(Data())
    assert (train.images.reshape(-1, 3).mean(0) / 255).round(5).tolist() == [0.4914, 0.48216, 0.44653]
    assert train.labels is not None
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert (len(test), train.classes) == (10_000, tuple(name.decode() for name in C10))


@pytest.mark.real_data
def test_real_cifar100_has_both_label_sets() -> None:
    real("cifar-100-python")
    fine, coarse = load_test(Data(source="cifar100")), load_test(Data(source="cifar100_coarse"))
    assert fine.labels is not None
    assert coarse.labels is not None
    assert np.bincount(fine.labels).tolist() == [100] * 100
    assert np.bincount(coarse.labels).tolist() == [500] * 20
    # Every fine class lies in one coarse class, five in each.
    pairs = set(zip(fine.labels.tolist(), coarse.labels.tolist(), strict=True))
    assert len(pairs) == 100


@pytest.mark.parametrize(("images", "copies", "told"), [(400, 1, 0), (400, 4, 0), (400, 6, 6), (10_000, 10, 0), (20, 2, 2)])
def test_a_copy_or_two_in_a_small_test_part_are_chance(images: int, copies: int, told: int) -> None:
    rng = np.random.default_rng(0)
    test, train = (
        Images(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), None, np.arange(count), (), "x") for count in (images, 100)
    )
    test.images[:copies] = train.images[:copies]
    assert count_copies(test, train) == copies
    assert more_copies_than_chance(test, train) == told


@pytest.mark.real_data
@pytest.mark.parametrize("source", ["cifar10", "cifar100", "cifar100_coarse"])
def test_the_official_test_part_is_known(source: Any) -> None:
    real("cifar-10-batches-py" if source == "cifar10" else "cifar-100-python")
    train, test = load_train(Data(source=source)), load_test(Data(source=source))
    assert is_official(train.sha256, test.sha256) is True
    assert is_official(train.sha256, train.take(np.arange(len(test))).sha256) is False
    assert is_official(test.sha256, test.sha256) is None
    assert count_copies(test, train) == {"cifar10": 0}.get(source, 10)
