#!/bin/sh
# Pillow reads the rows of an uncompressed, turned TIFF that is not square at the wrong width.
# Usage: sh findings/pillow-turned-tiff-scrambled.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from PIL import Image

TOOL = f"Pillow {Image.__version__}"
BEHAVIOUR = """a mask of 2 rows and 3 columns with Orientation 6 comes back as 3 x 2, turned, when the file is compressed; without compression the
  same mask comes back as 2 x 3, its rows cut at the wrong width: labels are next to labels that they never touched, and no error is raised"""
GUESS = "compression changes the size of the file and nothing else"

mask = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
seen = {}
for name, options in {"deflate": {"compression": "tiff_deflate"}, "uncompressed": {}}.items():
    Image.fromarray(mask).save(f"{name}.tif", tiffinfo={274: 6}, **options)
    with Image.open(f"{name}.tif") as image:
        seen[name] = np.asarray(image).tolist()
EXPECTED = {"deflate": [[3, 0], [4, 1], [5, 2]], "uncompressed": [[4, 2, 0], [5, 3, 1]]}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", seen)):
    print(f"{title}: {text}")
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
