#!/usr/bin/env bash
# torchensemble 0.2.0: FusionClassifier given a net, which is documented as well as its class, copies its weights into every member, and as all
# of them get the gradient of their mean, they stay equal: an ensemble of five is one net, five times
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 joblib==1.6.0 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps torchensemble==0.2.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io
import logging
from importlib.metadata import version

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchensemble import FusionClassifier, VotingClassifier

torch.set_num_threads(1)
logging.disable(logging.INFO)
MEMBERS = 5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def apart(kind: type, estimator: type | nn.Module) -> float:
    """The largest distance of a probability of any member from the first one's, after three epochs."""
    torch.manual_seed(0)
    images = torch.randn(1000, 3, 8, 8)
    labels = images.flatten(1)[:, :10].argmax(1)
    ensemble = kind(estimator=estimator, n_estimators=MEMBERS, cuda=False)
    ensemble.set_optimizer("Adam", lr=0.01)
    with contextlib.redirect_stdout(io.StringIO()):
        ensemble.fit(DataLoader(TensorDataset(images, labels), batch_size=50, shuffle=True), epochs=3, save_model=False)
    with torch.no_grad():
        told = [member(images).softmax(1) for member in ensemble.estimators_]
    assert len(told) == MEMBERS
    return round(max((each - told[0]).abs().max().item() for each in told), 2)


torch.manual_seed(1)
net = Net()
estimators = {"class": Net, "net": net}
seen = {(kind.__name__, name): apart(kind, estimators[name]) for kind in (FusionClassifier, VotingClassifier) for name in estimators}
print("version:", {name: version(name) for name in ("torchensemble", "torch")})
print(f"expected: {MEMBERS} members that were trained are {MEMBERS} nets")
print("seen, of the largest distance between two members' probabilities:", seen)
fusion_of_nets = seen.pop(("FusionClassifier", "net"))
raise SystemExit(0 if fusion_of_nets == 0 and min(seen.values()) > 0.1 else 1)
PYTHON
