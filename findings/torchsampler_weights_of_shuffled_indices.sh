#!/usr/bin/env bash
# torchsampler 0.1.2: given indices that are not in ascending order, as a random split has them, ImbalancedDatasetSampler sorts the weights
# but not the indices, so that images are drawn with others' weights and the rare class stays as rare as it was; met by nobody here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pandas==3.1.1 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torchsampler==0.1.2 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import types
from importlib.metadata import version

import torch
from torch.utils.data import TensorDataset, WeightedRandomSampler, random_split

datasets = types.SimpleNamespace(**{name: type(name, (), {}) for name in ("MNIST", "ImageFolder", "DatasetFolder")})
sys.modules["torchvision"] = types.ModuleType("torchvision")  # only asked whether a data set is one of its kinds
sys.modules["torchvision"].datasets = datasets
from torchsampler import ImbalancedDatasetSampler

IMAGES, RARE, DRAWS = 1000, 100, 20_000
labels = (torch.arange(IMAGES) >= IMAGES - RARE).long()  # one image in ten is of class 1
data = TensorDataset(torch.zeros(IMAGES, 1), labels)
train = random_split(data, [800, 200], torch.Generator().manual_seed(0))[0].indices


def share(indices: list) -> float:
    """Share of class 1 among the images drawn, of a sampler that is told these indices and their labels."""
    torch.manual_seed(0)
    sampler = ImbalancedDatasetSampler(data, labels=labels[indices].tolist(), indices=indices, num_samples=DRAWS)
    return labels[list(sampler)].double().mean().item()


def by_hand(indices: list) -> float:
    own = labels[indices]
    weights = 1.0 / torch.bincount(own).double()[own]
    torch.manual_seed(0)
    drawn = [indices[place] for place in WeightedRandomSampler(weights, DRAWS)]
    return labels[drawn].double().mean().item()


print("version:", {name: version(name) for name in ("torchsampler", "pandas", "torch")})
print("share of class 1 in the split:", labels[train].double().mean().item())
print("expected: half of the images drawn are of class 1 for any order of the indices; WeightedRandomSampler:", by_hand(train))
seen = {"as random_split gives them": share(train), "sorted": share(sorted(train))}
print("seen:", seen)
right = abs(seen["sorted"] - 0.5) < 0.02 and abs(by_hand(train) - 0.5) < 0.02
raise SystemExit(0 if right and seen["as random_split gives them"] < 0.2 else 1)
PYTHON
