"""Predictions of the same images side by side: accuracy with its interval, and a paired test against the first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cifar_small.errors import DataError
from cifar_small.metrics import mcnemar, wilson_interval
from cifar_small.predictions import Predictions


def compare(entries: Sequence[tuple[str, Predictions]]) -> pd.DataFrame:
    """One row per entry: parameters, accuracy in %, its 95 % Wilson interval, exact McNemar p against the first entry.

    Raises DataError unless all entries are labelled and of the same images in the same order.
    """
    _, first = entries[0]
    rows = []
    for name, predictions in entries:
        if predictions.labels is None or first.labels is None:
            raise DataError(f"{name} has no labels; compare predictions of a labelled split")
        if not (np.array_equal(predictions.ids, first.ids) and np.array_equal(predictions.labels, first.labels)):
            raise DataError(f"{name} and {entries[0][0]} are not of the same images; a paired comparison needs the same")
        low, high = wilson_interval(int(predictions.correct.sum()), len(predictions.ids))
        rows.append(
            {
                "": name,
                "parameters": f"{predictions.meta['parameters']:,}",
                "views": predictions.meta.get("views", "as members"),
                "accuracy %": f"{100 * predictions.accuracy:.2f}",
                "95 % interval": f"{100 * low:.2f} to {100 * high:.2f}",
                "p against the first": "" if predictions is first else f"{mcnemar(predictions.correct, first.correct)[2]:.3f}",
            }
        )
    return pd.DataFrame(rows)
