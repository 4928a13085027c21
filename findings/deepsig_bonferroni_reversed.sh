#!/usr/bin/env bash
# deepsig 1.2.8: its Bonferroni correction grows laxer with more comparisons, and multi_aso of two recipes finds none better
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet deepsig==1.2.8 numpy==2.4.6 scipy==1.17.1 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from deepsig import aso, multi_aso

COMPARISONS = (2, 10, 45)
options = {"seed": 0, "num_bootstrap_iterations": 100, "show_progress": False}
generator = np.random.default_rng(1)
better = generator.normal(0.910, 0.004, 10).round(4).tolist()  # accuracies of ten seeds
worse = generator.normal(0.908, 0.004, 10).round(4).tolist()

print("version: deepsig", version("deepsig"))
print("below 0.5 the first is better; an upper bound, so a stricter confidence level makes it larger")
alone = float(aso(better, worse, **options))
expected = [float(aso(better, worse, confidence_level=1 - 0.05 / count, **options)) for count in COMPARISONS]
seen = [float(aso(better, worse, num_comparisons=count, **options)) for count in COMPARISONS]
print("expected for", COMPARISONS, "comparisons, from 1 - 0.05 / count:", np.round(expected, 4))
print("seen:", np.round(seen, 4), "and uncorrected", round(alone, 4))
pair = float(multi_aso([better, worse], **options)[0, 1])
print("expected of multi_aso for these two, a single comparison:", round(alone, 4))
print("seen:", pair)
as_described = expected == sorted(expected) and seen[0] > seen[1] > seen[2] and pair == 1 and alone < 0.1
raise SystemExit(0 if as_described else 1)
PYTHON
