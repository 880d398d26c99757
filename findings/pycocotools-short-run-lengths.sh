#!/bin/sh
# What pycocotools decodes from run lengths that are too short for their image.
# Usage: sh findings/pycocotools-short-run-lengths.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pycocotools==2.0.11
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'END'
import sys
from importlib.metadata import version

import numpy as np
from pycocotools import mask

TOOL = f"pycocotools {version('pycocotools')}, NumPy {np.__version__}"
BEHAVIOUR = """decode() and COCO.annToMask check that run lengths do not go beyond the image, and not that they reach its end: the rest of the mask is
  memory that nobody wrote, here what an earlier array left, with values up to 255; area() of the same run lengths knows nothing of it. Too many run lengths are an error"""
GUESS = "an error, as for too many, or background"

HEIGHT = WIDTH = 300
whole = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
whole[10:20, 10:20] = 1
runs = mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": [3010, 10, 290, 10]}, HEIGHT, WIDTH)
values, most = set(), 0
for fill in (7, 77, 200):
    # An earlier array of the same size, which is freed before.
    earlier = [np.full(HEIGHT * WIDTH, fill, np.uint8) for _ in range(20)]
    del earlier
    decoded = mask.decode(runs)
    values |= set(np.unique(decoded).tolist())
    most = max(most, int(decoded.sum()))
try:
    mask.decode(mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": [3010, 10, HEIGHT * WIDTH]}, HEIGHT, WIDTH))
    too_many = "no error"
except ValueError as error:
    too_many = str(error)
seen = {"more than 0 and 1": bool(values - {0, 1}), "sum beyond area": most > int(mask.area(runs)), "too many": too_many}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", f"{seen}; values {sorted(values)[:8]}")):
    print(f"{title}: {text}")
EXPECTED = {"more than 0 and 1": True, "sum beyond area": True, "too many": "Invalid RLE mask representation"}
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
