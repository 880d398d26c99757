#!/bin/sh
# A TIFF of two label bands, as tifffile writes an array of shape (rows, columns, 2), in Pillow.
# Usage: sh findings/pillow-two-band-labels.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import tifffile
from PIL import Image

TOOL = f"Pillow {Image.__version__} (file written by tifffile {tifffile.__version__})"
BEHAVIOUR = """of two bands of 8 bits (class and instance, say) Pillow returns the first as mode L and drops the second without a warning;
  with the second declared as alpha it is mode LA, with 16 bits the file is refused"""
GUESS = "two bands are LA, or an error"

seen = {}
for name, dtype, extra in (("8 bits", np.uint8, "unspecified"), ("8 bits, alpha", np.uint8, "unassalpha"), ("16 bits", np.uint16, "unspecified")):
    bands = np.stack([np.array([[0, 1]]), np.array([[10, 11]])], axis=-1).astype(dtype)
    tifffile.imwrite("mask.tif", bands, photometric="minisblack", planarconfig="contig", extrasamples=[extra])
    try:
        with Image.open("mask.tif") as image:
            seen[name] = (image.mode, np.asarray(image).tolist())
    except Image.UnidentifiedImageError:
        seen[name] = "refused"
EXPECTED = {"8 bits": ("L", [[0, 1]]), "8 bits, alpha": ("LA", [[[0, 10], [1, 11]]]), "16 bits": "refused"}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", GUESS), ("seen", seen)):
    print(f"{title}: {text}")
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
