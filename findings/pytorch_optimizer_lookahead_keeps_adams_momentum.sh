#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: Lookahead's pullback_momentum="reset" and "pullback" change SGD's momentum alone; with Adam, AdamW, RAdam or Lion both are taken and do nothing; Lookahead here has no such setting, and keeps the optimizer's momentum (optim/optimizers.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pytorch-optimizer==4.1.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import pytorch_optimizer
import torch

torch.set_num_threads(1)
BASES = {
    "torch's SGD": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "torch's AdamW": (torch.optim.AdamW, {"lr": 0.05}),
    "its own AdamW": (pytorch_optimizer.AdamW, {"lr": 0.05}),
    "its own RAdam": (pytorch_optimizer.RAdam, {"lr": 0.05}),
    "its own Lion": (pytorch_optimizer.Lion, {"lr": 0.05}),
}


def trained(base: str, pullback: str) -> tuple[list[float], float]:
    """Four weights after twenty steps down a bowl, the last of which is Lookahead's; and what momentum is left then."""
    kind, settings = BASES[base]
    weights, steepness = torch.nn.Parameter(torch.ones(4)), torch.tensor([1.0, 2.0, 5.0, 10.0])
    optimizer = pytorch_optimizer.Lookahead(kind([weights], **settings), k=5, alpha=0.5, pullback_momentum=pullback)
    for _ in range(20):
        optimizer.zero_grad()
        (steepness * weights * weights).sum().backward()
        optimizer.step()
    state = optimizer.optimizer.state[weights]
    momentum = state["momentum_buffer"] if base == "torch's SGD" else state["exp_avg"]
    return weights.tolist(), momentum.abs().max().item()


print("version:", {name: version(name) for name in ("pytorch-optimizer", "torch")})
print('expected: "reset" leaves no momentum after a step of Lookahead, and "none", "reset" and "pullback" train apart')
seen = {}
for base in BASES:
    plain, reset, pulled = (trained(base, pullback) for pullback in ("none", "reset", "pullback"))
    seen[base] = (reset[1] == 0, plain[0] != reset[0], plain[0] != pulled[0])
    print(f"{base}: largest momentum after the last reset {reset[1]:.3g}; first weight {plain[0][0]:.6f}, {reset[0][0]:.6f}, {pulled[0][0]:.6f}")
print("seen (no momentum left by reset, reset differs, pullback differs):", seen)
described = {base: (True,) * 3 if base == "torch's SGD" else (False,) * 3 for base in BASES}
raise SystemExit(0 if seen == described else 1)
PYTHON
