#!/usr/bin/env bash
# torch 2.13.0 on a CPU with AMX, in bf16: the gradient of a convolution's weights from maps of 4x4 pixels takes several
# times as long as the forward pass; of the same images laid side by side in one wide row, a fraction of that
set -euo pipefail
if ! grep --quiet amx_bf16 /proc/cpuinfo; then
    echo "nothing to see: this processor has no amx_bf16"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import time

import torch
from torch.nn.functional import conv2d, pad

torch.set_num_threads(1)
SIDE, COUNT, CHANNELS = 4, 200, 256


def best(call) -> float:
    """CPU time, the best of five."""
    times = []
    for _ in range(5):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def of_weights(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.convolution_backward(
        slopes, images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]


def in_one_row(images: torch.Tensor) -> torch.Tensor:
    """Images side by side, with a column of zeros behind each."""
    row = pad(images, (0, 1)).permute(1, 2, 0, 3).flatten(2)[None]
    return row.contiguous(memory_format=torch.channels_last)


torch.manual_seed(0)
images, slopes = (
    torch.randn(COUNT, CHANNELS, SIDE, SIDE).to(torch.bfloat16, memory_format=torch.channels_last) for _ in range(2)
)
weight = torch.randn(CHANNELS, CHANNELS, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
wide = in_one_row(images), in_one_row(slopes)
first, second = of_weights(images, slopes).float(), of_weights(*wide).float()
assert (first - second).norm() < 0.01 * first.norm()

print("version: torch", torch.__version__)
print("expected: the gradient of weights takes about as long as the forward pass, which has as many multiply-adds")
forward, apart, together = best(lambda: conv2d(images, weight, None, 1, 1)), *(
    best(lambda pair=pair: of_weights(*pair)) for pair in ((images, slopes), wide)
)
print(f"seen: {SIDE}x{SIDE} pixels, {CHANNELS} channels: {apart / forward:.1f} times the forward pass; side by side {together / forward:.1f}")
raise SystemExit(0 if apart > 2 * max(forward, together) else 1)
PYTHON
