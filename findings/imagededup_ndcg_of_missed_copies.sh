#!/usr/bin/env bash
# imagededup 0.3.3.post2: evaluate's NDCG takes the best order of what was found for the best there is, so that a search that finds one of a picture's nine copies has an NDCG of 1, and one that finds all nine behind one stranger less; met by nobody here
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 || exit 77
"$folder/venv/bin/pip" install --quiet --no-deps imagededup==0.3.3.post2  # torch and torchvision are not needed for this part of it || exit 77
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from imagededup.handlers.metrics.information_retrieval import get_all_metrics  # what evaluate() gives

GROUPS, SIZE = 4, 10
names = [f"{group}-{index}.png" for group in range(GROUPS) for index in range(SIZE)]


def others(name: str) -> list[str]:
    return [other for other in names if other[0] == name[0] and other != name]


def neighbor(name: str) -> str:
    """The other one of a pair: 0 and 1, 2 and 3, and so on."""
    return f"{name[0]}-{int(name[2]) ^ 1}.png"


def stranger(name: str) -> str:
    """The same place in another group, and back."""
    return f"{int(name[0]) ^ 1}{name[1:]}"


truth = {name: others(name) for name in names}
searches = {
    "all nine copies": truth,
    "one of nine": {name: [neighbor(name)] for name in names},
    "a stranger, then all nine": {name: [stranger(name), *others(name)] for name in names},
}
print("version:", {name: version(name) for name in ("imagededup", "numpy")})
print("expected: gain over that of all copies in the first places, by hand")
seen = {}
for title, found in searches.items():
    by_hand = []
    for name in names:
        gain = sum((other in truth[name]) / np.log2(place + 2) for place, other in enumerate(found[name]))
        by_hand.append(gain / sum(1 / np.log2(place + 2) for place in range(len(truth[name]))))
    scores = get_all_metrics(truth, found)
    seen[title] = float(scores["ndcg"]), float(np.mean(by_hand))
    print(f"{title:26} NDCG {seen[title][0]:.3f}, expected {seen[title][1]:.3f}; mean AP {scores['map']:.3f}")
one, late = seen["one of nine"], seen["a stranger, then all nine"]
raise SystemExit(0 if one[0] == 1 and one[1] < 0.3 and late[0] < 0.9 and abs(late[0] - late[1]) < 1e-6 else 1)
PYTHON
