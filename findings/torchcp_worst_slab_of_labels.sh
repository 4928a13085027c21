#!/usr/bin/env bash
# torchcp 1.2.1: WSC, the coverage of the worst slab, looks for the slab with the smallest class numbers instead of the worst coverage (it hands
# both over in the wrong order), so that it is the coverage of all images, or of well covered ones, depending on how classes are numbered
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 tqdm==4.70.1 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torchcp==1.2.1 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import types
from importlib.metadata import distribution, version
from pathlib import Path

root = Path(str(distribution("torchcp").locate_file("torchcp")))
for name, place in {"torchcp": root, "torchcp.classification": root / "classification"}.items():
    sys.modules[name] = types.ModuleType(name)  # their own files import torchsort, torch_geometric and transformers, all unused here
    sys.modules[name].__path__ = [str(place)]
import torch
from torchcp.classification.utils.metrics import Metrics

COUNT, CLASSES = 2000, 10
generator = torch.Generator().manual_seed(0)
features = torch.randn(COUNT, 2, generator=generator)
uneven = torch.rand(COUNT, generator=generator) < 0.95
labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
labels[uneven & (features[:, 0] > 0.7)] = 0  # one class is frequent where the first feature is large
hard = features[:, 0] < -0.5
covered = ~hard | (torch.rand(COUNT, generator=generator) < 0.4)  # and coverage is bad where it is small


def worst_slab(numbers):
    """WSC of sets that hold the label, and nothing else, of the images that are covered."""
    sets = torch.zeros(COUNT, CLASSES, dtype=torch.bool)
    sets[torch.arange(COUNT), numbers] = covered
    return round(Metrics()("WSC")(features, sets, numbers, delta=0.2, M=100), 3)


of_all, of_hard = covered.float().mean().item(), covered[hard].float().mean().item()
renumbered = torch.tensor([5, 1, 2, 3, 4, 0, 6, 7, 8, 9])[labels]  # classes 0 and 5 exchanged, nothing else
seen = worst_slab(labels), worst_slab(renumbered)
print("version:", {name: version(name) for name in ("torchcp", "torch")})
print(f"expected: about {of_hard:.3f}, the coverage of the {hard.float().mean():.0%} of images with a small first feature; the mean is {of_all:.3f}")
print("seen:", seen[0], "and with two classes renumbered:", seen[1])
raise SystemExit(0 if of_hard < 0.5 and seen[0] > of_all + 0.1 and abs(seen[1] - of_all) < 0.05 else 1)
PYTHON
