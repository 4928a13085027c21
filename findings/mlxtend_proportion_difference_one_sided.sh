#!/usr/bin/env bash
# mlxtend 0.25.0: proportion_difference gives the chance of a smaller z, not of a larger distance: p of two accuracies is 0.99 with the better one first, half of the right p with it second, and 0.5 where both are equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlxtend==0.25.0 statsmodels==0.15.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from mlxtend.evaluate import proportion_difference
from statsmodels.stats.proportion import proportions_ztest

images = 10_000


def both(first, second):
    """p of two accuracies on as many images: by mlxtend, by statsmodels."""
    theirs = proportion_difference(first, second, images)[1]
    others = proportions_ztest(np.array([first, second]) * images, [images, images])[1]
    return round(float(theirs), 4), round(float(others), 4)


print("version:", {name: version(name) for name in ("mlxtend", "statsmodels")})
print("expected: one p for both orders, as statsmodels has it, and 1 for two equal accuracies")
seen = {pair: both(*pair) for pair in ((0.92, 0.91), (0.91, 0.92), (0.914, 0.92), (0.92, 0.92))}
for (first, second), (theirs, others) in seen.items():
    print(f"seen: {first:.1%} and {second:.1%} right: p = {theirs} (statsmodels: {others})")
rng = np.random.default_rng(0)
draws = rng.binomial(images, 0.92, size=(5000, 2)) / images  # two nets that are equally good
found = np.mean([proportion_difference(*pair, images)[1] < 0.05 for pair in draws])
left_out = np.mean([proportion_difference(better, 0.91, images)[1] < 0.05 for better in rng.binomial(images, 0.93, 1000) / images])
print(f"seen: of 5000 equal pairs {found:.1%} below 0.05; of 1000 pairs with the better by two points first {left_out:.1%}")
as_described = [seen[pair][0] for pair in seen] == [0.9944, 0.0056, 0.062, 0.5] and left_out == 0
raise SystemExit(0 if as_described else 1)
PYTHON
