"""Ensembles: the mean of logits, joined by id, of members that are of the same images and really different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import NAMES, made

from cifar_small.ensemble import mean_logits
from cifar_small.errors import DataError
from cifar_small.predictions import Predictions, load_predictions


def small(logits: Any, ids: Any = (10, 11), **meta: Any) -> Predictions:
    facts = {"name": "a", "seed": 0, "parameters": 5, "images_sha256": "i", "rules": {}, "split": "submit"}
    return Predictions(np.array(ids), np.array(logits, np.float32), None, ("x", "y"), {**facts, **meta})


def test_mean_by_hand_joined_by_id() -> None:
    first = small([[1, 2], [3, 4]], [10, 11])
    second = small([[30, 10], [7, 5]], [11, 10])  # the other order
    third = small([[-2, 0.5], [0, 1]], [10, 11])
    joined = mean_logits([first, second, third])
    assert joined.ids.tolist() == [10, 11]
    assert joined.logits.dtype == np.float32
    assert joined.logits.tolist() == [[2.0, 2.5], [11.0, 5.0]]
    assert joined.predicted.tolist() == [1, 0]


def test_parameters_are_listed_and_summed() -> None:
    members = [made(seed=seed, parameters=100 + seed, val_accuracy=0.5, sha256=f"s{seed}") for seed in (1, 2, 3)]
    meta = mean_logits(members).meta
    assert meta["parameters"] == 306
    assert [member["parameters"] for member in meta["members"]] == [101, 102, 103]
    assert [member["sha256"] for member in meta["members"]] == ["s1", "s2", "s3"]
    assert meta["name"] == "mean of logits: net (seed 1), net (seed 2), net (seed 3)"
    for key in ("rules", "images_sha256", "source", "split"):
        assert meta[key] == members[0].meta[key]


def test_labels_are_kept_and_scored() -> None:
    joined = mean_logits([made([1, 2, 3], labels=[1, 2, 0], seed=1), made([1, 0, 3], labels=[1, 2, 0], seed=2)])
    assert joined.labels is not None
    assert joined.labels.tolist() == [1, 2, 0]


NOISE = hnp.arrays(np.float32, (3, 4, 2), elements=st.integers(-1000, 1000).map(float))


@settings(deadline=None, max_examples=60)
@given(NOISE, st.permutations(range(3)), st.permutations(range(4)))
def test_order_of_members_and_of_rows_does_not_matter(logits: np.ndarray, members: list[int], rows: list[int]) -> None:
    logits = logits + np.arange(3, dtype=np.float32)[:, None, None] * 4096  # so that no two are equal
    ids = np.array([3, 0, 9, 4])
    plain = mean_logits([small(one, ids) for one in logits])
    # only the first member keeps its rows: its order is the ensemble's
    shuffled = mean_logits(
        [small(logits[members[0]], ids), *(small(logits[number][rows], ids[rows]) for number in members[1:])]
    )
    assert shuffled.ids.tolist() == plain.ids.tolist()
    assert shuffled.logits.tobytes() == plain.logits.tobytes()


@settings(deadline=None, max_examples=60)
@given(NOISE)
def test_mean_lies_between_its_members_and_of_nearly_equal_ones_is_the_member(logits: np.ndarray) -> None:
    logits = logits + np.arange(3, dtype=np.float32)[:, None, None] / 1024
    joined = mean_logits([small(one, range(4)) for one in logits]).logits
    assert (joined >= logits.min(0)).all()
    assert (joined <= logits.max(0)).all()
    base = logits[0]
    near = [small(base + offset, range(4)) for offset in np.float32([-0.25, 0.25])]
    assert np.array_equal(mean_logits(near).logits, base)


def test_ensemble_of_one_or_none_is_refused() -> None:
    with pytest.raises(DataError, match="needs at least two predictions files, got 1"):
        mean_logits([made()])
    with pytest.raises(DataError, match="got 0"):
        mean_logits([])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (made(ids=[0, 1, 3], seed=2), r"b\.npz has other ids than .*a\.npz"),
        (made([3, 1], seed=2), r"b\.npz has other ids than .*a\.npz"),
        (made([3, 1, 4, 4], seed=2), r"b\.npz has other ids than .*a\.npz"),
        (made(classes=NAMES[::-1], seed=2), r"b\.npz has classes \['truck', .*the same order are needed"),
        (made(classes=(*NAMES, "extra"), seed=2), "the same order are needed"),
        (made(seed=2, images_sha256="0" * 64), r"b\.npz and .*a\.npz differ in images_sha256"),
        (made(seed=2, rules={"max_params": 7}), r"b\.npz and .*a\.npz differ in rules"),
        (made(seed=1), r"b\.npz and .*a\.npz are of the same weights; leave one out"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(second: Predictions, message: str) -> None:
    first = made(seed=1, file="a.npz")
    second.meta["file"] = "b.npz"
    with pytest.raises(DataError, match=message):
        mean_logits([first, second])


def test_a_duplicate_is_found_among_many() -> None:
    members = [made(seed=seed, file=f"{seed}.npz") for seed in (1, 2, 3, 2)]
    with pytest.raises(DataError, match=r"2\.npz and .*2\.npz are of the same weights"):
        mean_logits(members)


def test_a_duplicate_in_another_order_is_found() -> None:
    one = made(seed=1)
    rows = np.array([2, 0, 1])
    turned = Predictions(one.ids[rows], one.logits[rows], None, one.classes, one.meta)
    with pytest.raises(DataError, match="of the same weights"):
        mean_logits([one, turned])


def test_members_with_other_labels_are_refused() -> None:
    with pytest.raises(DataError, match="labels"):
        mean_logits([made(labels=[1, 2, 3], seed=1), made(labels=[3, 2, 1], seed=2)])


def test_a_member_with_nan_cannot_even_be_loaded(tmp_path: Path) -> None:
    good = made(seed=1)
    good.save(tmp_path / "good.npz")
    logits = good.logits.copy()
    logits[2, 5] = np.nan
    with np.load(tmp_path / "good.npz") as file:
        np.savez(tmp_path / "bad.npz", **{**file, "logits": logits})
    with pytest.raises(DataError, match=r"1 of 3 images have NaN or infinite logits, first ids \[2\]"):
        mean_logits([load_predictions(tmp_path / name) for name in ("good.npz", "bad.npz")])
