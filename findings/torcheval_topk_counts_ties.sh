#!/usr/bin/env bash
# torcheval 0.0.7: top-k accuracy counts the classes above the label's, so that a net whose logits are all equal has 1 % for k = 1 and 100 %
# for k = 2 and more, and rounded logits, as of an int8 net, have a higher top-5 than five predictions can have
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 torcheval==0.0.7 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from torch.nn.functional import one_hot
from torcheval.metrics import MulticlassAccuracy

torch.set_num_threads(1)
IMAGES, CLASSES = 10000, 100
generator = torch.Generator().manual_seed(0)
labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
logits = torch.randn(IMAGES, CLASSES, generator=generator) + 2 * one_hot(labels, CLASSES)


def torcheval(outputs: torch.Tensor, k: int) -> float:
    metric = MulticlassAccuracy(num_classes=CLASSES, k=k)
    for start in range(0, IMAGES, 500):
        metric.update(outputs[start : start + 500], labels[start : start + 500])
    return round(metric.compute().item(), 3)


def k_predictions(outputs: torch.Tensor, k: int) -> float:
    """The share of labels among the k classes that topk names."""
    return round((outputs.topk(k).indices == labels[:, None]).any(1).float().mean().item(), 3)


nets = {
    "a net": logits,
    "rounded to steps of 0.5": (2 * logits).round() / 2,
    "all equal": torch.zeros_like(logits),
}
print("version:", {name: version(name) for name in ("torcheval", "torch")})
print("expected: the share of images whose label is among the k predicted classes; seen:")
seen = {}
for name, outputs in nets.items():
    seen[name] = [torcheval(outputs, k) for k in (1, 2, 5)]
    print(f"  {name}: k = 1, 2, 5: {seen[name]}, of the classes that topk names: {[k_predictions(outputs, k) for k in (1, 2, 5)]}")
equal_to_topk = seen["a net"] == [k_predictions(logits, k) for k in (1, 2, 5)]
chance = seen["all equal"][1:] == [1.0, 1.0] and seen["all equal"][0] < 0.02
raised = seen["rounded to steps of 0.5"][2] > k_predictions(nets["rounded to steps of 0.5"], 5) + 0.05
raise SystemExit(0 if equal_to_topk and chance and raised else 1)
PYTHON
