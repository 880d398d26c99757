#!/bin/sh
# How many channels OpenCV returns for a palette TIFF depends on its depth, also under IMREAD_UNCHANGED.
# Usage: sh findings/opencv-palette-tiff-channels.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 opencv-python-headless==5.0.0.93 rasterio==1.4.4
cd "$folder"
OPENCV_LOG_LEVEL=OFF "$folder/venv/bin/python" - <<'END'
import sys
import warnings

import cv2
import numpy as np
import rasterio

warnings.simplefilter("ignore")  # rasterio: the file has no georeference
TOOL = f"OpenCV {cv2.__version__} (files written by rasterio {rasterio.__version__})"
BEHAVIOUR = """under IMREAD_UNCHANGED a mask of two classes with the palette blue, red is one channel of luminances (29 and 76) when it is stored with one bit,
  three channels of colours with four or eight bits, and None with two: the only depth with one channel has no labels in it"""
GUESS = "IMREAD_UNCHANGED returns palette indices, or colours for every depth"

seen = {}
for bits in (1, 2, 4, 8):
    with rasterio.open("mask.tif", "w", driver="GTiff", width=8, height=1, count=1, dtype="uint8", nbits=bits, photometric="palette") as file:
        file.write_colormap(1, {0: (0, 0, 255), 1: (255, 0, 0)})
        file.write(np.arange(8, dtype=np.uint8)[None] % 2, 1)
    array = cv2.imread("mask.tif", cv2.IMREAD_UNCHANGED)
    seen[bits] = None if array is None else array[0, :2].tolist()
EXPECTED = {1: [29, 76], 2: None, 4: [[255, 0, 0], [0, 0, 255]], 8: [[255, 0, 0], [0, 0, 255]]}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", seen)):
    print(f"{title}: {text}")
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
