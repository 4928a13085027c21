"""What a data set holds: images and classes of each split, copies within and between splits, suspected label errors.

The test split is counted by class, and its pixels are compared; no label of a test image is looked at by itself or reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from cifar_small.config.schema import Data
from cifar_small.data import Images, index_hash, load_test
from cifar_small.data.datamodule import channel_moments, load_splits
from cifar_small.data.duplicates import find_copies
from cifar_small.data.pictures import stored_sizes
from cifar_small.data.sources import picture_files_of, pictures_without_label
from cifar_small.environment import no_bar
from cifar_small.errors import DataError
from cifar_small.metrics.classification import log_softmax
from cifar_small.metrics.confident_learning import doubtful_labels
from cifar_small.runs.predictions import Predictions

# Each image of the first is compared with all of the second, and within a split with the earlier ones.
COMPARED = (
    ("train", "train"),
    ("val", "val"),
    ("val", "train"),
    ("test", "test"),
    ("test", "train"),
    ("test", "val"),
)
_MANY = 5000  # images from which comparing them takes seconds


@dataclass(frozen=True)
class ImageRef:
    """One image of a split: its id, its label's name (empty for test), and its file, if it has one of its own."""

    part: str
    id: int
    label: str
    file: Path | None
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CopyPair:
    """An image and the one that it is most like, in another split or earlier in its own."""

    image: ImageRef
    other: ImageRef
    likeness: float  # correlation of details
    exact: bool
    mirrored: bool

    @property
    def contradicts(self) -> bool:
        """Do the labels differ? Not known where one of the images is of test."""
        return bool(self.image.label and self.other.label) and self.image.label != self.other.label


@dataclass(frozen=True)
class LabelSuspect:
    """An image that nets take for another class than its label says."""

    image: ImageRef
    suggested: str
    given_share: float  # probability of the given label
    suggested_share: float
    margin: float  # probability of the given label less the largest of the others
    nets: int  # how many predicted it


@dataclass(frozen=True)
class LabelCheck:
    """Labels compared with out-of-fold predictions: the most suspected first, and how many images there were to judge."""

    suspects: tuple[LabelSuspect, ...]
    images: int
    files: int


@dataclass(frozen=True)
class DataSurvey:
    """What is known of the images of a config."""

    source: str
    classes: tuple[str, ...]
    parts: Mapping[str, Images]  # those of test without labels
    counts: Mapping[str, npt.NDArray[np.int64]]  # images of each class, (K,)
    no_test: str  # why there is no test part; empty where there is one
    mean: tuple[float, ...]  # of the training images, per channel in 0..1
    std: tuple[float, ...]
    sizes: Counter[tuple[int, int]]  # width and height of the training part's pictures as stored; empty for arrays
    without_label: int  # pictures of train/ that the CSV of labels does not name
    notes: tuple[str, ...]  # what should be known of how the images were read
    copies: tuple[CopyPair, ...]
    labels: LabelCheck | None  # None: no predictions were given

    def copies_of(self, part: str, other: str) -> list[CopyPair]:
        """The copies that one comparison found."""
        return [pair for pair in self.copies if (pair.image.part, pair.other.part) == (part, other)]


def survey(data: Data, predictions: Sequence[Predictions] = ()) -> DataSurvey:
    """Survey the train, val and test images of a config; predictions: of val, by runs on the same data.

    Raises DataError for data that cannot be read and for predictions that are not out of fold.
    """
    train, val, facts = load_splits(data)
    found = _out_of_fold(predictions, facts.sha256)
    parts: dict[str, Images] = {"train": train, "val": val}
    counts = {part: _class_counts(images) for part, images in parts.items()}
    no_test, notes = "", list(train.notes)
    try:
        test = load_test(data)
    except DataError as error:
        no_test = str(error)
    else:
        counts["test"] = _class_counts(test)
        parts["test"] = replace(test, labels=None)
        notes += [f"test: {note}" for note in test.notes]
    names: dict[str, list[Path]] = {"train": picture_files_of(data, "train")}
    names |= {"val": names["train"], "test": [] if no_test else picture_files_of(data, "test")}
    mean, std = channel_moments(train)
    return DataSurvey(
        data.source if data.root is None else f"{data.source} {data.root}",
        train.classes,
        parts,
        counts,
        no_test,
        mean,
        std,
        stored_sizes(names["train"]),
        pictures_without_label(data, names["train"]),
        tuple(notes),
        tuple(_copies(parts, names)),
        _check_labels(found, parts, names) if found else None,
    )


def _class_counts(images: Images) -> npt.NDArray[np.int64]:
    assert images.labels is not None
    return np.bincount(images.labels, minlength=len(images.classes))


def _copies(parts: Mapping[str, Images], names: Mapping[str, list[Path]]) -> Iterator[CopyPair]:
    pairs = [(part, other) for part, other in COMPARED if part in parts and other in parts]
    many = sum(map(len, parts.values())) > _MANY
    for part, other in tqdm(pairs, desc="copies", unit="comparison", disable=no_bar(many)):
        images, others = parts[part], parts[other]
        found = find_copies(images.images, None if part == other else others.images)
        for at, to, likeness, exact, mirrored in zip(
            found.index, found.other, found.likeness, found.exact, found.mirrored, strict=True
        ):
            one, two = _ref(part, images, at, names), _ref(other, others, to, names)
            yield CopyPair(one, two, float(likeness), bool(exact), bool(mirrored))


def _ref(part: str, images: Images, place: int, names: Mapping[str, list[Path]]) -> ImageRef:
    number = int(images.ids[place])
    label = "" if images.labels is None else images.classes[images.labels[place]]
    return ImageRef(part, number, label, names[part][number] if names[part] else None, images.images[place])


def _out_of_fold(predictions: Sequence[Predictions], data_sha256: str | None) -> list[Predictions]:
    """The predictions, each file once, if every image was predicted by nets that did not train on it. Raises DataError."""
    found = list({one.meta.sha256: one for one in predictions}.values())
    for one in found:
        name, meta = one.meta.file or one.meta.label(), one.meta
        if meta.split == "test":
            raise DataError(f"{name}: predictions of test, whose labels are not judged here; expected predictions of val")
        if meta.split != "val" or one.labels is None:
            raise DataError(
                f"{name}: predictions of {meta.split}; expected those of val, by runs that held these images out of training"
            )
        nets = list(meta.nets())
        used = [net.data for net in nets] + [ancestor.data for net in nets for ancestor in net.ancestors]
        if any(net.data is None or net.data.sha256 != data_sha256 for net in nets):
            raise DataError(
                f"{name}: made by a net of other data than the config reads; expected the same images, labels and classes"
            )
        held_out = index_hash(np.sort(one.ids))
        if any(facts and facts.sha256 == data_sha256 and facts.val_sha256 != held_out for facts in used):
            raise DataError(
                f"{name}: of a net that trained on some of these images, or started from one that did; expected predictions of "
                "the val images that were held out of all its training (of an ensemble: those of each member)"
            )
    return found


def _check_labels(found: Sequence[Predictions], parts: Mapping[str, Images], names: Mapping[str, list[Path]]) -> LabelCheck:
    """The suspects among the images of train and val that were predicted, by the mean of their probabilities."""
    places: dict[int, tuple[str, int]] = {}
    for part in ("train", "val"):
        places |= {int(number): (part, place) for place, number in enumerate(parts[part].ids)}
    ids, row = np.unique(np.concatenate([one.ids for one in found]), return_inverse=True)
    total, labels = np.zeros((len(ids), len(found[0].classes))), np.zeros(len(ids), np.int64)
    np.add.at(total, row, np.exp(log_softmax(np.concatenate([one.logits for one in found]))))
    labels[row] = np.concatenate([one.labels for one in found if one.labels is not None])
    nets = np.bincount(row)
    there = np.array([int(number) in places for number in ids])  # data.train_limit may leave images out
    ids, shares, labels, nets = ids[there], (total / nets[:, None])[there], labels[there], nets[there]
    doubtful = doubtful_labels(shares, labels)
    suspects = []
    for at, suggested, margin in zip(doubtful.index, doubtful.suggested, doubtful.margin, strict=True):
        part, place = places[int(ids[at])]
        image = _ref(part, parts[part], place, names)
        given, other = float(shares[at, labels[at]]), float(shares[at, suggested])
        suspects.append(LabelSuspect(image, found[0].classes[suggested], given, other, float(margin), int(nets[at])))
    return LabelCheck(tuple(suspects), len(ids), len(found))
