#!/usr/bin/env bash
# ImageHash 4.3.2: colorhash writes its shares of colors in three bits of which eight levels make six codes, so that a picture 56 % black and one 81 % black are equal while 44 % and 56 % differ by two bits of three; data/duplicates.py correlates pixels
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ImageHash==4.3.2 numpy==2.4.6 pillow==13.0.0 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import imagehash
import numpy as np
from PIL import Image

SIDE = 32


def picture(level: int, levels: int) -> Image.Image:
    """Red, but for black rows on top: a share in the middle of the level, `level + 1/2` of `levels`."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[round(SIDE * (level + 0.5) / levels) :, :, 0] = 255
    return Image.fromarray(pixels)


def hashes(bits: int) -> list[imagehash.ImageHash]:
    """Of pictures of all levels of black; all else about them is equal."""
    return [imagehash.colorhash(picture(level, 2**bits), binbits=bits) for level in range(2**bits)]


print("version:", {name: version(name) for name in ("ImageHash", "numpy", "pillow")})
print("expected: as many codes as there are levels of black: 4 with 2 bits, 8 with 3 (the default), 16 with 4")
distinct = {bits: len({str(code) for code in hashes(bits)}) for bits in (2, 3, 4)}
print("seen:", distinct)
three = hashes(3)
print("the codes of black, from 6 % to 94 %:", ["".join(map(str, code.hash[0].astype(int))) for code in three])
pairs = {"56 % and 81 %": three[4] - three[6], "69 % and 94 %": three[5] - three[7], "44 % and 56 %": three[3] - three[4]}
pairs = {name: int(bits) for name, bits in pairs.items()}
print("bits between pictures that are black by", pairs)
described = {"56 % and 81 %": 0, "69 % and 94 %": 0, "44 % and 56 %": 2}
raise SystemExit(0 if distinct[2] == 4 and distinct[3] == 6 and distinct[4] < 16 and pairs == described else 1)
PYTHON
