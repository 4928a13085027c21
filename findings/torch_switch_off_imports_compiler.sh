#!/usr/bin/env bash
# torch 2.13.0: use_deterministic_algorithms(False) and the first optimizer import torch's compiler; environment.py switches only what is not so already, and predicting does without either
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
cat > "$folder/imported.py" <<'PYTHON'
"""What one call adds to the imported modules."""

import sys

import torch

calls = {
    "use_deterministic_algorithms(False)": lambda: torch.use_deterministic_algorithms(False),
    "optim.SGD of one parameter": lambda: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
}
before = set(sys.modules)
was_on = torch.are_deterministic_algorithms_enabled()
calls[sys.argv[1]]()
added = set(sys.modules) - before
compiler = {"torch._dynamo", "torch._inductor", "sympy"} & added
print(f"seen: {sys.argv[1]}, deterministic before {was_on}: {len(added)} modules imported, {sorted(compiler)} among them")
raise SystemExit(0 if {"torch._dynamo", "sympy"} <= compiler else 1)
PYTHON
"$folder/venv/bin/python" -c 'import torch; print("version:", torch.__version__)'
echo "expected: no import: the flag is off already, and nothing is compiled"
for call in "use_deterministic_algorithms(False)" "optim.SGD of one parameter"; do
  "$folder/venv/bin/python" "$folder/imported.py" "$call"
done
