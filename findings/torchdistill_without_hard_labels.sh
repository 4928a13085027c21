#!/usr/bin/env bash
# torchdistill 1.1.5: KDLoss without hard labels (alpha=0, or unlabelled images) leaves out beta and the square of the temperature, which its
# formula has: at temperature 4 the gradient of alpha=0 is 16 times smaller than that of alpha=0.001
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 numpy==2.4.6 scipy==1.17.1 pyyaml==6.0.3 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torchdistill==1.1.5 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch

try:
    import torchvision
except RuntimeError:  # beside a CPU build of torch the wheel's compiled operators do not load; declared, they are not missed
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torch.nn.functional import cross_entropy, kl_div
from torchdistill.losses.mid_level import KDLoss

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
teacher, first = (3 * torch.randn(64, 10, generator=generator) for _ in range(2))
labels = teacher.argmax(1)


def gradient(loss: torch.Tensor, student: torch.Tensor) -> float:
    return torch.autograd.grad(loss, student)[0].norm().item()


def seen(temperature: float, targets: torch.Tensor | None, **factors: float) -> float:
    student = first.clone().requires_grad_()
    both = ({".": {"output": logits}} for logits in (student, teacher))
    return gradient(KDLoss(".", "output", ".", "output", temperature=temperature, **factors)(*both, targets), student)


def formula(temperature: float, targets: torch.Tensor | None, alpha: float, beta: float) -> float:
    """Of alpha times the labels' cross-entropy, where there are labels, and beta times temperature squared times the divergence."""
    student = first.clone().requires_grad_()
    soft = kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="batchmean")
    hard = 0 if targets is None else cross_entropy(student, targets)
    return gradient(alpha * hard + beta * temperature**2 * soft, student)


cases = {
    "alpha 0.5": (labels, {"alpha": 0.5}),
    "alpha 0.001": (labels, {"alpha": 0.001}),
    "alpha 0": (labels, {"alpha": 0.0}),
    "alpha 0, beta 0.5": (labels, {"alpha": 0.0, "beta": 0.5}),
    "alpha 0.5, no labels": (None, {"alpha": 0.5}),
}
print("version:", {name: version(name) for name in ("torchdistill", "torch")})
print("expected: alpha * CE + beta * temperature^2 * KL, with 1 - alpha for beta; seen, of the gradient's size, as a share of the formula's:")
share = {}
for temperature in (1.0, 4.0):
    for name, (targets, factors) in cases.items():
        beta = factors.get("beta", 1 - factors["alpha"])
        share[temperature, name] = round(seen(temperature, targets, **factors) / formula(temperature, targets, factors["alpha"], beta), 4)
        print(f"  temperature {temperature}, {name}: {share[temperature, name]}")
described = share[4.0, "alpha 0.5"] == share[4.0, "alpha 0.001"] == share[1.0, "alpha 0"] == 1
described = described and share[4.0, "alpha 0"] == 0.0625 and share[4.0, "alpha 0, beta 0.5"] == 0.125 == share[4.0, "alpha 0.5, no labels"]
raise SystemExit(0 if described else 1)
PYTHON
