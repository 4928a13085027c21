#!/usr/bin/env bash
# mlxtend 0.25.0, statsmodels 0.15.0: McNemar's chi-squared test of two nets that never differ says p = 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlxtend==0.25.0 statsmodels==0.15.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import mlxtend.evaluate
import numpy as np
import statsmodels.stats.contingency_tables as tables

truth = np.arange(100) % 10
net = np.where(np.arange(100) < 90, truth, (truth + 1) % 10)  # 90 of 100 images right
table = mlxtend.evaluate.mcnemar_table(truth, net, net)  # against itself
print("version: mlxtend", version("mlxtend"), "statsmodels", version("statsmodels"))
print("table:", table.tolist())
print("expected: p = 1, as no image tells the two apart")
seen = {
    "mlxtend, chi-squared (default)": float(mlxtend.evaluate.mcnemar(table)[1]),
    "mlxtend, exact": float(mlxtend.evaluate.mcnemar(table, exact=True)[1]),
    "statsmodels, chi-squared": float(tables.mcnemar(table, exact=False).pvalue),
    "statsmodels, exact (default)": float(tables.mcnemar(table).pvalue),
}
print("seen:", seen)
raise SystemExit(0 if list(seen.values()) == [0, 1, 0, 1] else 1)
PYTHON
