#!/usr/bin/env bash
# datasets 5.2.0: class_encode_column, which a stratified split asks for, renumbers labels that are numbers: 2 of 100 becomes 12
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6 || exit 77
HF_HOME="$folder/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" - <<'PYTHON'
import datasets
from datasets import Dataset

print("version: datasets", datasets.__version__)


def split(classes):
    """Old and new labels of the training part of a stratified split; how many of them are the same."""
    rows = [label for label in range(classes) for _ in range(10)]
    table = Dataset.from_dict({"label": rows, "as_given": rows})
    try:
        table.train_test_split(test_size=0.1, stratify_by_column="label", seed=0)
    except ValueError as error:
        print(f"{classes} classes:", error)
    train = table.class_encode_column("label").train_test_split(test_size=0.1, stratify_by_column="label", seed=0)["train"]
    pairs = dict(zip(train["as_given"], train["label"]))
    return pairs, sum(old == new for old, new in pairs.items())


print("expected: labels 0 to 9 and 0 to 99 stay as they are: 10 of 10 and 100 of 100 are the same")
seen = {}
for classes in (10, 100):
    pairs, seen[classes] = split(classes)
    print(f"seen: {classes} classes, {seen[classes]} the same;", ", ".join(f"{old} is {pairs[old]}" for old in (1, 2, 3, 9)))
raise SystemExit(0 if seen == {10: 10, 100: 12} and pairs[2] == 12 else 1)
PYTHON
