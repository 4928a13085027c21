#!/usr/bin/env bash
# autorank 1.3.0: of two recipes that are equally good, autorank finds one better in 9 % of comparisons at alpha=0.05, since its Wilcoxon test is
# one-sided, in the direction that the same scores point to; and its intervals of 95 % for a median hold it 99 % of the time
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0 pandas==3.1.1 matplotlib==3.11.2 baycomp==1.0.3 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps autorank==1.3.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
from autorank import autorank
from scipy.stats import wilcoxon

warnings.simplefilter("ignore")
COMPARISONS, RUNS, ALPHA = 1000, 30, 0.05
generator = np.random.default_rng(0)
rejected = {"autorank": 0, "scipy, two-sided": 0}
held = 0
for _ in range(COMPARISONS):
    scores = pd.DataFrame(90 + generator.standard_t(3, size=(RUNS, 2)), columns=["first", "second"])  # both of median 90
    with contextlib.redirect_stdout(io.StringIO()):
        result = autorank(scores, alpha=ALPHA, force_mode="nonparametric")
    assert result.omnibus == "wilcoxon"
    rejected["autorank"] += result.pvalue < ALPHA
    rejected["scipy, two-sided"] += wilcoxon(scores["first"], scores["second"]).pvalue < ALPHA
    held += sum(result.rankdf.at[name, "ci_lower"] <= 90 <= result.rankdf.at[name, "ci_upper"] for name in scores)
share = {name: float(count / COMPARISONS) for name, count in rejected.items()}
print("version:", {name: version(name) for name in ("autorank", "scipy", "pandas")})
print("expected: of two equally good recipes, 5 % of comparisons find one better; 95 % of intervals hold the median")
print("seen: of comparisons", share, "of intervals", float(held / COMPARISONS / 2))
raise SystemExit(0 if share["autorank"] > 0.08 and share["scipy, two-sided"] < 0.065 and held > 0.985 * 2 * COMPARISONS else 1)
PYTHON
