"""Sources that `histoprep import` reads, one maker a format, with the masks that they stand for.

Each maker writes a source into a folder with the format's own library where there is one, and
returns what has to come out: drawn by that library, or pixel by pixel. Nothing of the code under
test is used. Makers of layouts elsewhere (benchmarks) take them, too.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw
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
    with contextlib.redirect_stdout(io.StringIO()):
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


def make_labelme(folder: Path, num_images: int = 3) -> Sample:
    """Make labelme files with every kind of shape, their images beside them, one of them inside its
    file; truth by Pillow, as labelme draws.
    """
    masks = {}
    for number in range(num_images):
        height, width = SIDE, SIDE + 8
        image = save(tissue(number, height, width), folder / f"field_{number}.png")
        bitmap = blob(number, 20, 30)
        encoded = io.BytesIO()
        Image.fromarray(bitmap).save(encoded, "PNG")
        outline = wavy(number, (40, 40), 22)
        shapes: list[dict[str, Any]] = [
            {"label": "stroma", "points": outline.tolist(), "shape_type": "polygon"},
            {"label": "tumour", "points": [[70.5, 60], [50, 75.5]], "shape_type": "rectangle"},
            {"label": "gland", "points": [[30.2, 66], [30, 77.5]], "shape_type": "circle"},
            {
                "label": "tumour",
                "points": [[10, 5], [39, 24]],
                "shape_type": "mask",
                "mask": base64.b64encode(encoded.getvalue()).decode(),
            },
            {"label": "marker", "points": [[3, 3]], "shape_type": "point"},
            {"label": "stroma", "points": outline.tolist()[:2], "shape_type": "line"},
        ]
        drawings = [_paper(height, width) for _ in range(3)]
        drawings[0][1].polygon([(x, y) for x, y in outline], fill=1, outline=1)
        drawings[1][1].rectangle((50, 60, 70.5, 75.5), fill=1, outline=1)
        radius = float(np.hypot(0.2, 11.5))
        circle = (30.2 - radius, 66 - radius, 30.2 + radius, 66 + radius)
        drawings[2][1].ellipse(circle, fill=1, outline=1)
        whole = np.zeros((height, width), bool)
        whole[5:25, 10:40] = bitmap
        areas = [np.asarray(drawing, bool) for drawing, _ in drawings]
        # In the order of the alphabet: gland 1, stroma 2, tumour 3.
        layers = [(2, areas[0]), (3, areas[1]), (1, areas[2]), (3, whole)]
        masks[f"field_{number}"] = stack_layers(layers, height, width)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [{"group_id": None, "flags": {}, **shape} for shape in shapes],
            "imagePath": f"..\\photos\\{image.name}",
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        if number == num_images - 1:
            content["imageData"] = base64.b64encode(image.read_bytes()).decode()
            image.unlink()
        (folder / f"field_{number}.json").write_text(json.dumps(content))
    return Sample(
        folder,
        ["labelme", str(folder)],
        masks,
        {0: "background", 1: "gland", 2: "stroma", 3: "tumour"},
    )


def _paper(height: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (width, height))
    return image, ImageDraw.Draw(image)


def make_cvat(folder: Path, num_images: int = 2) -> Sample:
    """Make an export of CVAT with every kind of area; truth by pycocotools and OpenCV."""
    from pycocotools import mask as coco_masks

    def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
        encoded = coco_masks.frPyObjects([points.ravel().tolist()], height, width)
        return coco_masks.decode(encoded)[..., 0]

    height, width = SIDE, SIDE + 4
    masks, images = {}, []
    for number in range(num_images):
        save(tissue(number, height, width), folder / "images" / "a" / f"field_{number}.png")
        outline = wavy(number, (40, 40), 20)
        bitmap = blob(number, 24, 18)
        flat = bitmap.ravel()
        ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        runs = [*([0] if flat[0] else []), *np.diff(ends).tolist()]
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline)
        images.append(
            f'<image id="{number}" name="a/field_{number}.png" width="{width}" height="{height}">'
            f'<polygon label="tumour" source="manual" occluded="0" points="{points}" z_order="2"/>'
            '<box label="stroma" source="manual" xtl="20.00" ytl="10.50" xbr="70.00" ybr="50.00"'
            ' z_order="0"/>'
            '<box label="necrosis" xtl="60" ytl="60" xbr="80" ybr="70" rotation="90.0"'
            ' z_order="0"/>'
            '<ellipse label="stroma" cx="20.4" cy="70.6" rx="12.4" ry="7.2" rotation="30"'
            ' z_order="1"/>'
            f'<mask label="necrosis" rle="{", ".join(map(str, runs))}" left="60" top="30"'
            ' width="18" height="24" z_order="1"/>'
            '<polyline label="stroma" points="1,1;5,5" z_order="0"/>'
            '<tag label="good"/></image>'
        )
        ellipse = np.zeros((height, width), np.uint8)
        cv2.ellipse(ellipse, (20, 71), (12, 7), 30, 0, 360, 1, -1)
        whole = np.zeros((height, width), bool)
        whole[30:54, 60:78] = bitmap
        box = np.array([[20, 10.5], [70, 10.5], [70, 50], [20, 50]])
        # Of 20 x 10 pixels around (70, 65), turned by a quarter.
        turned = np.array([[65, 55], [75, 55], [75, 75], [65, 75]])
        masks[f"field_{number}"] = stack_layers(
            [
                (2, filled(box, height, width)),
                (3, filled(turned, height, width)),
                (2, ellipse),
                (3, whole),
                (1, filled(outline, height, width)),
            ],
            height,
            width,
        )
    names = {"tumour": "#fa3253", "stroma": "#33ddff", "necrosis": "#24b353"}
    labels = "".join(
        f"<label><name>{name}</name><color>{colour}</color></label>"
        for name, colour in names.items()
    )
    (folder / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta><task><labels>{labels}</labels></task></meta>{''.join(images)}</annotations>"
    )
    return Sample(
        folder,
        ["cvat", str(folder)],
        masks,
        {0: "background", 1: "tumour", 2: "stroma", 3: "necrosis"},
    )


def centres_inside(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return the pixels whose centre lies inside an odd number of rings, bool [height, width]."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y1 == y2:
                continue
            crosses = (y >= min(y1, y2)) & (y < max(y1, y2))
            at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            inside ^= crosses & (at > x)
    return inside


def _slide_objects(
    centre: float, scale: float
) -> list[tuple[str, list[list[np.ndarray]], dict[str, Any]]]:
    """Return objects of a slide: class, polygons (outer ring, holes), entry `classification`."""
    around = (centre, centre)
    beside = (centre + 28 * scale, centre + 30 * scale)
    return [
        # In the order of the file, the large one comes last.
        (
            "Tumor",
            [[wavy(2, around, 12 * scale)]],
            {"name": "Tumor", "color": [200, 0, 0]},
        ),
        (
            "Necrosis",
            [[wavy(3, beside, 6 * scale)], [wavy(4, (centre, beside[1]), 5 * scale)]],
            {"name": "Necrosis", "colorRGB": -13408615},
        ),
        (
            "Stroma",
            [[wavy(1, around, 34 * scale), wavy(5, (centre, centre - 22 * scale), 7 * scale)]],
            {"names": ["Stroma"], "color": [150, 200, 150]},
        ),
    ]


def _feature(polygons: list[list[np.ndarray]], properties: dict[str, Any]) -> dict[str, Any]:
    closed = [[[*ring.tolist(), ring[0].tolist()] for ring in rings] for rings in polygons]
    many = len(closed) > 1
    return {
        "type": "Feature",
        "id": "c0ffee",
        "geometry": {
            "type": "MultiPolygon" if many else "Polygon",
            "coordinates": closed if many else closed[0],
        },
        "properties": properties,
    }


_POINT = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [1, 2]},
    "properties": {"objectType": "annotation"},
}


def make_qupath(folder: Path, num_images: int = 2) -> Sample:
    """Make an image and a GeoJSON file of the same name, with holes, several polygons and a point;
    truth by the centres of pixels, smaller areas on top.
    """
    masks = {}
    order = {"Necrosis": 1, "Stroma": 2, "Tumor": 3}
    for number in range(num_images):
        save(tissue(number), folder / "images" / f"field_{number}.png")
        objects = _slide_objects(44.3 + number, 1.0)
        features = [
            _feature(polygons, {"objectType": "annotation", "classification": entry})
            for _, polygons, entry in objects
        ]
        path = folder / "geojson" / f"field_{number}.geojson"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [*features, _POINT]}))
        layers = [
            (
                order[name],
                centres_inside([ring for rings in polygons for ring in rings], SIDE, SIDE),
            )
            for name, polygons, _ in reversed(objects)
        ]
        masks[f"field_{number}"] = stack_layers(layers, SIDE, SIDE)
    names = {0: "background", 1: "Necrosis", 2: "Stroma", 3: "Tumor"}
    return Sample(folder, ["qupath", str(folder)], masks, names)


def make_qupath_tiles(folder: Path, downsampling: float = 2.0) -> Sample:
    """Make tiles of two slides as QuPath's exporter names them, and a GeoJSON file a slide."""
    order = {"Necrosis": 1, "Stroma": 2, "Tumor": 3}
    masks, groups = {}, {}
    for number in range(2):
        slide = f"case {number}.svs"
        objects = _slide_objects(230.0 + 9 * number, 5.0)
        features = [_feature(polygons, {"classification": entry}) for _, polygons, entry in objects]
        path = folder / f"{slide.removesuffix('.svs')}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        extent = int(SIDE * downsampling)
        for x, y in ((128, 128), (128 + extent, 128), (128, 128 + extent)):
            region = f"x={x},y={y},w={extent},h={extent}"
            stem = f"{slide} [d={downsampling:g},{region}]"
            save(tissue(3 * x + y + number), folder / "tiles" / f"{stem}.png")
            layers = []
            for name, polygons, _ in reversed(objects):
                rings = [(ring - [x, y]) / downsampling for rings in polygons for ring in rings]
                layers.append((order[name], centres_inside(rings, SIDE, SIDE)))
            masks[stem] = stack_layers(layers, SIDE, SIDE)
            groups[stem] = f"case {number}"
    names = {0: "background", 1: "Necrosis", 2: "Stroma", 3: "Tumor"}
    return Sample(folder, ["qupath", str(folder)], masks, names, groups)


def make_panoptic(folder: Path, num_images: int = 3) -> Sample:
    """Make PNG files of segment ids, one of them void, and their JSON file."""
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": 3, "name": "nucleus", "isthing": 1, "color": [220, 20, 60]},
            {"id": 7, "name": "stroma", "isthing": 0, "color": [0, 220, 60]},
        ],
    }
    masks = {}
    for number in range(num_images):
        save(tissue(number), folder / "images" / f"field_{number}.jpg", quality=95)
        areas = [(7, 5, blob(number)), (3, 70_000 + number, blob(number + 20)), (3, 300, blob(9))]
        ids = stack_layers([(segment, pixels) for _, segment, pixels in areas], SIDE, SIDE)
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
        save(colours, folder / "panoptic" / f"field_{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"field_{number}.jpg", "height": SIDE, "width": SIDE}
        )
        segments = [
            {"id": segment, "category_id": category, "area": int((ids == segment).sum())}
            for category, segment, _ in areas
        ]
        content["annotations"].append(
            {"image_id": number, "file_name": f"field_{number}.png", "segments_info": segments}
        )
        labels = np.zeros((SIDE, SIDE), np.int64)
        for category, segment, _ in areas:
            labels[ids == segment] = category
        masks[f"field_{number}"] = labels
    (folder / "panoptic.json").write_text(json.dumps(content))
    arguments = ["panoptic", str(folder / "panoptic.json")]
    return Sample(folder, arguments, masks, {0: "background", 3: "nucleus", 7: "stroma"})


def make_npy_stack(folder: Path, num_images: int = 4) -> Sample:
    """Make stacks as PanNuke has them: float images, six channels of object numbers, types."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    images = np.stack([tissue(number) for number in range(num_images)]).astype(np.float64)
    channels = np.zeros((num_images, SIDE, SIDE, 6), np.float64)
    masks = {}
    for number in range(num_images):
        layers = []
        for channel in (0, 2, 4):
            for part in (1, 2):
                pixels = blob(100 * number + 10 * channel + part)
                channels[number, ..., channel][pixels] = 7 * part + channel
            layers.append((channel + 1, channels[number, ..., channel] > 0))
        channels[number, ..., 5] = ~channels[number, ..., :5].any(-1)
        masks[f"{number:06d}"] = stack_layers(layers, SIDE, SIDE)
    np.save(folder / "images" / "images.npy", images)
    np.save(folder / "images" / "types.npy", np.array(["Breast", "Colon"] * (num_images // 2)))
    np.save(folder / "masks" / "masks.npy", channels)
    names = ("background", "Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
    groups = {f"{number:06d}": ("Breast", "Colon")[number % 2] for number in range(num_images)}
    arguments = ["npy-stack", str(folder), "--types", "group"]
    return Sample(folder, arguments, masks, dict(enumerate(names)), groups)


def make_mat_lizard(folder: Path, num_images: int = 2) -> Sample:
    """Make files with inst_map, class and id, where objects are numbered with gaps."""
    from scipy.io import savemat

    masks = {}
    (folder / "Labels").mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        save(tissue(number), folder / "Lizard_Images1" / f"consep_{number}.png")
        numbers, classes = [4, 9, 2], [2, 6, 3]
        instances = stack_layers([(n, blob(10 * number + n)) for n in numbers], SIDE, SIDE)
        content = {
            "inst_map": instances.astype(np.float64),
            "class": np.array(classes)[:, None],
            "id": np.array(numbers)[:, None],
            "bbox": np.zeros((3, 4)),
        }
        savemat(folder / "Labels" / f"consep_{number}.mat", content)
        labels = np.zeros((SIDE, SIDE), np.int64)
        for identifier, label in zip(numbers, classes, strict=True):
            labels[instances == identifier] = label
        masks[f"consep_{number}"] = labels
    names = ("background", "Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil")
    known = {**dict(enumerate(names)), 6: "Connective tissue"}
    return Sample(folder, ["mat", str(folder)], masks, known)


def make_mat_consep(folder: Path, num_images: int = 2) -> Sample:
    """Make files with inst_map, type_map and inst_type."""
    from scipy.io import savemat

    masks = {}
    (folder / "Labels").mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        save(tissue(number), folder / "Images" / f"train_{number}.png")
        instances = stack_layers([(n, blob(7 * number + n)) for n in (1, 2)], SIDE, SIDE)
        types = np.array([0, 7, 3])[instances]
        content = {
            "inst_map": instances.astype(np.float64),
            "type_map": types.astype(np.float64),
            "inst_type": np.array([[7.0], [3.0]]),
            "inst_centroid": np.zeros((2, 2)),
        }
        savemat(folder / "Labels" / f"train_{number}.mat", content)
        masks[f"train_{number}"] = types
    names = (
        *("background", "other", "inflammatory", "healthy epithelial"),
        *("dysplastic or malignant epithelial", "fibroblast", "muscle", "endothelial"),
    )
    return Sample(folder, ["mat", str(folder)], masks, dict(enumerate(names)))


def make_side_by_side(folder: Path, num_images: int = 3) -> Sample:
    """Make files with the image left and a coloured mask right."""
    masks = {}
    palette = np.array([[0, 0, 0], [0, 160, 0], [255, 0, 0]], np.uint8)
    for number in range(num_images):
        labels = stack_layers([(1, blob(number)), (2, blob(number + 4))], SIDE, SIDE)
        pair = np.concatenate([tissue(number), palette[labels]], 1)
        save(pair, folder / f"pair_{number}.png")
        masks[f"pair_{number}"] = labels
    names = {0: "background", 1: "#00a000", 2: "#ff0000"}
    return Sample(folder, ["side-by-side", str(folder)], masks, names)
