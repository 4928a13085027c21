#!/usr/bin/env bash
# captum 0.9.0: LRP takes a net whose blocks add their skips by `+` without a word, and its relevances then sum to thousands of times the logit that they divide up; where the addition is a module of captum's they sum to the logit (and to 1, as its documentation says, never)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet captum==0.9.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

import torch
from captum.attr import LRP
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn

torch.set_num_threads(1)
warnings.simplefilter("ignore")  # of hooks on whole modules
BLOCKS = 3


class Block(nn.Module):
    """Two convolutions, and what came in beside them: not at all, added by `+`, or by a module."""

    def __init__(self, skip: str) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.between, self.after = nn.ReLU(), nn.ReLU()
        self.skip = skip
        if skip == "module":
            self.add = Addition_Module()

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.second(self.between(self.first(maps)))
        match self.skip:
            case "+":
                inner = maps + inner
            case "module":
                inner = self.add(maps, inner)
        return self.after(inner)


class Net(nn.Module):
    """A small residual net without biases; its weights are positive, so that every relevance is, and no sum is near 0."""

    def __init__(self, skip: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(skip) for _ in range(BLOCKS)))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5, bias=False)
        for index, parameter in enumerate(self.parameters()):
            nn.init.uniform_(parameter, 0, 0.2, generator=torch.Generator().manual_seed(index))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(images))).flatten(1))


image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(99))
print("version:", {name: version(name) for name in ("captum", "torch")})
print("expected: relevance is conserved from layer to layer, and sums to 1 by what attribute() says that it returns")
seen = {}
for skip in ("none", "module", "+"):
    net = Net(skip).eval()
    logit = net(image)[0, 1].item()
    total = LRP(net).attribute(image.clone(), target=1).sum().item()
    seen[skip] = total / logit
    print(f"skip: {skip:6}  logit {logit:.4f}, sum of the relevances {total:.4f}, {seen[skip]:.3f} times the logit")
    assert abs(logit - 1) > 0.1  # so that a sum of 1 and one of the logit differ
conserved = all(abs(seen[skip] - 1) < 1e-3 for skip in ("none", "module"))
raise SystemExit(0 if conserved and seen["+"] > 100 else 1)
PYTHON
