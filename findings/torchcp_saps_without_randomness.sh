#!/usr/bin/env bash
# torchcp 1.2.1: SAPS(randomized=False) scores the most probable class 0 when calibrating and by its probability when predicting, so that sets
# of a good net that are to cover 90 or 99 % are all empty
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
from torch.nn.functional import one_hot
from torchcp.classification.predictor import SplitPredictor
from torchcp.classification.score import APS, RAPS, SAPS

generator = torch.Generator().manual_seed(0)
labels = torch.randint(0, 10, (4000,), generator=generator)
logits = torch.randn(4000, 10, generator=generator) + 4.5 * one_hot(labels, 10)
accuracy = (logits.argmax(1) == labels).float().mean().item()


def covered(score, alpha):
    """The share of the second half's labels that are in their sets, and the sets' mean size; the first half calibrates."""
    torch.manual_seed(0)
    predictor = SplitPredictor(score, alpha=alpha)
    predictor.calculate_threshold(logits[:2000], labels[:2000])
    sets = predictor.predict_with_logits(logits[2000:]).bool()
    return round(sets[torch.arange(2000), labels[2000:]].float().mean().item(), 3), round(sets.sum(1).float().mean().item(), 2)


seen = {}
for score in (APS, RAPS, SAPS):
    for randomized in (True, False):
        seen[score.__name__, randomized] = [covered(score(randomized=randomized), alpha) for alpha in (0.1, 0.01)]
plain = SAPS(randomized=False)
top = logits[:1].argmax(1)
both = round(plain(logits[:1], top).item(), 3), round(plain(logits[:1])[0, top].item(), 3)
print("version:", {name: version(name) for name in ("torchcp", "torch")})
print(f"expected: of 2,000 images of a net that is right on {accuracy:.1%}, sets cover at least about 0.9 and 0.99, however scored")
for (name, randomized), values in seen.items():
    print(f"seen: {name}(randomized={randomized}): coverage and size for alpha 0.1 and 0.01: {values}")
print("seen: SAPS(randomized=False) of the most probable class, asked for it alone and for all classes:", both)
empty = seen.pop(("SAPS", False))
others = all(values[0][0] > 0.88 and values[1][0] > 0.98 for values in seen.values())
raise SystemExit(0 if empty == [(0.0, 0.0)] * 2 and others and both[0] == 0 < both[1] else 1)
PYTHON
