#!/usr/bin/env bash
# tensorboard 2.21.0: a curve of 12,000 points is read back as 10,000 of them, chosen at random; metrics.csv here has all epochs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorboard==2.21.0 torch==2.13.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - "$folder/events" <<'PYTHON'
import sys

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

print("version: tensorboard", tensorboard.__version__)
print("expected: the library's own reader gives back each point that was written")
with SummaryWriter(sys.argv[1]) as writer:
    for step in range(12_000):
        writer.add_scalar("loss", step, step)
reader = EventAccumulator(sys.argv[1])
reader.Reload()
steps = [event.step for event in reader.Scalars("loss")]
gaps = sum(after - before > 1 for before, after in zip(steps, steps[1:], strict=False))
print(f"seen: {len(steps):,} of 12,000 points, from step {steps[0]} to {steps[-1]}, with {gaps:,} gaps between them")
raise SystemExit(0 if len(steps) == 10_000 and gaps > 1000 and steps[-1] == 11_999 else 1)
PYTHON
