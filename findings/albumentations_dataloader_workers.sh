#!/usr/bin/env bash
# albumentations 2.0.8 in a DataLoader: all workers draw the same augmentations, in every epoch again; here pixels are seeded by image
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==5.0.0.93 torch==2.13.0 numpy==2.4.6 || exit 77
cat >"$folder/workers.py" <<'PYTHON'
import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Corners(Dataset):
    """Crops of one image whose pixels hold their own row and column: each item is the corner that was drawn."""

    def __init__(self) -> None:
        rows, columns = np.indices((32, 32), dtype=np.uint8)
        self.image = np.stack([rows, columns, rows], axis=-1)
        self.crop = albumentations.Compose([albumentations.RandomCrop(8, 8)])

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.crop(image=self.image)["image"][0, 0, :2].copy())


def epoch(corners: Corners, workers: int) -> list[list[list[int]]]:
    return [batch.tolist() for batch in DataLoader(corners, batch_size=4, num_workers=workers)]


if __name__ == "__main__":
    print("version: albumentations", albumentations.__version__, "torch", torch.__version__)
    print("expected: a pipeline without a seed draws anew for each image and in each epoch, with workers as without")
    corners = Corners()
    alone = [epoch(corners, 0) for _ in range(2)]
    first, second = (epoch(corners, 2) for _ in range(2))
    print("seen: without workers, the second epoch repeats the first:", alone[0] == alone[1])
    print("seen: two workers, the second epoch repeats the first:", first == second)
    print("seen: two workers, the batches of one repeat those of the other:", first[0::2] == first[1::2])
    raise SystemExit(0 if alone[0] != alone[1] and first == second and first[0::2] == first[1::2] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/workers.py"
