"""What audits are measured against, each as a user would write it, and run as a command of its own:

    python -m benchmarks.baselines NAME FOLDER

`competent` is the script of somebody who knows the fast libraries: simplejpeg at 1/8 size, strict,
OpenCV for the mask and numpy.bincount, each distinct mask once. `floor` is what any complete check
has to do: read, decode the JPEG's coefficients, inflate the mask. `naive` is the usual loop.
Images are `*.jpg`, the mask of one is `*_mask.png` beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def naive(folder: Path) -> None:
    """Decode every image and mask whole, and look at their values by numpy."""
    import numpy as np
    from PIL import Image

    for image in sorted(folder.glob("*.jpg")):
        pixels = np.array(Image.open(image).convert("RGB"))
        pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))
        np.unique(np.array(Image.open(mask_of(image))), return_counts=True)


def competent(folder: Path) -> None:
    """Check every image at 1/8 size and count every distinct mask."""
    import cv2
    import numpy as np
    import simplejpeg

    counts: dict[bytes, object] = {}
    for image in sorted(folder.glob("*.jpg")):
        grey = simplejpeg.decode_jpeg(
            image.read_bytes(), colorspace="GRAY", min_height=1, min_width=1, strict=True
        )
        cv2.meanStdDev(grey)
        data = mask_of(image).read_bytes()
        if data not in counts:
            mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            counts[data] = np.bincount(mask.ravel(), minlength=256)


def floor(folder: Path) -> None:
    """Read everything, decode coefficients and inflate every distinct mask."""
    import simplejpeg

    from histoprep.imageio import png

    seen: set[bytes] = set()
    for image in sorted(folder.glob("*.jpg")):
        simplejpeg.decode_jpeg(
            image.read_bytes(), colorspace="GRAY", min_height=1, min_width=1, strict=True
        )
        data = mask_of(image).read_bytes()
        if data not in seen:
            seen.add(data)
            png.inflate(png.read_chunks(data))


def mask_of(image: Path) -> Path:
    """Return the path of an image's mask."""
    return image.with_name(f"{image.stem}_mask.png")


BASELINES: dict[str, Callable[[Path], None]] = {
    "naive": naive,
    "competent": competent,
    "floor": floor,
}

if __name__ == "__main__":
    BASELINES[sys.argv[1]](Path(sys.argv[2]))
