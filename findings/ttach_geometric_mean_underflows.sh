#!/usr/bin/env bash
# ttach 0.0.3: merge_mode="gmean" multiplies the views' probabilities in float32 before it takes the root, so that ten equal views of 1e-5 have the mean 0 and forty views of an unsure net class 0; inference/forward.py averages logits
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ttach==0.0.3 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
import ttach

torch.set_num_threads(1)


class Sure(torch.nn.Module):
    """Ends in a softmax; says the same about each view: class `best` by a share, the other classes what is left."""

    def __init__(self, classes: int, best: int, share: float) -> None:
        super().__init__()
        answer = torch.full((classes,), (1 - share) / (classes - 1))
        answer[best] = share
        self.register_buffer("logits", answer.log())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.softmax(0).expand(len(images), -1)


def merged(net: torch.nn.Module, views: ttach.Compose, mode: str) -> torch.Tensor:
    """One image's probabilities over all views."""
    return ttach.ClassificationTTAWrapper(net, views, merge_mode=mode)(torch.zeros(1, 3, 32, 32))[0]


ten = ttach.aliases.ten_crop_transform(28, 28)
forty = ttach.Compose([ttach.HorizontalFlip(), ttach.Rotate90(angles=[0, 90, 180, 270]), ttach.FiveCrops(28, 28)])
assert (len(ten), len(forty)) == (10, 40)
sure, unsure = Sure(10, 7, 1 - 9e-5), Sure(100, 7, 0.06)

print("version:", {name: version(name) for name in ("ttach", "torch")})
print("expected: views that agree have their own probabilities for a geometric mean, as for an arithmetic one")
seen = {}
for mode in ("mean", "gmean"):
    wrong = merged(sure, ten, mode)[0]  # of a class that is not the net's, as where the label is another
    class_of_unsure, total = merged(unsure, forty, mode).argmax().item(), merged(unsure, forty, mode).sum().item()
    seen[mode] = (f"{wrong.item():.0e}", round(-wrong.log().item(), 2), class_of_unsure, round(total, 4))
print("each view: 1e-05, loss 11.51; class 7, all probabilities 1.0")
print("seen (of 10 views: probability of a label, its loss; of 40 views: class, sum of its 100 probabilities):", seen)
described = {"mean": ("1e-05", 11.51, 7, 1.0), "gmean": ("0e+00", float("inf"), 0, 0.0)}
raise SystemExit(0 if seen == described else 1)
PYTHON
