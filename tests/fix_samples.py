"""A data set with every fault that `histoprep fix` acts upon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIZE = 96
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


LABEL_MAP = """\
sources: {0: rest, 1: stroma, 2: tumour}
classes: {0: rest, 1: stroma, 2: tumour}
map: {rest: rest, stroma: stroma, tumour: tumour}
"""


def tissue(number: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Return an image that is like no other: uint8 [height, width, 3]."""
    small = np.random.default_rng(number).integers(60, 220, (12, 12, 3), dtype=np.uint8)
    scaled = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled)


def labels(number: int) -> np.ndarray:
    """Return a mask of labels 0 to 2: uint8 [SIZE, SIZE]."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[11 : 60 + number, 13:71] = 1
    mask[53:91, 41 + number : 88] = 2
    return mask


def with_specks(number: int) -> np.ndarray:
    """Return a mask with two specks: of label 2 in label 0, and of label 0 in label 1."""
    mask = labels(number)
    mask[2:6, 2:6] = 2
    mask[31:33, 31:34] = 0
    return mask


def _exif(orientation: int | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif[315] = "Dr Doe"
    if orientation is not None:
        exif[274] = orientation
    return exif


def _as_jpeg(path: Path, number: int) -> Path:
    Image.fromarray(tissue(number)).save(path, "JPEG", quality=92)
    return path


def _with_text(path: Path, number: int) -> Path:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Patient", "Jane Doe")
    Image.fromarray(tissue(number)).save(path, pnginfo=notes, icc_profile=PROFILE)
    return path


def _with_exif(path: Path, number: int) -> Path:
    jpeg = path.with_suffix(".jpg")
    image = Image.fromarray(tissue(number))
    image.save(jpeg, quality=92, exif=_exif(), icc_profile=PROFILE)
    return jpeg


def _turned(path: Path, number: int) -> Path:
    jpeg = path.with_suffix(".jpg")
    Image.fromarray(tissue(number)).save(jpeg, quality=92, exif=_exif(6), icc_profile=PROFILE)
    return jpeg


def _tiff_with_tags(path: Path, number: int) -> Path:
    tiff = path.with_suffix(".tif")
    Image.fromarray(tissue(number)).save(tiff, tiffinfo={270: "Jane Doe", 315: "Dr Doe"})
    return tiff


IMAGES: dict[str, Callable[[Path, int], Path]] = {
    "misnamed": _as_jpeg,
    "text": _with_text,
    "exif": _with_exif,
    "turned": _turned,
    "tags": _tiff_with_tags,
}


def _sixteen_bits(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint16)).save(path)


def _equal_channels(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(np.stack([mask] * 3, axis=-1)).save(path)


def _floats(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.float32)).save(path.with_suffix(".tif"))


def _wide(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.int32)).save(path.with_suffix(".tif"))


MASKS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "sixteen": _sixteen_bits,
    "channels": _equal_channels,
    "floats": _floats,
    "wide": _wide,
}


def make_faulty(root: Path) -> dict[str, np.ndarray]:
    """Write the data set and return the labels of each mask by its key.

    Keys are `<slide>_<fault>`; slides s1 to s3 are groups of dataset.csv, which names each image
    with its extension.
    """
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rows, masks = ["image,slide,labels"], {}
    faults = [*IMAGES, *MASKS, "specks", "fine-1", "fine-2", "fine-3"]
    for number, fault in enumerate(faults):
        key = f"s{number % 3 + 1}_{fault}"
        image = root / "images" / f"{key}.png"
        if fault in IMAGES:
            image = IMAGES[fault](image, number)
        else:
            Image.fromarray(tissue(number)).save(image)
        mask = with_specks(number) if fault == "specks" else labels(number)
        path = root / "masks" / f"{key}.png"
        if fault in MASKS:
            MASKS[fault](path, mask)
        else:
            Image.fromarray(mask).save(path)
        masks[key] = mask
        rows.append(f"{image.name},s{number % 3 + 1},1 2")
    (root / "dataset.csv").write_text("\r\n".join([*rows, ""]), newline="")
    (root / "label_map.yml").write_text(LABEL_MAP)
    return masks
