#!/usr/bin/env bash
# torch-uncertainty 0.13.0: VariationRatio takes images for members and members for images, so that five copies of one net, which never
# differ, have a variation ratio of 0.89 instead of 0, and 1,000 images have five values; Disagreement says 0 of the same tensor
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torch-uncertainty==0.13.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import types
import warnings
from importlib.metadata import distribution, version
from pathlib import Path

warnings.simplefilter("ignore")
root = Path(str(distribution("torch-uncertainty").locate_file("torch_uncertainty")))
for name in ("torch_uncertainty", "torch_uncertainty.metrics", "torch_uncertainty.metrics.classification"):
    sys.modules[name] = types.ModuleType(name)  # their own files import lightning and seaborn, unused here
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
import torch
from torch_uncertainty.metrics.classification.disagreement import Disagreement
from torch_uncertainty.metrics.classification.variation_ratio import VariationRatio

torch.set_num_threads(1)
IMAGES, MEMBERS, CLASSES = 1000, 5, 10
generator = torch.Generator().manual_seed(0)


def ensemble(differing: float) -> torch.Tensor:
    """Probabilities (images, members, classes): one net's, and what each member differs by."""
    net = torch.randn(IMAGES, 1, CLASSES, generator=generator)
    return (4 * net + differing * torch.randn(IMAGES, MEMBERS, CLASSES, generator=generator)).softmax(2)


def right(probabilities: torch.Tensor) -> torch.Tensor:
    """The share of members, for each image, that do not name the class which the mean of the members names."""
    return (probabilities.argmax(2) != probabilities.mean(1).argmax(1, keepdim=True)).float().mean(1)


def mean(metric, probabilities: torch.Tensor) -> float:
    metric.update(probabilities)
    return round(metric.compute().item(), 2)


equal, unlike = ensemble(0.0), ensemble(3.0)
expected = round(right(unlike).mean().item(), 2)
each = VariationRatio(probabilistic=False, reduction=None)
each.update(unlike)
print("version:", {name: version(name) for name in ("torch-uncertainty", "torchmetrics", "torch")})
print(f"expected: of probabilities (images, members, classes), as documented, 0 where members are equal, {expected} where not, {IMAGES} values")
seen = [mean(VariationRatio(probabilistic=False), members) for members in (equal, unlike)]
print("seen: equal members", seen[0], "unlike ones", seen[1], "values without a mean", len(each.compute()))
exchanged = [mean(VariationRatio(probabilistic=False), members.transpose(0, 1)) for members in (equal, unlike)]
disagreement = mean(Disagreement(), equal)
print("seen: with the first two axes exchanged", exchanged, "Disagreement of equal members", disagreement)
described = min(seen) > 0.85 and len(each.compute()) == MEMBERS and exchanged == [0, expected] and disagreement == 0
raise SystemExit(0 if described else 1)
PYTHON
