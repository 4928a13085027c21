#!/usr/bin/env bash
# webdataset 1.0.2: shardshuffle puts the shards into one order for all epochs, and a seed does not reach shuffle(); only detshuffle=True has another order each epoch, the same in every run; orders here depend on seed and epoch (training/batches.py)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet webdataset==1.0.2 numpy==2.4.6 torch==2.13.0 || exit 77
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import io
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import webdataset

folder = Path(sys.argv[1])
for shard in range(20):
    with tarfile.open(folder / f"{shard:02}.tar", "w") as file:
        for image in range(5):
            entry = tarfile.TarInfo(f"{shard:02}-{image}.cls")
            entry.size = 1
            file.addfile(entry, io.BytesIO(b"3"))
shards = [str(folder / f"{shard:02}.tar") for shard in range(20)]


def epochs(dataset, count=3):
    return [tuple(sample["__key__"] for sample in dataset) for _ in range(count)]


def of_shards(order):
    return tuple(dict.fromkeys(key[:2] for key in order))


print("version: webdataset", version("webdataset"))
print("expected: another order of shards in each epoch, and with a seed the same epochs in every run, shuffle() among them")
seen = {}
for name, options in {
    "shardshuffle": {},
    "shardshuffle and seed": {"seed": 1},
    "shardshuffle, seed and detshuffle": {"seed": 1, "detshuffle": True},
}.items():
    runs = [[of_shards(one) for one in epochs(webdataset.WebDataset(shards, shardshuffle=100, **options))] for _ in range(2)]
    seen[name] = {"orders of shards in 3 epochs": len(set(runs[0])), "runs are equal": runs[0] == runs[1], "shuffled": runs[0][0] != tuple(sorted(runs[0][0]))}
    print("seen:", name, seen[name])
runs = [epochs(webdataset.WebDataset(shards, shardshuffle=False, seed=1).shuffle(100), 1) for _ in range(2)]
print("seen: two runs with one seed and shuffle(100) are equal:", runs[0] == runs[1])
orders = [one["orders of shards in 3 epochs"] for one in seen.values()]
right = orders == [1, 1, 3] and all(one["shuffled"] for one in seen.values()) and runs[0] != runs[1]
raise SystemExit(0 if right and seen["shardshuffle, seed and detshuffle"]["runs are equal"] else 1)
PYTHON
