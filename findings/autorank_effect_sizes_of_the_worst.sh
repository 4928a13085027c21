#!/usr/bin/env bash
# autorank 1.3.0: order="descending" and "ascending" give one and the same table but for the mean ranks: with the first, the default, meant for
# accuracies, the worst recipe stands on top, and effect sizes, documented as those to the highest ranking one, are distances to the worst
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

warnings.simplefilter("ignore")
generator = np.random.default_rng(0)
fold = 0.3 * generator.normal(size=20)  # some folds are harder for all recipes
accuracy = {"best": 93.0, "second": 92.9, "worst": 80.0}
scores = pd.DataFrame({name: mean + fold + 0.3 * generator.normal(size=20) for name, mean in accuracy.items()})


def table(**settings) -> tuple:
    with contextlib.redirect_stdout(io.StringIO()):
        result = autorank(scores, **settings)
    ranked = result.rankdf
    sizes = {name: round(float(ranked.at[name, "effect_size"]), 1) for name in ranked.index}
    return result.omnibus, [round(float(rank), 1) for rank in ranked["meanrank"]], sizes


print("version:", {name: version(name) for name in ("autorank", "pandas", "scipy")})
print("expected: of accuracies, best first with mean rank 1 and effect sizes 0, small, large; of errors (order='ascending') the other way round")
seen = {}
for test, mode in {"anova": None, "friedman": "nonparametric"}.items():
    for order in ("descending", "ascending"):
        omnibus, ranks, sizes = seen[test, order] = table(order=order, force_mode=mode)
        assert omnibus == test
        print(f"seen: {omnibus}, order={order!r}: mean ranks {ranks}, effect sizes {sizes}")
alike = all(list(seen[test, "descending"][2].items()) == list(seen[test, "ascending"][2].items()) for test in ("anova", "friedman"))
sizes = seen["anova", "descending"][2]
from_the_worst = list(sizes) == ["worst", "second", "best"] and sizes["worst"] == 0 and max(sizes["second"], sizes["best"]) < -10
raise SystemExit(0 if alike and from_the_worst and seen["anova", "descending"][1][0] == 3 else 1)
PYTHON
