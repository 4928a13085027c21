"""Stratified splits: sizes, class shares and the same answer everywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_small.config.schema import Data
from cifar_small.data import datamodule, index_hash, stratified_split, stratified_subset
from cifar_small.data.datamodule import load_splits
from cifar_small.errors import DataError

labelled = st.lists(st.integers(0, 5), min_size=2, max_size=200).map(lambda labels: np.array(labels, np.int64))


def test_golden_split_of_cifar_size() -> None:
    labels = np.arange(50_000, dtype=np.int64) % 10
    train, val = stratified_split(labels, 5000, seed=0)
    assert np.bincount(labels[val]).tolist() == [500] * 10
    assert np.bincount(labels[train]).tolist() == [4500] * 10
    # A record of a run carries this hash: when it changes, old and new runs no longer share a validation set.
    assert index_hash(val) == "84da11d5e4e4e819ff008d2916cb0b223f9c036a8c34441a520d35eedfa90f2a"
    assert not np.array_equal(val, stratified_split(labels, 5000, seed=1)[1])


def test_largest_remainder_by_hand() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 2])  # quotas of 4: 2.0, 1.2, 0.8
    _, val = stratified_split(labels, 4, seed=0)
    assert np.bincount(labels[val]).tolist() == [2, 1, 1]


@settings(deadline=None)
@given(labels=labelled, data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_split_properties(labels: np.ndarray, data: st.DataObject, seed: int) -> None:
    _, sizes = np.unique(labels, return_counts=True)
    most = int(np.where(sizes > 1, sizes - 1, sizes).sum())
    val_size = data.draw(st.integers(1, min(most, len(labels) - 1)))
    train, val = stratified_split(labels, val_size, seed)
    assert len(val) == val_size
    assert train.dtype == val.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
        kept = int((labels[train] == label).sum())
        assert size < 2 or kept >= 1
        # within one image of its share, unless the rule above moved images to another class
        if val_size * max(sizes) <= len(labels) * (min(sizes) - 1):
            assert abs((size - kept) - val_size * size / len(labels)) < 1
    again = stratified_split(labels, val_size, seed)
    assert index_hash(again[0]) == index_hash(train)


def test_the_seed_of_the_split_draws_the_part_that_is_trained_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [load_splits(Data(source="digits", val_size=100, train_limit=64, split_seed=seed))[2] for seed in (0, 1)]
    assert found[0].val_sha256 != found[1].val_sha256
    everything = np.arange(1437)
    monkeypatch.setattr(datamodule, "stratified_split", lambda labels, size, seed: (everything[:1337], everything[1337:]))
    parts = [load_splits(Data(source="digits", val_size=100, train_limit=64, split_seed=seed))[2] for seed in (0, 1)]
    assert parts[0].val_sha256 == parts[1].val_sha256
    assert parts[0].train_sha256 != parts[1].train_sha256


@settings(deadline=None)
@given(labels=labelled, data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_subset_properties(labels: np.ndarray, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(1, len(labels)))
    chosen = stratified_subset(labels, size, seed)
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    for label in np.unique(labels):
        assert abs((labels[chosen] == label).sum() - size * (labels == label).mean()) < 1


def test_the_global_generator_is_neither_used_nor_changed() -> None:
    labels = np.arange(100, dtype=np.int64) % 3
    np.random.seed(1)
    first, state = stratified_split(labels, 20, 5)[1], np.random.get_state()[1].copy()
    np.random.seed(2)
    assert np.array_equal(first, stratified_split(labels, 20, 5)[1])
    np.random.seed(1)
    assert np.array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize("val_size", [0, -1, 10, 11])
def test_impossible_sizes_name_both_numbers(val_size: int) -> None:
    with pytest.raises(DataError, match=f"val_size {val_size} of 10 .*expected 1 to 9"):
        stratified_split(np.arange(10, dtype=np.int64) % 2, val_size, 0)
    with pytest.raises(DataError, match="subset of 11 from 10"):
        stratified_subset(np.zeros(10, np.int64), 11, 0)


def test_a_class_is_never_taken_from_train_entirely() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    train, val = stratified_split(labels, 4, 0)
    assert set(labels[train]) >= {0, 1}
    assert len(val) == 4
    with pytest.raises(DataError, match=r"val_size 5 of 6 .*at most 4"):
        stratified_split(labels, 5, 0)


def test_hash_is_of_little_endian_int64() -> None:
    assert index_hash(np.array([1, 256])) == hashlib.sha256(bytes([1, *[0] * 7, 0, 1, *[0] * 6])).hexdigest()
    assert index_hash(np.array([1, 256], ">i4")) == index_hash(np.array([1, 256]))
    assert index_hash(np.array([256, 1])) != index_hash(np.array([1, 256]))
