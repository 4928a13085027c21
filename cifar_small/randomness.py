"""Random numbers that depend on (seed, stream, epoch, step) and on nothing else.

No generator lives between steps, so a run that stopped anywhere draws the same numbers when it goes on.
"""

from __future__ import annotations

import numpy as np
import torch

# Streams of random numbers; a new one gets a new number, so that no change of one shifts another.
ORDER, AUGMENT, MIX, DROPOUT, PARITY, SAMPLE, SHIFT = range(7)


def stream_seed(*words: int) -> int:
    """A 63-bit seed mixed from (seed, stream, epoch, step) or a prefix of them."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(*words: int) -> torch.Generator:
    """A CPU generator seeded by `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(*words))


def numpy_generator(*words: int) -> np.random.Generator:
    """A numpy generator seeded by `stream_seed`."""
    return np.random.default_rng(stream_seed(*words))
