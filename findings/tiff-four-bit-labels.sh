#!/bin/sh
# What readers make of the labels of a grey TIFF of four bits, as microscope software and GDAL (NBITS=4) write it.
# Usage: sh findings/tiff-four-bit-labels.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93 rasterio==1.4.4
cd "$folder"
OPENCV_LOG_LEVEL=OFF "$folder/venv/bin/python" - <<'END'
import sys
import warnings

import cv2
import numpy as np
import rasterio
from PIL import Image

warnings.simplefilter("ignore")  # rasterio: the file has no georeference
TOOL = f"Pillow {Image.__version__}, OpenCV {cv2.__version__}, rasterio {rasterio.__version__}"
BEHAVIOUR = """rasterio returns the labels 0 to 7 of a grey mask of four bits; Pillow multiplies them by 17 (two bits: by 85), but not those of one bit;
  OpenCV reads none of it (imread returns None), though it reads one bit, as 0 and 255"""
GUESS = "the depth is a matter of storage: every reader returns the labels, or all of them scale"

seen = {}
for bits in (1, 2, 4):
    labels = np.arange(8, dtype=np.uint8)[None] % 2**bits
    with rasterio.open("mask.tif", "w", driver="GTiff", width=8, height=1, count=1, dtype="uint8", nbits=bits) as file:
        file.write(labels, 1)
    with rasterio.open("mask.tif") as file:
        by_rasterio = file.read(1)
    by_opencv = cv2.imread("mask.tif", cv2.IMREAD_UNCHANGED)
    seen[bits] = {
        "rasterio": sorted(set(by_rasterio.ravel().tolist())),
        "Pillow": sorted(set(np.asarray(Image.open("mask.tif")).astype(int).ravel().tolist())),
        "OpenCV": None if by_opencv is None else sorted(set(by_opencv.ravel().tolist())),
    }
EXPECTED = {
    1: {"rasterio": [0, 1], "Pillow": [0, 1], "OpenCV": [0, 255]},
    2: {"rasterio": [0, 1, 2, 3], "Pillow": [0, 85, 170, 255], "OpenCV": None},
    4: {"rasterio": [0, 1, 2, 3, 4, 5, 6, 7], "Pillow": [0, 17, 34, 51, 68, 85, 102, 119], "OpenCV": None},
}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", seen)):
    print(f"{title}: {text}")
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
