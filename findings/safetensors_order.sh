#!/usr/bin/env bash
# safetensors 0.8.0: tensors come back sorted by the size of their type and by name, not as they were given; export/weights_folder.py goes by name
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - "$folder/weights.safetensors" <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

print("version: safetensors", safetensors.__version__)
print("expected: a dictionary of tensors comes back in its order, so that values of two nets may be taken pairwise")
given = {"stem": np.zeros(2, np.float16), "norm": np.ones(2, np.float32), "head": np.full(2, 2, np.float32)}
save_file(given, sys.argv[1])
read = load_file(sys.argv[1])
print("seen: given", list(given), "read", list(read))
raise SystemExit(0 if list(read) != list(given) and set(read) == set(given) else 1)
PYTHON
