#!/usr/bin/env bash
# litdata 0.2.76: train_test_split(shuffle=True), documented as shuffling the data, shuffles chunks of images, so that of a data set written class
# by class a tenth for validation has one or two classes of ten; a split here holds as much of every class (data/splits.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 boto3==1.44.8 requests==2.34.2 || exit 77
"$folder/venv/bin/pip" install --quiet lightning-utilities==0.15.3 tifffile==2026.3.3 obstore==0.12.1 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps litdata==0.2.76 || exit 77
cat > "$folder/split.py" <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import litdata
import numpy as np

CLASSES, EACH, CHUNK = 10, 100, 128


def image(index: int) -> dict:
    return {"pixels": np.full((8, 8, 3), index % 256, np.uint8), "class": index // EACH}


if __name__ == "__main__":
    written = sys.argv[1]
    litdata.optimize(fn=image, inputs=list(range(CLASSES * EACH)), output_dir=written, num_workers=1, chunk_size=CHUNK)
    data = litdata.StreamingDataset(written)
    assert Counter(int(each["class"]) for each in data) == Counter({label: EACH for label in range(CLASSES)})
    print("version:", {name: version(name) for name in ("litdata", "torch", "numpy")})
    drawn = [len(set(np.random.default_rng(seed).permutation(CLASSES * EACH)[:EACH] // EACH)) for seed in range(5)]
    print(f"expected: with any seed, {EACH} images of all {CLASSES} classes; classes where images are shuffled: {drawn}")
    parts = []
    for seed in range(5):
        train, val = litdata.train_test_split(data, splits=[0.9, 0.1], seed=seed, shuffle=True)
        parts.append([Counter(int(each["class"]) for each in part) for part in (train, val)])
    seen = [(len(train), len(val)) for train, val in parts]
    print("seen: classes of train and of val, of five seeds:", seen)
    print("images by class in val:", [dict(val) for _, val in parts])
    sizes = all(sum(train.values()) == 9 * EACH and sum(val.values()) == EACH for train, val in parts)
    raise SystemExit(0 if sizes and max(val for _, val in seen) <= 2 and drawn == [CLASSES] * 5 else 1)
PYTHON
HOME="$folder" TMPDIR="$folder" "$folder/venv/bin/python" "$folder/split.py" "$folder/written"
