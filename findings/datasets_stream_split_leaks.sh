#!/usr/bin/env bash
# datasets 5.2.0, accelerate 1.15.0: of a shuffled stream split by take and skip, epochs after the first train on val
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 accelerate==1.15.0 torch==2.13.0 numpy==2.4.6 || exit 77
HF_HOME="$folder/hf" "$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader

IMAGES, VAL, EPOCHS = 1000, 100, 3


def streams():
    """Validation and training part, as the documentation of streams has it: shuffled first, then split."""
    images = Dataset.from_dict({"image": list(range(IMAGES))}).to_iterable_dataset()
    shuffled = images.shuffle(seed=42, buffer_size=IMAGES)
    return shuffled.take(VAL), shuffled.skip(VAL)


def by_hand():
    """How many images of val each epoch trains on, with set_epoch, which is to shuffle the training part anew."""
    val, train = streams()
    held_out = {row["image"] for row in val}
    shared = []
    for epoch in range(EPOCHS):
        train.set_epoch(epoch)
        shared.append(len(held_out & {row["image"] for row in train}))
    return shared


def by_accelerate():
    """How many images of each epoch's val were trained on until then; nothing but `prepare` is called."""
    loaders = [DataLoader(part, batch_size=50) for part in streams()]
    val, train = Accelerator(cpu=True).prepare(*loaders)
    trained, shared = set(), []
    for _ in range(EPOCHS):
        trained |= {int(image) for batch in train for image in batch["image"]}
        shared.append(len(trained & {int(image) for batch in val for image in batch["image"]}))
    return shared


print("version:", {name: version(name) for name in ("datasets", "accelerate", "torch")})
print(f"expected: of {VAL} validation images, trained on in epochs 1, 2, 3:", [0] * EPOCHS)
seen = {"set_epoch": by_hand(), "accelerate": by_accelerate()}
print("seen:", seen)
raise SystemExit(0 if all(shared[0] == 0 and min(shared[1:]) > VAL // 2 for shared in seen.values()) else 1)
PYTHON
