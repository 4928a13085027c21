#!/usr/bin/env bash
# torch 2.13.0 on a CPU with bf16: gradients of depthwise convolutions take tens of times as long as their forward pass, for a
# stride of 2 (of the images) and for kernels above 3x3 (of the weights)
set -euo pipefail
if ! grep --quiet -E 'avx512_bf16|amx_bf16' /proc/cpuinfo; then
    echo "nothing to see: this processor does not compute in bf16"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import time

import torch
from torch.nn.functional import conv2d

torch.set_num_threads(1)


def seconds(dtype: torch.dtype, kernel: int, stride: int, wanted: list[bool]) -> tuple[float, float]:
    """CPU time of the forward pass and of one gradient, the best of five."""
    images, weight = torch.randn(64, 96, 32, 32), torch.randn(96, 1, kernel, kernel)
    images, weight = images.to(dtype, memory_format=torch.channels_last), weight.to(dtype)
    output = conv2d(images, weight, None, stride, kernel // 2, 1, 96)
    sizes = [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 96

    def best(call) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
        return min(times)

    forward = best(lambda: conv2d(images, weight, None, stride, kernel // 2, 1, 96))
    return forward, best(lambda: torch.ops.aten.convolution_backward(output, images, weight, None, *sizes, wanted))


print("version: torch", torch.__version__)
print("expected: a gradient takes two or three times as long as the forward pass, and bf16 no longer than fp32")
ratios = {}
for what, kernel, stride, wanted in (
    ("of images, 3x3, stride 2", 3, 2, [True, False, False]),
    ("of weights, 5x5, stride 1", 5, 1, [False, True, False]),
):
    for dtype in (torch.bfloat16, torch.float32):
        forward, backward = seconds(dtype, kernel, stride, wanted)
        ratios[what, dtype] = backward / forward
        print(f"seen: {what}, {dtype}: {backward * 1e3:.1f} ms, {backward / forward:.0f} times the forward pass")
slow = ratios["of images, 3x3, stride 2", torch.bfloat16], ratios["of weights, 5x5, stride 1", torch.bfloat16]
raise SystemExit(0 if min(slow) > 8 else 1)
PYTHON
