#!/usr/bin/env bash
# torch 2.13.0: torch.optim.Muon orthogonalizes in bfloat16 on every device; on a CPU without it (AVX2), that takes many times as long
# as in float32. cifar_small/optim/muon.py takes float32 there.
set -euo pipefail
if ! grep --quiet avx2 /proc/cpuinfo; then
    echo "nothing to see: this processor has no AVX2, to which the libraries could be held"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 "$folder/venv/bin/python" - <<'PYTHON'
import time

import torch
from torch import nn

torch.set_num_threads(1)


def cpu_seconds(call) -> float:
    """CPU time of a call, the best of five."""
    times = []
    for _ in range(5):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


filters = nn.Parameter(torch.randn(192, 1728))  # of a 3x3 convolution with 192 channels
filters.grad = torch.randn_like(filters)
muon = torch.optim.Muon([filters], lr=0.01)


def in_float32() -> None:
    """The products of one step: five iterations of three, as in torch's own code."""
    x = filters.grad / filters.grad.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram), x)


step, products = cpu_seconds(muon.step), cpu_seconds(in_float32)
print("version: torch", torch.__version__, "as on a processor with AVX2 and no bfloat16")
print("expected: a step of Muon takes about as long as its matrix products, or less, since bfloat16 is for speed")
print(f"seen: a step {step * 1e3:.0f} ms; the same products in float32 {products * 1e3:.0f} ms; {step / products:.0f} times")
raise SystemExit(0 if step > 5 * products else 1)
PYTHON
