"""Sources that `histoprep import` reads, one maker a format, with the masks that they stand for.

Each maker writes a source into a folder with the format's own library where there is one, and
returns what has to come out: drawn by that library, or pixel by pixel. Nothing of the code under
test is used. Makers of layouts elsewhere (benchmarks) take them, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

SIDE = 96


@dataclass
class Sample:
    """A source and what it stands for.

    Attributes:
        source: What the command names as SOURCE.
        arguments: The command after `histoprep import`, without `--out`.
        masks: The labels of each image, by its path in the tree without suffix.
        names: Names of the labels.
        groups: Groups by image, where the source has them.
    """

    source: Path
    arguments: list[str]
    masks: dict[str, np.ndarray]
    names: dict[int, str]
    groups: dict[str, str] = field(default_factory=dict)


def tissue(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Return an image with the colours and the grain of stained tissue, uint8 RGB."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = (
        200 + 20 * np.sin(x / 9 + seed),
        140 + 30 * np.cos(y / 7 + seed),
        190 + 15 * np.sin((x + y) / 11),
    )
    image = np.stack(waves, -1) + draw.normal(0, 12, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def save(array: np.ndarray, path: Path, **options: Any) -> Path:
    """Save an array as an image file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def blob(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Return the pixels of one object with a wavy boundary, bool [height, width]."""
    draw = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = draw.integers(height // 4, 3 * height // 4), draw.integers(width // 4, 3 * width // 4)
    radius = draw.integers(min(height, width) // 8, min(height, width) // 4)
    angle = np.arctan2(y - cy, x - cx)
    reach = radius * (1 + 0.25 * np.sin(3 * angle + seed) + 0.1 * np.sin(7 * angle))
    return (y - cy) ** 2 + (x - cx) ** 2 < reach**2


def wavy(seed: int, centre: tuple[float, float], radius: float, corners: int = 24) -> np.ndarray:
    """Return the corners of a wavy outline, float64 [corners, 2], x and y with two decimals."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    reach = radius * (1 + 0.2 * np.sin(3 * turn + seed))
    points = np.stack([centre[0] + reach * np.cos(turn), centre[1] + reach * np.sin(turn)], -1)
    return points.round(2)


def stack_layers(layers: list[tuple[int, np.ndarray]], height: int, width: int) -> np.ndarray:
    """Return labels of areas that lie over each other, the last one on top."""
    labels = np.zeros((height, width), np.int64)
    for label, pixels in layers:
        labels[np.asarray(pixels, bool)] = label
    return labels


def make_coco(folder: Path, num_images: int = 3) -> Sample:
    """Make a COCO file with polygons of one and two parts, both kinds of run lengths and a crowd;
    truth by pycocotools.
    """
    from pycocotools import mask as coco_masks

    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": 1, "name": "tumour", "color": [200, 30, 30]},
            {"id": 4, "name": "stroma"},
        ],
    }
    for number in range(num_images):
        height, width = SIDE, SIDE + 16
        save(tissue(number, height, width), folder / "photos" / f"field_{number}.png")
        content["images"].append(
            {"id": number + 7, "file_name": f"field_{number}.png", "height": height, "width": width}
        )
        runs = coco_masks.encode(np.asfortranarray(blob(number, height, width), np.uint8))
        flat = blob(number + 50, height, width).ravel(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *ends, flat.size]).tolist()
        counts = [0, *counts] if flat[0] else counts
        first, second = wavy(number, (30, 30), 20), wavy(number + 1, (70, 60), 15)
        outlines: list[tuple[int, Any, int]] = [
            (4, [first.ravel().tolist(), second.ravel().tolist()], 0),
            (1, [wavy(number + 2, (45, 40), 18).ravel().tolist()], 0),
            (1, {"size": [height, width], "counts": runs["counts"].decode()}, 0),
            (4, {"size": [height, width], "counts": counts}, 1),
        ]
        for category, segmentation, crowd in outlines:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number + 7,
                    "category_id": category,
                    "segmentation": segmentation,
                    "iscrowd": crowd,
                    "area": 1.0,
                    "bbox": [0, 0, 1, 1],
                }
            )
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return Sample(
        path, ["coco", str(path)], coco_truth(path), {0: "background", 1: "tumour", 4: "stroma"}
    )


def coco_truth(path: Path) -> dict[str, np.ndarray]:
    """Return the labels of each image of a COCO file as pycocotools draws them: crowds below, the
    rest in the order of the file.
    """
    api = COCO(path)
    masks = {}
    for image in api.loadImgs(api.getImgIds()):
        found = api.loadAnns(api.getAnnIds(imgIds=[image["id"]]))
        found.sort(key=lambda annotation: not annotation["iscrowd"])
        layers = [(each["category_id"], api.annToMask(each)) for each in found]
        stem = image["file_name"].rpartition(".")[0]
        masks[stem] = stack_layers(layers, image["height"], image["width"])
    return masks


def make_by_class(folder: Path, num_images: int = 3) -> Sample:
    """Make an image with a mask file for each class beside it: `x.png`, `x_class_tumour.png`."""
    masks = {}
    for number in range(num_images):
        save(tissue(number), folder / f"field_{number}.png")
        layers = [(1, blob(number)), (2, blob(number + 9))]
        for name, (_, pixels) in zip(("stroma", "tumour"), layers, strict=True):
            save(pixels.astype(np.uint8) * 255, folder / f"field_{number}_class_{name}.png")
        masks[f"field_{number}"] = stack_layers(layers, SIDE, SIDE)
    return Sample(
        folder,
        ["combine", str(folder), "--by", "class"],
        masks,
        {0: "background", 1: "stroma", 2: "tumour"},
    )


def make_by_class_folder(folder: Path, num_images: int = 3) -> Sample:
    """Make a folder of images and one of masks for each class: `masks/tumour/x.png`."""
    masks = {}
    for number in range(num_images):
        save(tissue(number), folder / "images" / f"field_{number}.jpg", quality=95)
        layers = [(1, blob(number)), (2, blob(number + 9))]
        for name, (_, pixels) in zip(("stroma", "tumour"), layers, strict=True):
            save(pixels.astype(np.uint8), folder / "masks" / name / f"field_{number}.png")
        masks[f"field_{number}"] = stack_layers(layers, SIDE, SIDE)
    return Sample(
        folder,
        ["combine", str(folder), "--by", "class"],
        masks,
        {0: "background", 1: "stroma", 2: "tumour"},
    )


def make_by_instance(folder: Path, num_images: int = 3) -> Sample:
    """Make a folder for each image with a file for each object: `id/images/id.png`,
    `id/masks/*.png`, as in the Data Science Bowl 2018.
    """
    masks = {}
    for number in range(num_images):
        name = f"{number:04x}c0ffee"
        save(tissue(number), folder / name / "images" / f"{name}.png")
        for part in range(number + 1):
            pixels = blob(10 * number + part)
            save(pixels.astype(np.uint8) * 255, folder / name / "masks" / f"{part:08x}.png")
        parts = [(1, blob(10 * number + part)) for part in range(number + 1)]
        masks[name] = stack_layers(parts, SIDE, SIDE)
    return Sample(
        folder,
        ["combine", str(folder), "--by", "instance"],
        masks,
        {0: "background", 1: "object"},
    )


def make_busi(folder: Path, num_images: int = 2) -> Sample:
    """Make folders of classes with `x (1).png`, `x (1)_mask.png`, `x (1)_mask_1.png`."""
    masks = {}
    for kind in ("benign", "malignant"):
        for number in range(1, num_images + 1):
            stem = f"{kind} ({number})"
            seed = number + len(kind)
            save(tissue(seed), folder / kind / f"{stem}.png")
            save(blob(seed).astype(np.uint8) * 255, folder / kind / f"{stem}_mask.png")
            save(blob(seed + 30).astype(np.uint8) * 255, folder / kind / f"{stem}_mask_1.png")
            parts = [(1, blob(seed)), (1, blob(seed + 30))]
            masks[f"{kind}/{stem}"] = stack_layers(parts, SIDE, SIDE)
    return Sample(
        folder,
        ["combine", str(folder), "--by", "instance"],
        masks,
        {0: "background", 1: "object"},
    )
