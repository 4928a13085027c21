"""Is what lies in the place of a test split the one that belongs to a training part?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from cifar_small.data.images import Images
from cifar_small.data.splits import stratified_subset

# SHA-256 of `Images`: of the official training part to the official test part.
_OFFICIAL: Mapping[str | None, str] = {
    "47f662ea534226a1e9f5ef68d7f21a7c7ec206ae20c182a1a449ab1a6e84d8ac": (  # cifar10
        "cb5f61fef4b215cdc45260f0823ec1a84f0b4c3c7136802a835e32813ba18a78"
    ),
    "f93b7a48d7ce52aaeb3525ff96dda0931be172dcef19261e2b47410b9cc6e19e": (  # cifar100
        "704dc9acf9724ef0b77448c631823f63b8de462b473dd8b58cd613aacf6963c5"
    ),
    "4419693e2079d523f275e2fa59a9a5dd5d81f27234bbdf2e5a772adba22eda36": (  # cifar100_coarse
        "335f2058643bc0756159427bddc30d824a3d79dd9878b235b67defa82f411186"
    ),
}
# Share of the images that may be copies: counted pixel by pixel, 10 of the 10,000 test images of CIFAR-100 stand in its own
# training part too; of CIFAR-10 and of the digits none does.
MOST_COPIES = 0.002
SURPRISE = 0.001  # the probability of as many copies or more by chance, below which they are no chance


def is_official(train_sha256: str | None, test_sha256: str) -> bool | None:
    """Are these test images the official ones of this training part? None where the training part is of no known data set."""
    expected = _OFFICIAL.get(train_sha256)
    return None if expected is None else test_sha256 == expected


def part_of(images: Images, count: int) -> Images:
    """A stratified part of labelled images, the same for the same labels; all of them where there are no more."""
    assert images.labels is not None
    return images if count >= len(images) else images.take(stratified_subset(images.labels, count, seed=0))


def count_copies(images: Images, *of: Images) -> int:
    """How many of the images are, pixel by pixel, among others."""
    seen = {one for others in of for one in _fingerprints(others)}
    return sum(one in seen for one in _fingerprints(images))


def more_copies_than_chance(images: Images, *of: Images) -> int:
    """`count_copies`, but 0 where so many would be no surprise in a data set with a share of `MOST_COPIES`."""
    from scipy.special import bdtrc

    copies = count_copies(images, *of)
    as_many = bdtrc(copies - 1, len(images), MOST_COPIES)  # the chance of as many or more
    return copies if as_many < SURPRISE else 0


def _fingerprints(images: Images) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images.at_32]
