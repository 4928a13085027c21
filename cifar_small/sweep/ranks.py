"""Does a cheap sweep rank settings as the full recipe does? Rank correlation of two sweeps over their common cells, on val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cifar_small.errors import UserError
from cifar_small.reporting.comparison_tables import p_text
from cifar_small.reporting.tables import Table, aligned
from cifar_small.sweep.spec import canonical
from cifar_small.sweep.table import CellResult
from cifar_small.wording import plural

FEWEST = 4  # cells; of three, even equal ranks come by chance once in six draws


@dataclass(frozen=True)
class RankAgreement:
    """How two sweeps rank the same settings by mean val accuracy.

    rho: Spearman's; tau, p: Kendall's, two-sided, exact without ties. lost: what the first sweep's best settings lack, in the
    second, to the second's best (the mean of several that share the first rank), as a share of the images of val.
    """

    pairs: tuple[tuple[str, float, float], ...]  # cell, accuracies in the first and the second sweep; best of the first first
    rho: float
    tau: float
    p: float
    lost: float

    def __str__(self) -> str:
        lines = tuple((name, f"{100 * cheap:.2f}", f"{100 * full:.2f}") for name, cheap, full in self.pairs)
        table = aligned(Table("", ("cell", "proxy, val %", "full, val %"), lines))
        return (
            f"{table}\n{plural(len(self.pairs), 'cell')}: Spearman's rho {self.rho:.2f}, Kendall's tau {self.tau:.2f} (p = "
            f"{p_text(self.p)}); the proxy's best settings are {100 * self.lost:.2f} points below the best of these cells "
            "in full, which by chance alone is above 0 (val only; the test split was not read)"
        )


def agreement(cheap: Sequence[CellResult], full: Sequence[CellResult]) -> RankAgreement:
    """Compare the complete cells of equal settings in both. Raises UserError for fewer than FEWEST, or equal accuracies."""
    from scipy.stats import kendalltau, spearmanr

    means = {canonical(dict(row.cell.settings)): row.mean for row in full if row.complete}
    shared = [
        (row.cell.name, row.mean, mean)
        for row in cheap
        if row.complete and row.mean is not None and (mean := means.get(canonical(dict(row.cell.settings)))) is not None
    ]
    if len(shared) < FEWEST:
        raise UserError(
            f"the two sweeps share {plural(len(shared), 'finished cell')} of equal settings; expected at least {FEWEST}: train "
            "the same settings in both"
        )
    pairs = tuple(sorted(shared, key=lambda pair: -pair[1]))
    first, second = [pair[1] for pair in pairs], [pair[2] for pair in pairs]
    if len(set(first)) == 1 or len(set(second)) == 1:
        raise UserError("all cells of one sweep have the same accuracy and so no ranks; vary more, or raise data.val_size")
    tau = kendalltau(first, second)
    rho = float(spearmanr(first, second).statistic)
    chosen = [theirs for _, ours, theirs in pairs if ours == first[0]]
    return RankAgreement(pairs, rho, float(tau.statistic), float(tau.pvalue), max(second) - sum(chosen) / len(chosen))
