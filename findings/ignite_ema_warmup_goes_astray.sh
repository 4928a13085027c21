#!/usr/bin/env bash
# pytorch-ignite 0.5.5: an EMAHandler attached under a name of its own warms up the momentum called "ema_momentum": it has no warm-up itself,
# and a second handler, under the default name, is driven by the first one's
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pytorch-ignite==0.5.5 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn

STEPS, MOMENTUM = 100, 0.002
WARM = {"momentum": MOMENTUM, "momentum_warmup": 0.2, "warmup_iters": STEPS}


def way(*handlers):
    """How far each average has gone when all weights went from 0 to 1 STEPS steps ago: (options, name) for each handler."""
    trainer = Engine(lambda engine, batch: None)
    averages = []
    for options, name in handlers:
        net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(net.weight)
        handler = EMAHandler(net, **options)
        handler.attach(trainer, name=name)
        nn.init.ones_(net.weight)
        averages.append((handler, net))
    trainer.run(range(STEPS))
    return [round(handler.ema_model.weight.item(), 4) for handler, _ in averages]


without = round(1 - (1 - MOMENTUM) ** STEPS, 4)
left = torch.prod(1 - torch.linspace(0.2, MOMENTUM, STEPS, dtype=torch.float64)).item()
warm = round(1 - left, 4)
plain = {"momentum": MOMENTUM}
seen = {
    "warm-up, default name": way((WARM, "ema_momentum")),
    "warm-up, own name": way((WARM, "teacher_momentum")),
    "no warm-up, default name, beside warm-up, own name": way((plain, "ema_momentum"), (WARM, "teacher_momentum")),
}
print("version:", {name: version(name) for name in ("pytorch-ignite", "torch")})
print(f"expected: an average with this warm-up has gone {warm} of the way, one without {without}, whatever it is called")
for name, values in seen.items():
    print(f"seen: {name}: {values}")
raise SystemExit(0 if list(seen.values()) == [[warm], [without], [warm, without]] else 1)
PYTHON
