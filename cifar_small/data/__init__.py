"""Images in memory: labelled sources, unlabelled competition files and stratified splits."""

from cifar_small.data.images import Images
from cifar_small.data.sources import class_names, is_available, load_test, load_train
from cifar_small.data.splits import index_hash, stratified_split, stratified_subset
from cifar_small.data.unlabelled import color_notes, load_unlabelled, turn_notes, write_unlabelled

__all__ = [
    "Images",
    "class_names",
    "color_notes",
    "index_hash",
    "is_available",
    "load_test",
    "load_train",
    "load_unlabelled",
    "stratified_split",
    "stratified_subset",
    "turn_notes",
    "write_unlabelled",
]
