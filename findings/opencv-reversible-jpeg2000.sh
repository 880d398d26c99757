#!/bin/sh
# What OpenCV's JPEG 2000 files say of themselves, and what they hold.
# Usage: sh findings/opencv-reversible-jpeg2000.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 opencv-python-headless==5.0.0.93
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'END'
import sys

import cv2
import numpy as np

TOOL = f"OpenCV {cv2.__version__}, NumPy {np.__version__}"
BEHAVIOUR = """imwrite of a mask as .jp2 says "reversible" in the file (transformation 1 of the coding style, the 5/3 wavelet of ISO/IEC 15444-1, Annex A.6.1), and by
  default cuts it at a quarter of the raw bytes: a mask with few boundaries comes back whole, one of many small regions with other labels, most of them never drawn. At
  IMWRITE_JPEG2000_COMPRESSION_X1000 = 1000 both come back whole"""
GUESS = "a file of the reversible transformation is lossless, so that this field, or a trial with one mask, tells whether a tool keeps labels"


def mask(regions, smallest, largest):
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:256, :256]
    labels = np.zeros((256, 256), np.uint8)
    for _ in range(regions):
        row, column = rng.uniform(0, 256, 2)
        tall, wide = rng.uniform(smallest, largest, 2)
        labels[((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1] = 20 * rng.integers(1, 12)
    return labels


def written(labels, options):
    cv2.imwrite("mask.jp2", labels, options)
    data = open("mask.jp2", "rb").read()
    # Behind the marker of the coding style: length, style, progression, layers, component
    # transformation, levels, width, height and style of blocks, transformation.
    transformation = data[data.index(b"\xff\x52") + 13]
    read = cv2.imread("mask.jp2", cv2.IMREAD_UNCHANGED)
    return transformation, int(np.count_nonzero(read != labels)), len(np.unique(read)), len(data)


large, small = mask(11, 2, 60), mask(1500, 2, 6)
whole = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
found = {"few": written(large, []), "many": written(small, []), "many at 1000": written(small, whole)}
seen = {name: {"transformation": facts[0], "changed": facts[1] > 0} for name, facts in found.items()}
seen["many"]["new labels"] = found["many"][2] > len(np.unique(small))
seen["many"]["a quarter"] = abs(found["many"][3] - small.size / 4) < 500
figures = "; ".join(f"{name}: {facts[1]:,} of {small.size:,} pixels changed, {facts[2]} values, {facts[3]:,} bytes" for name, facts in found.items())
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", f"{seen}; {figures}")):
    print(f"{title}: {text}")
EXPECTED = {
    "few": {"transformation": 1, "changed": False},
    "many": {"transformation": 1, "changed": True, "new labels": True, "a quarter": True},
    "many at 1000": {"transformation": 1, "changed": False},
}
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
