"""The names of unlabelled pictures: a number within a text that all share; of other names the way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_small.data import load_unlabelled
from cifar_small.errors import DataError
from tests.data.test_orientation import scenes

SCENES = scenes(8, 0)


def unlabelled(place: Path, names: list[str]) -> Path:
    place.mkdir()
    for name, image in zip(names, SCENES, strict=False):
        Image.fromarray(image).save(place / f"{name}.png")
    return place


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ("img (", ")", "each name begins with 'img (' and ends with ')', which the ids leave out"),
        ("", "_test", "each name ends with '_test', which the ids leave out"),
        ("a_0_", "", "each name begins with 'a_0_', which the ids leave out"),
        ("", "", ""),
    ],
)
@pytest.mark.parametrize("ids", [[10, 20, 30], [2, 12], [7, 71, 17]])
def test_what_all_names_end_with_is_no_part_of_their_number(
    tmp_path: Path, ids: list[int], before: str, after: str, note: str
) -> None:
    images, notes = load_unlabelled(unlabelled(tmp_path / "dt", [f"{before}{number}{after}" for number in ids]))
    assert images.ids.tolist() == sorted(ids)
    assert np.array_equal(images.images, SCENES[np.argsort(ids)])
    assert [one.partition(";")[0] for one in notes if "leave out" in one] == ([note] if note else [])


@pytest.mark.parametrize(
    "names",
    [
        ["9f3c", "0b7d", "77aa"],
        ["img_0_0", "img_0_1", "img_1_0"],
        ["cat_1", "dog_1", "dog_2"],
        ["img (1)", "img"],
    ],
)
def test_names_that_are_no_numbers_are_numbered_by_the_advised_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    place = unlabelled(tmp_path / "dt", names)
    for name in ("readme.txt", "._0.png"):
        (place / name).touch()
    with pytest.raises(DataError, match=r"is not named by a number; expected names such as 0\.png or img_0\.png") as caught:
        load_unlabelled(place)
    monkeypatch.chdir(tmp_path)
    exec(" ".join(str(caught.value).split()).partition("keep a list: ")[2], {})
    images, _ = load_unlabelled(tmp_path / "numbered")
    listed = Path("names.txt").read_text().splitlines()
    assert listed == sorted(f"{name}.png" for name in names)
    assert images.ids.tolist() == [*range(len(names))]
    assert np.array_equal(images.images, SCENES[[names.index(name.removesuffix(".png")) for name in listed]])
    Path("submission.csv").write_text("".join(["ID,Labels\n", *(f"{number},{number % 2}\n" for number in images.ids)]))
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    rows = Path("named.csv").read_text().splitlines()
    assert rows == ["ID,Labels", *(f"{name},{at % 2}" for at, name in enumerate(listed))]


def test_a_folder_that_holds_the_folder_of_pictures_names_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"files but the folder images/; .*; if the pictures are in images/, name that folder"):
        load_unlabelled(tmp_path)
    (tmp_path / "images" / "0.tif").touch()
    with pytest.raises(DataError, match=r"images: has 1 picture of the format TIFF, first 0\.tif"):
        load_unlabelled(tmp_path / "images")
