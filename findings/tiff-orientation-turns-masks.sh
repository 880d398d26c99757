#!/bin/sh
# Which readers turn the pixels of a TIFF mask by its Orientation tag, and which flags of OpenCV prevent it.
# Usage: sh findings/tiff-orientation-turns-masks.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93 tifffile==2026.3.3 rasterio==1.4.4
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys
import warnings

import cv2
import numpy as np
import rasterio
import tifffile
from PIL import Image

warnings.simplefilter("ignore")  # rasterio: the file has no georeference
TOOL = f"Pillow {Image.__version__}, OpenCV {cv2.__version__}, tifffile {tifffile.__version__}, rasterio {rasterio.__version__}"
BEHAVIOUR = """a square label mask with Orientation 6 is turned by Pillow on loading, without exif_transpose, and by OpenCV, also under
  IMREAD_UNCHANGED and with IMREAD_IGNORE_ORIENTATION; tifffile and rasterio return the pixels as stored"""
GUESS = "no reader of arrays turns it: Pillow needs ImageOps.exif_transpose, and OpenCV's two flags say that orientation is ignored"

STORED, TURNED = [[0, 1], [2, 3]], [[2, 0], [3, 1]]
tifffile.imwrite("mask.tif", np.array(STORED, np.uint8), photometric="minisblack", extratags=[(274, "H", 1, 6, True)])
with rasterio.open("mask.tif") as opened:
    by_rasterio = opened.read(1)
arrays = {
    "Pillow": np.asarray(Image.open("mask.tif")),
    "OpenCV unchanged": cv2.imread("mask.tif", cv2.IMREAD_UNCHANGED),
    "OpenCV grey, orientation ignored": cv2.imread("mask.tif", cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION),
    "tifffile": tifffile.imread("mask.tif"),
    "rasterio": by_rasterio,
}
seen = {reader: array.tolist() for reader, array in arrays.items()}
EXPECTED = {
    "Pillow": TURNED,
    "OpenCV unchanged": TURNED,
    "OpenCV grey, orientation ignored": TURNED,
    "tifffile": STORED,
    "rasterio": STORED,
}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", seen)):
    print(f"{title}: {text}")
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
