#!/usr/bin/env bash
# torchinfo 1.8.0: multiply-adds of a Linear over tokens lack the tokens, those of a transposed convolution are fourfold
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchinfo==1.8.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import torchinfo
from torch import nn

print("version: torchinfo", torchinfo.__version__)
cases = {
    "Linear(16, 16) over 50 tokens": (nn.Linear(16, 16, bias=False), (1, 50, 16), 50 * 16 * 16),
    "ConvTranspose2d(16, 8, 2, stride=2) over 8x8": (nn.ConvTranspose2d(16, 8, 2, 2, bias=False), (1, 16, 8, 8), 64 * 16 * 8 * 4),
}
print("expected:", {name: exact for name, (_, _, exact) in cases.items()})
seen = {name: torchinfo.summary(net, size, verbose=0).total_mult_adds for name, (net, size, _) in cases.items()}
print("seen:", seen)
raise SystemExit(0 if list(seen.values()) == [16 * 16, 4 * 64 * 16 * 8 * 4] else 1)
PYTHON
